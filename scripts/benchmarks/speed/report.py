"""The tables: what was measured, what must be reached, and whether it was."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Ratio, ratio
from benchmarks.speed.products import is_half_rate
from benchmarks.speed.rows import COMPILED, OURS, OURS_BF16, RAW, RAW_BF16, Row
from benchmarks.speed.start import FRAMEWORK, HELP, TAB, TRAINER

Results = dict[str, Any]
"""By name of a row, what was measured of it, as JSON has it."""


@dataclass(frozen=True)
class Target:
    """What share of a rival's time a contestant must take at most, and may aim at.

    `full` is the share where MKL multiplies float32 matrices at the processor's full rate.
    """

    rival: str
    must: float
    aim: float | None = None
    full: float | None = None
    contestant: str = OURS

    def bound(self, half_rate: bool) -> float:
        """Return the share on this machine."""
        return self.must if half_rate or self.full is None else self.full


TARGETS: dict[str, tuple[Target, ...]] = {
    "mlp64": (Target(RAW, 0.55, 0.45), Target("Lightning", 0.20), Target("Accelerate", 0.33)),
    "mlp512": (Target(RAW, 0.60, 0.50, full=0.85),),
    "one": (Target(RAW, 1.2, 0.5),),
    "convnet": (Target(RAW, 0.85, 0.75),),
    "gpt": (Target(RAW, 0.80, 0.70, full=0.92), Target(RAW, 0.65, 0.55, contestant=OURS_BF16)),
    "loader": (Target(RAW, 1.03, 1.01),),
}
CUDA_TARGETS: dict[str, tuple[Target, ...]] = {
    "mlp64": (Target(RAW, 1 / 8),),
    "convnet": (Target(RAW, 1 / 1.3),),
    "gpt2": (Target(COMPILED, 1.0),),
}
MEMORY = (1.05, 0.95)
START = (1.0, 0.6)
SHELL = (0.5, 0.25)
"""Seconds. What must be reached, and the aim, like the others."""


def verdict(measured: float, must: float, aim: float | None = None) -> str:
    """Say whether a bound was kept."""
    if measured > must:
        return "missed"
    return "met" if aim is None or measured > aim else "met, the aim too"


def steps(results: Results, *, half_rate: bool, targets: Mapping[str, tuple[Target, ...]] = TARGETS) -> str:
    """Return the table of ours against the loop by hand."""
    lines = [
        "| work | ours, µs a step | by hand, µs a step | of its time | must | aim | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in timed(results):
        reference = RAW if RAW in row.seconds else COMPILED
        for contestant in (name for name in (OURS, OURS_BF16) if name in row.seconds):
            known = [t for t in targets.get(row.name, ()) if (t.rival, t.contestant) == (reference, contestant)]
            title = row.title if contestant == OURS else "the same in bf16, of float32 by hand"
            found = row.ratio(reference, contestant)
            lines.append(_line(title, row, contestant, reference, found, known, half_rate))
    return "\n".join(lines)


def peers(results: Results, *, half_rate: bool) -> str:
    """Return the table of ours against the others."""
    lines = ["| work | against | ours, µs a step | theirs | of its time | must | |", "|---|---|---|---|---|---|---|"]
    for row in timed(results):
        for rival in (name for name in row.seconds if name not in (OURS, OURS_BF16, RAW, COMPILED)):
            contestant = OURS_BF16 if rival == RAW_BF16 else OURS
            target = next((t for t in TARGETS.get(row.name, ()) if t.rival == rival), None)
            found = row.ratio(rival, contestant)
            must, said = (f"≤ {target.must:.2f}", verdict(found.median, target.must)) if target else ("", "")
            own, theirs = (_spread(row.seconds[name]) for name in (contestant, rival))
            lines.append(f"| {row.title} | {rival} | {own} | {theirs} | {found} | {must} | {said} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _line(
    title: str, row: Row, contestant: str, reference: str, found: Ratio, known: list[Target], half_rate: bool
) -> str:
    own, theirs = (_spread(row.seconds[name]) for name in (contestant, reference))
    must = aim = said = ""
    if known:
        bound = known[0].bound(half_rate)
        aim = "" if known[0].aim is None else f"{known[0].aim:.2f}"
        must, said = f"≤ {bound:.2f}", verdict(found.median, bound, known[0].aim)
    return f"| {title} | {own} | {theirs} | {found} | {must} | {aim} | {said} |"


def timed(results: Results) -> Iterator[Row]:
    """Yield the rows that are timed by the step."""
    for content in results.values():
        if isinstance(content, dict) and "seconds" in content and "loss" in content:
            yield Row.from_json(content)


def _spread(seconds: list[float]) -> str:
    """Return the median and the middle half, in µs."""
    low, high = (statistics.quantiles(seconds, n=4)[i] for i in (0, 2)) if len(seconds) > 1 else seconds * 2
    return f"{_micro(statistics.median(seconds))} ({_micro(low)}–{_micro(high)})"


def _micro(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def apart(results: Results) -> str:
    """Return the table of what is no step: set-up with what is compiled, evaluation, saving."""
    lines = [
        "| work | | to the first step's end, s: first time, later | evaluation, ms | saving, ms | end, ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in timed(results):
        for contestant in (name for name in row.apart if name in (OURS, OURS_BF16, RAW, COMPILED)):
            found = {what: statistics.median(seconds) for what, seconds in row.apart[contestant].items()}
            what = "to the first step's end"
            first = f"{found[f'{what}, first time']:.2f}, {found[what]:.3f}"
            rest = [f"{1000 * found[name]:.1f}" if name in found else "" for name in ("evaluation", "saving", "end")]
            lines.append(f"| {row.title} | {contestant} | {first} | {' | '.join(rest)} |")
    return "\n".join(lines)


def losses(results: Results) -> str:
    """Return one line a row: what losses the contestants reached."""
    lines = []
    for row in timed(results):
        found = ", ".join(f"{name} {loss:.5f}" for name, loss in row.loss.items())
        lines.append(f"- {row.title}: {found}; at most {row.tolerance:.0%} apart")
    return "\n".join(lines)


def products(results: Results) -> str:
    """Return one line a row: what share of the loop by hand the matrix products of linear layers are."""
    shares = [
        f"{row.title}: {row.products / statistics.median(row.seconds[RAW]):.0%}"
        for row in timed(results)
        if row.products is not None
    ]
    return "Of the raw loop's step, products of matrices: " + "; ".join(shares) + "." if shares else ""


def memory(found: Mapping[str, Mapping[str, Mapping[str, int]]], titles: Mapping[str, str]) -> str:
    """Return the table of peak tensor memory and resident size."""
    lines = [
        "| work | peak, MiB: ours | raw loop | of its peak | must | aim | | resident, MiB: ours | raw loop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, by in found.items():
        own, theirs = by[OURS], by[RAW]
        # what is below a page is no difference
        share = (own["peak"] + 4096) / (theirs["peak"] + 4096)
        peaks = " | ".join(f"{each['peak'] / 2**20:.2f}" for each in (own, theirs))
        residents = " | ".join(f"{each['resident'] / 2**20:.0f}" for each in (own, theirs))
        must, aim = MEMORY
        said = verdict(share, must, aim)
        lines.append(f"| {titles[name]} | {peaks} | {share:.2f} | ≤ {must} | {aim} | {said} | {residents} |")
    return "\n".join(lines)


def start(found: Mapping[str, list[float]]) -> str:
    """Return the table of start-up, help and completion."""
    lines = ["| | s | of the raw script's | must | aim | |", "|---|---|---|---|---|---|"]
    seconds = {name: statistics.median(each) for name, each in found.items()}
    lines.append(f"| raw script: start to first step | {seconds[RAW]:.2f} | | | | |")
    for name in (FRAMEWORK, TRAINER):
        share = ratio(found[name], found[RAW])
        said = verdict(share.median, *START)
        bounds = f"≤ {START[0]} | {START[1]} | {said}"
        lines.append(f"| {name}: start to first step | {seconds[name]:.2f} | {share} | {bounds} |")
    for name in (HELP, TAB):
        bounds = f"≤ {SHELL[0]} s | {SHELL[1]} s | {verdict(seconds[name], *SHELL)}"
        lines.append(f"| {name} | {seconds[name]:.2f} | | {bounds} |")
    return "\n".join(lines)


def growth(tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """Return a table for each thing that grows."""
    parts = []
    for table, content in tables.items():
        lines = [
            f"| {table} | ours, µs a step | raw loop | of its time | our loop with its parts | more than it, µs |",
            "|---|---|---|---|---|---|",
        ]
        for row in map(Row.from_json, content):
            own, theirs, same = (row.seconds[name] for name in (OURS, RAW, "our loop"))
            more = [1e6 * (a - b) for a, b in zip(same, theirs, strict=True)]
            low, high = (statistics.quantiles(more, n=4)[i] for i in (0, 2)) if len(more) > 1 else more * 2
            cells = [row.title, _spread(own), _spread(theirs), str(row.ratio(RAW)), _spread(same)]
            lines.append(f"| {' | '.join(cells)} | {statistics.median(more):.0f} ({low:.0f}–{high:.0f}) |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def about(facts: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    """Return what all was measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["peers"].items())
    text = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; Python {facts['python']}, "
        f"torch {facts['torch']}{f', {versions}' if versions else ''}; {facts['device']}."
    )
    if "MKL" in rates:
        known = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        half = "half" if is_half_rate(dict(rates)) else "the full"
        text += f" Products of matrices, GFLOP/s: {known}: MKL runs float32 at {half} rate."
    if "CUDA bf16" in rates:
        text += f" Products of matrices in bf16: {rates['CUDA bf16']:.0f} TFLOP/s."
    return text


def chip_share(row: Row, rates: Mapping[str, float]) -> str:
    """Return GPT-2's tokens a second, and the operations of its products as a share of the chip's measured rate.

    6 operations a parameter and token, and 12 · layers · width · block for attention, forward and backward.
    """
    tokens = 12 * 1024
    operations = (6 * 124e6 + 12 * 12 * 768 * 1024) * tokens
    seconds = {name: statistics.median(row.seconds[name]) for name in (OURS, COMPILED)}
    parts = [
        f"{name} {tokens / each:,.0f} tokens/s, {operations / each / 1e12 / rates['CUDA bf16']:.0%} of the rate"
        for name, each in seconds.items()
    ]
    return f"{row.title}: {'; '.join(parts)}."
