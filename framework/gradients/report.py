"""What a check found: a row for each tensor, a row for each hostile context, where the fault is, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Verdict = Literal["ok", "unused", "kink", "surrogate", "wrong", "missing", "not finite"]
"""What values say of a gradient. `unused`: none, and none is due. `kink`: the function is not smooth there, so that
there is nothing to compare with. `surrogate`: it passed through a function that declares its gradient to be no
derivative."""

Outcome = Literal["ok", "wrong", "refused", "skipped"]
"""How a context went. `refused`: an exception said that it is not supported, so no number is wrong."""

STYLES = {"ok": "green", "kink": "yellow", "surrogate": "yellow", "unused": "dim", "refused": "yellow"}
FAILED = ("wrong", "missing", "not finite")


@dataclass(frozen=True)
class Row:
    """One tensor: the derivative along a direction by backpropagation and from values, and their relative difference.

    `step` is the stencil's distance that settled it. With every weight checked, `worst` is the index of the one with
    the largest difference, which the numbers are of.
    """

    name: str
    shape: tuple[int, ...]
    verdict: Verdict
    analytic: float = 0.0
    numeric: float = 0.0
    error: float = 0.0
    step: float = 0.0
    worst: tuple[int, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Context:
    """One hostile context: whether gradients stayed what the values had proven, what differed, how to mend it."""

    name: str
    verdict: Outcome
    what: str = ""
    mend: str = ""


@dataclass
class Report:
    """All that was found of one function or module; `failures` are sentences, one for each thing that is wrong."""

    subject: str
    rows: list[Row] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    where: str = ""
    cause: str = ""
    note: str = ""
    numerical_passes: int = 0
    numerical_seconds: float = 0.0
    backprop_passes: int = 0
    backprop_seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        return [_sentence(r) for r in self.rows if r.verdict in FAILED] + [
            f"{c.name}: {c.what}" for c in self.contexts if c.verdict == "wrong"
        ]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    def explain(self) -> str:
        """Return what is wrong, where, by how much, and the usual cause, as text."""
        lines = [f"gradients of {self.subject} are wrong:", *(f"  {f}" for f in self.failures)]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.cause:
            lines.append(f"  usual cause: {self.cause}")
        lines += [
            f"  mend: {m}" for m in dict.fromkeys(c.mend for c in self.contexts if c.verdict == "wrong" and c.mend)
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that are not finite are null."""
        mapping: dict[str, Any] = {"subject": self.subject, "ok": self.ok, "failures": self.failures}
        for name, value in asdict(self).items():
            mapping[name] = value
        for row in mapping["rows"]:
            row.update({k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)})
        return mapping


def print_reports(reports: Sequence[Report], console: Console | None = None) -> None:
    """Print a report whole; of several, a line each, and whole those where something is wrong."""
    console = console or Console()
    if len(reports) > 1:
        table = Table(box=None, pad_edge=False)
        for name in ("checked", "tensors", "off by", "contexts", ""):
            table.add_column(name, justify="right" if name in ("tensors", "off by", "contexts") else "left")
        for report in reports:
            table.add_row(*_summary(report))
        console.print(table)
    for report in reports:
        if len(reports) == 1 or not report.ok:
            print_report(report, console)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a table of the tensors, one of the contexts, what is wrong and where, and the cost of both methods."""
    console = console or Console()
    table = Table(title=Text(report.subject, style="bold"), title_justify="left", box=None, pad_edge=False)
    table.add_column("tensor", no_wrap=True)
    for name in ("shape", "backprop", "numerical", "off by"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in report.rows:
        place = "" if row.worst is None else f"[{','.join(map(str, row.worst))}]"
        shape = "×".join(map(str, row.shape)) or "1"
        numbers = (f"{row.analytic:.4g}", f"{row.numeric:.4g}", f"{row.error:.0e}")
        table.add_row(Text(row.name + place), shape, *numbers, _verdict(row.verdict, row.note))
    console.print(table)
    for verdict, words in (("ok", "right when"), ("skipped", "left out"), ("refused", "refused")):
        reasons: dict[str, list[str]] = {}
        for context in report.contexts:
            if context.verdict == verdict:
                reasons.setdefault(context.what, []).append(context.name)
        if reasons:
            named = "; ".join(", ".join(names) + (f" ({why})" if why else "") for why, names in reasons.items())
            console.print(Text(f"{words}: ", style=STYLES.get(verdict, "dim")).append(named, style="dim"))
    if report.note:
        console.print(Text(report.note, style="yellow"))
    if not report.ok:
        console.print(Text(report.explain(), style="red"))
    times = report.numerical_seconds / max(report.backprop_seconds, 1e-9)
    console.print(
        Text(
            f"numerical: {report.numerical_passes:,} forward passes, {report.numerical_seconds:.2f} s; "
            f"backpropagation: {report.backprop_passes:,} forward and backward, {report.backprop_seconds:.4f} s, "
            f"{times:,.0f} times faster"
        )
    )


def _summary(report: Report) -> list[Text]:
    tried = [c for c in report.contexts if c.verdict in ("ok", "wrong")]
    numbers = (str(len(report.rows)), f"{max(r.error for r in report.rows):.0e}", str(len(tried)))
    return [Text(report.subject), *map(Text, numbers), _verdict("ok" if report.ok else "wrong", "")]


def _verdict(verdict: str, note: str) -> Text:
    text = Text(verdict, style=STYLES.get(verdict, "red"))
    return text.append(f"  {note}", style="dim") if note else text


def _sentence(row: Row) -> str:
    place = "" if row.worst is None else f"[{', '.join(map(str, row.worst))}]"
    if row.verdict == "missing":
        return f"{row.name}{place}: no gradient, where values say {row.numeric:.6g}"
    if row.verdict == "not finite":
        return f"{row.name}{place}: its gradient is not finite"
    return (
        f"{row.name}{place}: backpropagation gives {row.analytic:.6g}, values say {row.numeric:.6g} "
        f"(relative difference {row.error:.1e})"
    )
