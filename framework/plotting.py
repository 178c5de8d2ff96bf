"""Curves in the terminal and as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot in a braille character (Unicode block 2800), 4 rows of 2."""


def draw_curve(values: Sequence[float], *, title: str, width: int = 72, height: int = 16) -> str:
    """Return a curve over 0, 1, 2, ... as lines of text: braille dots, at most `width` characters wide.

    Every extreme shows, however many values share a column; values that are not finite leave a gap.
    Raises ValueError where no value is finite.
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        raise ValueError(f"a curve needs at least one finite value, got {len(values)} values and none finite.")
    low, high = min(finite), max(finite)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(len(label) for label in labels)
    cells = _braille(values, (low, high), width - margin - 2, height)
    lines = [f"{label:>{margin}} ┤{row}" for label, row in zip(labels, cells, strict=True)]
    last = str(len(values) - 1)
    axis = f"{'':{margin}} └{'─' * len(cells[0])}"
    return "\n".join([title, *lines, axis, f"{'':{margin}}  0{last:>{len(cells[0]) - 1}}"])


def _braille(values: Sequence[float], span: tuple[float, float], width: int, height: int) -> list[str]:
    """Return the rows of the canvas: each column of dots joins its values' extremes and the value before."""
    low, high = span
    scale = (4 * height - 1) / ((high - low) or 1.0)
    columns, count = 2 * width, len(values)
    cells = [[0] * width for _ in range(height)]
    previous: list[float] = []
    for x in range(columns):
        start = x * count // columns
        chunk = values[start : max(start + 1, (x + 1) * count // columns)]
        finite = [v for v in chunk if math.isfinite(v)]
        if finite:
            joined = [*finite, *previous]
            top, bottom = (round((high - v) * scale) for v in (max(joined), min(joined)))
            for y in range(top, bottom + 1):
                cells[y // 4][x // 2] |= BRAILLE[y % 4][x % 2]
        previous = finite[-1:]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


def save_curve(
    xs: Sequence[float],
    series: Mapping[str, Sequence[float]],
    path: Path,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """Draw named series over one axis into a PNG file, whatever the path ends with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    for name, ys in series.items():
        axes.plot(xs, ys, label=name)
    if len(series) > 1:
        axes.legend()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
