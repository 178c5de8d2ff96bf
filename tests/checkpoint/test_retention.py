import pytest

from framework.checkpoint import CheckpointOptions
from framework.checkpoint.retention import Entry, best, kept, last
from framework.errors import ConfigError

SCORED = [Entry(1, 5.0, True), Entry(2, 3.0, True), Entry(3), Entry(4, 4.0), Entry(5, 3.0), Entry(6)]


@pytest.mark.parametrize(
    ("entries", "options", "mode", "expected"),
    [
        ([], {}, "min", set()),
        ([Entry(7)], {}, "min", {7}),
        (SCORED, {}, "min", {2, 6}),
        (SCORED, {"keep_last": 3}, "min", {2, 4, 5, 6}),
        (SCORED, {"keep_last": 9}, "min", {1, 2, 3, 4, 5, 6}),
        (SCORED, {"keep_best": 2}, "min", {2, 5, 6}),
        (SCORED, {"keep_best": 3}, "min", {2, 4, 5, 6}),
        # the better score of the other direction, and what `best` points at
        (SCORED, {}, "max", {1, 2, 6}),
        (SCORED[::-1], {"keep_best": 2}, "max", {1, 2, 4, 6}),
        # nothing was ever the best: the score says, else the last
        ([Entry(1, 2.0), Entry(2, 1.0), Entry(3)], {}, "max", {1, 3}),
        ([Entry(1), Entry(2), Entry(3)], {}, "min", {3}),
    ],
)
def test_what_stays(entries, options, mode, expected):
    assert kept(entries, CheckpointOptions(**options), mode) == expected


def test_where_the_links_point():
    assert (last(SCORED), best(SCORED, "min")) == (6, 2)
    assert best([Entry(1), Entry(2, -1.0), Entry(3, 0.0), Entry(4)], "max") == 3
    assert best([Entry(1), Entry(2)], "min") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_last": 0}, r"checkpoint.keep_last must be .*>= 1, got 0"),
        ({"every_n_steps": 2.5}, r"checkpoint.every_n_steps must be"),
        ({"every_minutes": 0}, r"checkpoint.every_minutes must be"),
    ],
)
def test_options_have_ranges(options, message):
    with pytest.raises(ConfigError, match=message):
        CheckpointOptions(**options)
