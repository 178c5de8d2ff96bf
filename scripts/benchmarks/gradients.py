"""Hand-written backward passes against autograd and torch.compile: memory, time, and which of them earn their place."""

from __future__ import annotations

import argparse
import difflib
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pages import DOCS, rewrite
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

from benchmarks.arguments import Parser
from benchmarks.gradient_cases import CASES, OTHER_CASES, TARGETS, TOLERANCE, Case
from benchmarks.measure import Ratio, interleaved, machine, peak_bytes, ratio, saved_bytes
from framework.functions import FUNCTIONS, Call, HandWritten

ROUNDS = 15
SECONDS = 3.0
"""What the rounds of one function may take in each of the two settings, once there are five."""
WIDTH = 16
"""Inputs of the linear layer in front: few, so that it takes little of the time."""

SETTINGS = ("alone", "model")
RIVALS = ("eager", "compile")


@dataclass(frozen=True)
class Numbers:
    """What one contestant needs."""

    peak: int
    """Bytes of the forward and the backward beyond inputs and the gradients that are asked for."""
    saved: int
    """Bytes that the forward keeps for the backward, parameters not counted."""
    seconds: list[float]
    compile_seconds: float


@dataclass(frozen=True)
class Row:
    """A function's numbers, by setting and contestant."""

    name: str
    size: str
    numbers: dict[str, dict[str, Numbers]]

    def share(self, what: str, setting: str, rival: str) -> float:
        """Return what part of the rival's peak, saved bytes or time ours is."""
        ours, theirs = self.numbers[setting]["ours"], self.numbers[setting][rival]
        if what == "time":
            return self.times(setting, rival).median
        # a page more for both, so that next to nothing against nothing is no difference
        return (getattr(ours, what) + 4096) / (getattr(theirs, what) + 4096)

    def times(self, setting: str, rival: str) -> Ratio:
        """Return what part of the rival's time ours is, with its confidence interval."""
        return ratio(self.numbers[setting]["ours"].seconds, self.numbers[setting][rival].seconds)

    def earns_its_place(self) -> bool:
        """Return whether, in both settings, each rival is beaten in memory or time and in neither wins."""
        return all(self._beats(setting, rival) for setting in SETTINGS for rival in RIVALS)

    def _beats(self, setting: str, rival: str) -> bool:
        memory = max(self.share("peak", setting, rival), self.share("saved", setting, rival))
        seconds = self.share("time", setting, rival)
        return min(memory, seconds) <= 1 / TOLERANCE and max(memory, seconds) <= TOLERANCE


