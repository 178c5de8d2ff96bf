"""Curves are read back: dots from the braille text, pixels from the picture."""

import math
import subprocess
import sys

import pytest

from framework.plotting import draw_curve, save_curve

BITS = {1: (0, 0), 2: (1, 0), 4: (2, 0), 8: (0, 1), 16: (1, 1), 32: (2, 1), 64: (3, 0), 128: (3, 1)}


def dots(text: str) -> set[tuple[int, int]]:
    """Return (column, row) of every dot, rows counted from the top."""
    rows = [line.split("┤")[1] for line in text.splitlines() if "┤" in line]
    return {
        (2 * x + dx, 4 * y + dy)
        for y, row in enumerate(rows)
        for x, cell in enumerate(row)
        for bit, (dy, dx) in BITS.items()
        if (ord(cell) - 0x2800) & bit
    }


def test_a_line_falls_from_corner_to_corner():
    text = draw_curve([1000 - i for i in range(1001)], title="a line", width=30, height=5)
    lines = text.splitlines()
    assert lines[0] == "a line"
    assert lines[1].startswith("1000 ┤")
    assert lines[5].startswith("   0 ┤")
    assert lines[7].split() == ["0", "1000"]
    assert max(map(len, lines)) == 30
    columns, rows = 2 * (30 - 6), 4 * 5
    found = dots(text)
    assert {x for x, _ in found} == set(range(columns))
    for x, y in found:
        assert abs(y / (rows - 1) - (x + 0.5) / columns) < 1 / rows


def test_a_spike_between_columns_is_seen_and_few_values_are_steps():
    flat = [0.0] * 10_000
    flat[5_003] = 1.0
    found = dots(draw_curve(flat, title="", width=40, height=4))
    (spike,) = {x for x, y in found if y == 0}
    assert {y for x, y in found if x == spike} == set(range(16))
    steps = dots(draw_curve([2.0, 1.0], title="", width=23, height=2))  # 20 columns of 2 dots
    assert {x for x, y in steps if y == 0} == set(range(21)), "the fall is drawn in the second's first column"
    assert {x for x, y in steps if y == 7} == set(range(20, 40))


@pytest.mark.parametrize("values", [[3.0], [3.0] * 50])
def test_constants_are_a_level_line(values):
    found = dots(draw_curve(values, title="", width=20, height=3))
    assert len({y for _, y in found}) == 1
    assert {x for x, _ in found} == set(range(2 * (20 - 3)))


def test_what_is_not_finite_leaves_a_gap():
    text = draw_curve([0.0, math.nan, math.inf, 1.0], title="", width=23, height=2)
    assert {x for x, _ in dots(text)} == {*range(10), *range(30, 40)}
    for values in ([], [math.nan]):
        with pytest.raises(ValueError, match="at least one finite value"):
            draw_curve(values, title="")


def test_picture_shows_its_series(tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "new" / "curves.dat"
    xs = list(range(10))
    save_curve(xs, {"train": xs, "val": xs[::-1]}, path, title="loss", xlabel="step", ylabel="loss")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    image = imread(path, format="png")
    assert image.shape[:2] == (540, 960)
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):
        near = abs(image[..., :3] * 255 - colour).max(axis=-1) < 8
        assert near.any(axis=0).sum() > 700, "a line across the picture"


def test_importing_it_imports_no_matplotlib():
    code = "import sys, framework.plotting; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
