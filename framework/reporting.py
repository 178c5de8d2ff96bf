"""What a command prints beside the progress bar: notes, how a run ended, a sweep's table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from torch import Tensor

from framework.backprop.explanation import Explanation
from framework.callbacks.notes import note as note
from framework.checkpoint.listing import Listed
from framework.history import Result, Status

STYLES: dict[Status, str] = {
    "finished": "green",
    "stopped_early": "green",
    "interrupted": "yellow",
    "preempted": "yellow",
    "failed": "red",
}

READABLE = 32
"""The numbers that a tensor may have for them to be printed one by one."""


def print_summary(result: Result, directory: Path | None, console: Console | None = None) -> None:
    """Print how a run ended, its best and test scores, its verdict, and where everything was written."""
    console = console or Console()
    table = Table.grid(padding=(0, 2))
    table.add_row(_status(result.status), Text(result.error or result.reason))
    counts = f"{result.epochs:,} epochs, {result.steps:,} steps, {result.samples:,} samples"
    table.add_row("trained", f"{counts} in {result.seconds:,.1f} s")
    if result.time:
        table.add_row("time", Text("  ".join(f"{name} {share:.1%}" for name, share in result.time.items())))
    if result.best is not None:
        moment = f"step {result.best.step:,}, epoch {result.best.epoch:,}: "
        table.add_row("best", Text(moment + _scores(result.best.scores)))
    if result.test:
        table.add_row("test", Text(_scores(result.test)))
    console.print(table)
    if result.verdict:
        console.print(Text(result.verdict))
    if directory is not None:
        _print_place(directory, console)


def print_sweep(
    rows: Sequence[tuple[Sequence[str], Path, Mapping[str, Any] | None]], console: Console | None = None
) -> None:
    """Print the results of a sweep: a row for each job in the order they ran, the errors, and the folder.

    A job is its overrides, its folder and the content of its result.json, None where it left none. Overrides that
    all jobs share stand below the table. The scores are the loss on the validation set, or without one on the
    training set, at the best step, and those on the test set.
    """
    console = console or Console()
    given = [list(overrides) for overrides, _, _ in rows]
    shared = [word for word in given[0] if len(rows) > 1 and all(word in overrides for overrides in given)]
    results = [result or {"status": "failed", "error": "no result"} for _, _, result in rows]
    scores = [_job_scores(result) for result in results]
    names = list(dict.fromkeys(name for values in scores for name in values))
    folders = [directory.absolute() for _, directory, _ in rows]
    home = Path(os.path.commonpath([folder.parent for folder in folders]))
    jobs = [str(folder.relative_to(home)) for folder in folders]
    table = Table(box=None, pad_edge=False)
    for name in ("job", "overrides", "status"):
        table.add_column(name, overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for job, overrides, result, values in zip(jobs, given, results, scores, strict=True):
        own = " ".join(word for word in overrides if word not in shared)
        numbers = [_number(values[name]) if name in values else "" for name in names]
        table.add_row(Text(job), Text(own), _status(result["status"]), *numbers)
    console.print(table)
    if shared:
        console.print(Text(f"every job: {' '.join(shared)}"), soft_wrap=True)
    for job, result in zip(jobs, results, strict=True):
        if result.get("error"):
            console.print(Text(f"{job}: {result['error']}"), soft_wrap=True)
    _print_place(home, console)


def print_explanation(explanation: Explanation, console: Console | None = None) -> None:
    """Print the terms of both passes: the values of a network so small that they can be read, else their norms."""
    console = console or Console()
    terms = [*explanation.forward, *explanation.backward]
    small = all(term.value.numel() <= READABLE for term in terms)
    for title, part in (("forward", explanation.forward), ("backward", explanation.backward)):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("", "is", "shape", "value" if small else "norm", *(() if small else ("largest",))):
            table.add_column(name, justify="right" if name in ("norm", "largest") else "left")
        for term in part:
            value = term.value.detach()
            shape = "×".join(map(str, value.shape)) or "1"
            numbers = [_values(value)] if small else [f"{value.norm():.4g}", f"{value.abs().max():.4g}"]
            table.add_row(Text(term.symbol), Text(term.formula), shape, *map(Text, numbers))
        console.print(table)


def print_checkpoints(rows: Sequence[Listed], console: Console | None = None) -> None:
    """Print a run's checkpoints: a row each, and what is wrong with those that are corrupt."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    for name in ("step", "score", "size", "links", "verified"):
        table.add_column(name, justify="right" if name in ("step", "score", "size") else "left")
    for row in rows:
        score = "" if row.score is None else f"{row.score:.4g}"
        whole = Text("no", style="red") if row.problem else Text("yes", style="green")
        table.add_row(f"{row.step:,}", score, decimal(row.size), ", ".join(row.links), whole)
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(Text(row.problem), soft_wrap=True)


def _values(value: Tensor) -> str:
    """Return a tensor's numbers, a row a line."""
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    return "\n".join("  ".join(f"{number: .4f}" for number in row) for row in rows.tolist())


def _job_scores(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the scores that tell one job from another, by name."""
    best = (result.get("best") or {}).get("scores", {})
    losses = {name: best[name] for name in ("loss/val", "loss/train") if name in best}
    test = {f"{name}/test": value for name, value in (result.get("test") or {}).items()}
    return dict(list(losses.items())[:1]) | test


def _print_place(directory: Path, console: Console) -> None:
    """Print the folder, relative to the working folder where it is inside, as a command to look at it."""
    whole, here = directory.absolute(), Path.cwd()
    place = str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
    console.print(Text(f"written to {place}"), soft_wrap=True)
    console.print(Text(f"look at it: tensorboard --logdir {shlex.quote(place)}"), soft_wrap=True)


def _status(status: Status) -> Text:
    return Text(status.replace("_", " "), style=STYLES[status])


def _scores(scores: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {_number(value)}" for name, value in scores.items() if "/train_slice" not in name)


def _number(value: float | None) -> str:
    """Return four digits; JSON, which has no nan, says null."""
    return "nan" if value is None else f"{value:.4g}"