class Step:
    """Forward and backward of a function alone, or of one between a linear layer in front and a weighted sum."""

    def __init__(self, function: Callable[..., Any], call: Call, setting: str, *, compiled: bool) -> None:
        first, *rest = call.args
        generator = Generator().manual_seed(1)
        with torch.no_grad():
            outputs = _tuple(function(*call.args, **call.kwargs))
        weights = [torch.randn(output.shape, generator=generator) for output in outputs]
        in_model = setting == "model"
        if in_model:
            features = torch.randn(*first.shape[:-1], WIDTH, generator=generator)
            before = nn.Parameter(torch.randn(first.shape[-1], WIDTH, generator=generator) / WIDTH**0.5)
            self.inputs = [features, before, *rest]
        else:
            self.inputs = [first, *rest]
        self.leaves = [a for a in self.inputs if isinstance(a, Tensor) and a.requires_grad]
        self.cotangents = None if in_model else weights
        self.uncounted = [a for a in self.inputs if isinstance(a, nn.Parameter)]
        self.uncounted += [features, *weights] if in_model else []

        def alone(*arguments: Any) -> Any:
            return function(*arguments, **call.kwargs)

        def model(features: Tensor, before: Tensor, *arguments: Any) -> Tensor:
            outputs = _tuple(function(linear(features, before), *arguments, **call.kwargs))
            return torch.stack([(o * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum()

        chosen = model if in_model else alone
        self.forward = torch.compile(chosen, dynamic=False) if compiled else chosen

    def __call__(self) -> tuple[Tensor, ...]:
        """Return the gradients."""
        return torch.autograd.grad(_tuple(self.forward(*self.inputs)), self.leaves, self.cotangents)

    def numbers(self) -> tuple[int, int]:
        """Return peak and saved bytes."""
        gradients = sum(leaf.nbytes for leaf in self.leaves)
        return peak_bytes(self) - gradients, saved_bytes(lambda: self.forward(*self.inputs), self.uncounted)


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def measure(entry: HandWritten, case: Case, rounds: int) -> Row:
    """Measure a function against its reference, eager and compiled; raise RuntimeError where gradients differ."""
    found: dict[str, dict[str, Numbers]] = {}
    for setting in SETTINGS:
        torch.compiler.reset()
        call = case.make(Generator().manual_seed(0))
        steps = {
            "ours": Step(entry.call, call, setting, compiled=setting == "model"),
            "eager": Step(entry.reference, call, setting, compiled=False),
            "compile": Step(entry.reference, call, setting, compiled=True),
        }
        first = {}
        for name, step in steps.items():
            start = time.perf_counter()
            gradients = step()
            first[name] = time.perf_counter() - start
            if name == "ours":
                expected = gradients
            elif not case.random:
                _check(f"{entry.name}, {setting}, {name}", gradients, expected)
        memory = {name: step.numbers() for name, step in steps.items()}
        times = interleaved(steps, rounds, SECONDS)
        found[setting] = {
            name: Numbers(*memory[name], times[name], max(0.0, first[name] - statistics.median(times[name])))
            for name in steps
        }
    return Row(entry.name, case.size, found)


def _check(where: str, gradients: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(expected, gradients, strict=True):
        error = ((ours - theirs).norm() / theirs.norm()).item()
        if not error < 1e-3:
            raise RuntimeError(f"{where}: gradients differ by a relative {error:.1e}: no number of a wrong one counts.")


def tables(rows: Iterable[Row], about: str) -> str:
    """Return the section of the docs: the numbers alone, in a compiled model, and the targets."""
    rows = list(rows)
    parts = [about]
    for setting, heading in (("alone", "alone"), ("model", "in a compiled model")):
        last = " earns its place |" if setting == "model" else ""
        parts.append(
            f"| {heading} | peak, MiB | saved, MiB | time, ms | of eager's time | of compile's |{last}\n"
            f"|---|---|---|---|---|---|{'---|' if last else ''}\n"
            + "\n".join(_line(row, setting) + (f" {_yes(row.earns_its_place())} |" if last else "") for row in rows)
        )
    parts.append(targets(rows))
    return "\n\n".join(part for part in parts if part)


def _line(row: Row, setting: str) -> str:
    numbers = row.numbers[setting].values()
    cells = [
        f"`{row.name}` {row.size}",
        " / ".join(_short(n.peak / 2**20) for n in numbers),
        " / ".join(_short(n.saved / 2**20) for n in numbers),
        " / ".join(_short(1000 * statistics.median(n.seconds)) for n in numbers),
        str(row.times(setting, "eager")),
        str(row.times(setting, "compile")),
    ]
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def targets(rows: Iterable[Row]) -> str:
    """Return one line for each target of the functions measured, or nothing."""
    by_name = {row.name: row for row in reversed(list(rows))}
    lines = []
    for target in TARGETS:
        if row := by_name.get(target.name):
            share = row.share(target.what, "alone", target.rival)
            measured = str(row.times("alone", target.rival)) if target.what == "time" else f"{share:.3f}"
            lines.append(
                f"| `{target.name}` | {target.what} | {target.bound:.3f} of {target.rival}'s | {measured} "
                f"| {_yes(share <= target.bound)} |"
            )
    if not lines:
        return ""
    return "| target, alone | of | at most | measured | met |\n|---|---|---|---|---|\n" + "\n".join(lines)


def description(rows: list[Row], facts: dict[str, str]) -> str:
    """Return what the numbers were measured on and how often."""
    counts = [len(n.seconds) for row in rows for setting in row.numbers.values() for n in setting.values()]
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; torch {facts['torch']}, "
        f"Python {facts['python']}; float32; {min(counts)} to {max(counts)} rounds."
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; exit with code 2 and one message where they are wrong."""
    parser = Parser("gradients", __doc__, ROUNDS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions to measure; all, where none is named")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="measure nothing: take the numbers that --json wrote"
    )
    options = parser.checked(arguments)
    if options.source and not options.source.is_file():
        parser.error(f"--from reads a file that --json wrote, got {options.source}.")
    measured = [name for name in CASES if name in FUNCTIONS]
    for name in options.names:
        if name not in measured:
            near = difflib.get_close_matches(name, measured, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(measured)}."
            parser.error(f"no function to measure is called {name!r}: {hint}")
    options.names = [name for name in measured if name in options.names or not options.names]
    if options.write and len(options.names) < len(measured):
        parser.error("--write makes the whole table: leave out the names.")
    return options


def main(arguments: list[str]) -> int:
    """Measure, print, and write what was asked for."""
    options = parse(arguments)
    if options.source:
        content = json.loads(options.source.read_text(encoding="utf-8"))
        rows, facts = [_from_json(row) for row in content["functions"]], content["machine"]
    else:
        rows, facts = _measure_all(options.names, options.rounds), machine()
    section = tables(rows, description(rows, facts))
    print(f"\n{section}\n\nours / eager / compile in each cell.")
    if unmeasured := sorted(FUNCTIONS.keys() - CASES.keys()):
        print(f"Without a size to measure: {', '.join(unmeasured)}.")
    if options.json:
        content = {"machine": facts, "tolerance": TOLERANCE, "functions": [_as_json(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        rewrite(DOCS / "gradients.md", "bench: gradients", section)
    return 0


def _measure_all(names: list[str], rounds: int) -> list[Row]:
    start = time.perf_counter()
    rows = []
    for name in names:
        begun = time.perf_counter()
        cases = [cases[name] for cases in (CASES, OTHER_CASES) if name in cases]
        made = [measure(FUNCTIONS[name], case, rounds) for case in cases]
        rows += made
        compiling = sum(n.compile_seconds for row in made for setting in row.numbers.values() for n in setting.values())
        took = time.perf_counter() - begun
        print(f"{name}: {took:.1f} s, of them the first steps with what they compile {compiling:.1f} s", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    return rows


def _from_json(row: dict[str, Any]) -> Row:
    numbers = {
        setting: {name: Numbers(**found) for name, found in contestants.items()}
        for setting, contestants in row["numbers"].items()
    }
    return Row(row["name"], row["size"], numbers)


def _as_json(row: Row) -> dict[str, Any]:
    shares = {
        f"{setting} {rival}": {what: row.share(what, setting, rival) for what in ("peak", "saved", "time")}
        for setting in SETTINGS
        for rival in RIVALS
    }
    return {**asdict(row), "shares": shares, "earns_its_place": row.earns_its_place()}
