"""The benchmarks' own measuring, against what is known beforehand."""

import functools
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from framework.functions import FUNCTIONS, Call

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
from benchmarks import backprop, gradients, measure  # noqa: E402
from benchmarks.gradient_cases import Case  # noqa: E402
from pages import rewrite  # noqa: E402

MIB = 2**20


def test_peak_is_the_most_held_at_once():
    def step():
        first = torch.empty(MIB, dtype=torch.uint8)
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.empty(MIB // 2, dtype=torch.uint8)
        del second, third

    assert measure.peak_bytes(step) == 3 * MIB


def test_peak_counts_temporaries_inside_an_operation():
    values = torch.zeros(512, 512)
    assert measure.peak_bytes(lambda: values.logsumexp(1)) >= values.nbytes


def test_peak_is_not_lowered_by_what_was_held_before():
    held = [torch.empty(4 * MIB, dtype=torch.uint8)]

    def step():
        held.clear()
        held.append(torch.empty(3 * MIB, dtype=torch.uint8))

    assert measure.peak_bytes(step) == 3 * MIB


def test_saved_counts_each_storage_once():
    x, y = (torch.randn(100, requires_grad=True) for _ in range(2))
    assert measure.saved_bytes(lambda: x * y) == 800
    assert measure.saved_bytes(lambda: x * x + x * y) == 800
    assert measure.saved_bytes(lambda: (x * y).sigmoid()) == 1200
    assert measure.saved_bytes(lambda: x * y, uncounted=[y]) == 400
    assert measure.saved_bytes(lambda: x + y) == 0


def test_ratio_is_of_the_same_rounds():
    """Where one round is slow for both, the ratio does not move."""
    found = measure.ratio([1.0, 10.0, 1.0, 1.0], [2.0, 20.0, 2.0, 2.0])
    assert (found.median, found.low, found.high) == (0.5, 0.5, 0.5)


def test_interval_is_about_the_median():
    spread = [0.8, 0.9, 1.0, 1.1, 1.2]
    found = measure.ratio(spread, [1.0] * 5)
    assert found.median == 1.0
    assert 0.8 <= found.low < 1.0 < found.high <= 1.2


@pytest.mark.parametrize(("rounds", "seconds", "expected"), [(3, 0.0, 3), (9, 0.0, 5), (9, 60.0, 9)])
def test_steps_take_turns(rounds: int, seconds: float, expected: int):
    calls = []
    steps = {name: functools.partial(calls.append, name) for name in "ab"}
    times = measure.interleaved(steps, rounds, seconds)
    assert [len(t) for t in times.values()] == [expected, expected]
    assert "".join(calls) == "abba" * (expected // 2) + "ab" * (expected % 2)


def row(**changes: tuple[float, float, float]) -> gradients.Row:
    """Return a row in which ours needs the same as its rivals but for (peak, saved, time) as parts of one rival's."""

    def numbers(peak: float, saved: float, seconds: float) -> gradients.Numbers:
        return gradients.Numbers(int(peak * 100 * MIB), int(saved * 100 * MIB), [seconds] * 5, 0.0)

    found = {}
    for setting in gradients.SETTINGS:
        found[setting] = {"ours": numbers(1, 1, 1)}
        for rival in gradients.RIVALS:
            ours = changes.get(f"{setting}_{rival}", changes.get("all", (1, 1, 1)))
            found[setting][rival] = numbers(*(1 / part for part in ours))
    return gradients.Row("relu", "1", found)


@pytest.mark.parametrize(
    ("changes", "earned"),
    [
        ({}, False),
        ({"all": (0.5, 0.5, 1.0)}, True),
        ({"all": (1.0, 1.0, 0.5)}, True),
        ({"all": (0.5, 1.0, 1.0)}, False),
        ({"all": (0.5, 0.5, 1.1)}, False),
        ({"all": (1.0, 1.1, 0.5)}, False),
        ({"all": (0.97, 0.97, 0.97)}, False),
        ({"all": (0.5, 0.5, 1.0), "model_compile": (1.0, 1.0, 0.5)}, True),
        ({"all": (0.5, 0.5, 0.5), "model_compile": (1.0, 1.0, 1.0)}, False),
        ({"all": (0.5, 0.5, 0.5), "alone_eager": (0.5, 0.5, 1.2)}, False),
    ],
)
def test_a_place_is_earned_against_every_rival(changes, earned: bool):
    assert row(**changes).earns_its_place() is earned


def test_next_to_nothing_is_no_difference():
    numbers = {
        name: gradients.Numbers(peak, 0, [1.0], 0.0) for name, peak in [("ours", 64), ("eager", 4), ("compile", 0)]
    }
    found = gradients.Row("relu", "1", dict.fromkeys(gradients.SETTINGS, numbers))
    assert found.share("peak", "alone", "compile") == pytest.approx(1, abs=0.02)
    assert found.share("saved", "alone", "eager") == 1


def test_targets_that_are_bytes_are_met():
    """The peak of InfoNCE and the saved bytes of focal, as parts of eager autograd's."""
    for name, what, bound in [("info_nce", "peak", 1 / 8), ("focal", "saved", 1 / 6)]:
        call = gradients.CASES[name].make(torch.Generator().manual_seed(0))
        ours, theirs = (
            gradients.Step(function, call, "alone", compiled=False).numbers()[what == "saved"]
            for function in (FUNCTIONS[name].call, FUNCTIONS[name].reference)
        )
        assert 0 < ours <= bound * theirs


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function of a size that takes no time, compiled without a compiler."""

    def make(generator: torch.Generator) -> Call:
        inputs = torch.randn(6, 4, generator=generator).requires_grad_()
        return Call((inputs, nn.Parameter(torch.randn(3, 4, generator=generator))))

    monkeypatch.setattr(gradients, "CASES", {"linear": Case("6 × 4 → 3", make)})
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("tiny")
def test_measures_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    page = tmp_path / "gradients.md"
    shutil.copy(ROOT / "docs" / "gradients.md", page)
    before = page.read_text()
    monkeypatch.setattr(gradients, "DOCS", page.parent)
    assert bench.main(["gradients", "--rounds", "2", "--write", "--json", str(tmp_path / "n.json")]) == 0
    printed = capsys.readouterr().out
    written = page.read_text()
    start, end = "<!-- bench: gradients -->\n", "<!-- end -->"
    head, _, rest = before.partition(start)
    section = written.removeprefix(head + start).partition(end)[0]
    assert written == head + start + section + end + rest.partition(end)[2]
    assert section.strip() in printed
    assert f"torch {torch.__version__}" in section
    content = json.loads((tmp_path / "n.json").read_text())
    (linear,) = content["functions"]
    assert linear["name"] == "linear"
    for setting in gradients.SETTINGS:
        for contestant in ("ours", *gradients.RIVALS):
            numbers = linear["numbers"][setting][contestant]
            assert len(numbers["seconds"]) == 2
            assert numbers["saved"] == 6 * 4 * 4
    assert "earns its place" in section
    assert bench.main(["gradients", "--from", str(tmp_path / "n.json")]) == 0
    assert section.strip() in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_a_wrong_gradient_gets_no_number():
    entry = FUNCTIONS["linear"]
    changes = {**entry.__dict__, "reference": lambda inputs, weight: 2 * nn.functional.linear(inputs, weight)}
    with pytest.raises(RuntimeError, match="linear, alone, eager: gradients differ"):
        gradients.measure(type(entry)(**changes), gradients.CASES["linear"], rounds=1)


def test_a_page_without_marks_is_left_alone(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match=r"page.md must have the lines <!-- bench: gradients --> and <!-- end -->"):
        rewrite(page, "bench: gradients", "table")
    assert page.read_text() == "# Page\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench: the first argument must be a benchmark, got none: choose gradients, backprop, linear, speed."),
        (
            ["gradient"],
            "bench: the first argument must be a benchmark, got 'gradient': choose gradients, backprop, linear, speed.",
        ),
        (["gradients", "liner"], "bench gradients: no function to measure is called 'liner': did you mean linear?"),
        (["gradients", "xyz"], "bench gradients: no function to measure is called 'xyz': choose from "),
        (["gradients", "--rounds", "0"], "bench gradients: --rounds must be at least 1, got 0."),
        (["gradients", "--rounds", "many"], "bench gradients: argument --rounds: invalid int value: 'many'"),
        (["gradients", "--from", "no.json"], "bench gradients: --from reads a file that --json wrote, got no.json."),
        (["gradients", "linear", "--write"], "bench gradients: --write makes the whole table: leave out the names."),
        (
            ["gradients", "--json", "no/n.json"],
            "--json writes into a folder that exists, got no/n.json: make no first.",
        ),
        (["gradients", "--quick"], "bench gradients: unrecognized arguments: --quick"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys):
    try:
        code = bench.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_training_by_hand_is_measured(monkeypatch, capsys, tmp_path: Path):
    case = backprop.Case("small", backprop.mlp, (784,), 8, steps=3)
    monkeypatch.setattr(backprop, "CASES", [case])
    assert backprop.main(["--rounds", "2", "--json", str(tmp_path / "n.json")]) == 0
    assert "| small |" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "n.json").read_text())["seconds a step"].values()
    assert {way: len(seconds) for way, seconds in found.items()} == {"manual": 2, "autograd": 2}
