"""The picture of the ratios."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.speed.report import Results, Target, timed
from benchmarks.speed.rows import COMPILED, OURS, OURS_BF16, RAW

OWN, OTHERS, BOUND = "#1f6f8b", "#b8b8b8", "#c0392b"


def draw(results: Results, targets: dict[str, tuple[Target, ...]], path: Path, *, half_rate: bool) -> None:
    """Draw each row's times as shares of the loop by hand, with their intervals and what must be reached."""
    rows = list(timed(results))
    heights = [len(row.seconds) - 1 for row in rows]
    figure = Figure(figsize=(9, 1.0 + 0.34 * sum(heights) + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[h + 1 for h in heights])[:, 0]
    for row, axis in zip(rows, axes, strict=True):
        reference = RAW if RAW in row.seconds else COMPILED
        names = [name for name in row.seconds if name != reference]
        names.sort(key=lambda name: name not in (OURS, OURS_BF16))
        for place, name in enumerate(names):
            found = row.ratio(reference, name)
            color = OWN if name in (OURS, OURS_BF16) else OTHERS
            errors = [[found.median - found.low], [found.high - found.median]]
            axis.barh(place, found.median, color=color, xerr=errors, error_kw={"ecolor": "#444444", "capsize": 2})
            axis.annotate(
                f"{found.median:.2f}", (found.high, place), (5, 0), textcoords="offset points", va="center", fontsize=8
            )
            for target in targets.get(row.name, ()):
                if (target.rival, target.contestant) == (reference, name):
                    axis.plot([target.bound(half_rate)] * 2, [place - 0.45, place + 0.45], color=BOUND, lw=2)
        axis.axvline(1, color="#444444", lw=1, ls="--")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(0, 1.12 * max(row.ratio(reference, name).high for name in (*names, reference)))
        axis.set_title(
            f"{row.title} ({reference}: {row.microseconds(reference):,.0f} µs a step)", loc="left", fontsize=9
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("time of a step, as a share of the loop by hand; red: what must be reached", fontsize=8)
    figure.savefig(path, dpi=120)
