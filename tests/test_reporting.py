"""What is printed, word for word."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from framework import reporting
from framework.history import Evaluation, Result

DONE = Result(
    status="finished",
    reason="max_epochs",
    epochs=30,
    steps=1230,
    samples=38790,
    seconds=4.24,
    best=Evaluation(420, 20, {"loss/train": 0.01, "loss/val": 0.07123, "accuracy/val": 0.98125, "gap/loss": 0.06}),
    test={"loss": 0.08341, "accuracy": 0.97778},
    time={"data": 0.0312, "step": 0.8, "evaluation": 0.1188, "overhead": 0.05},
)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_summary(console, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reporting.print_summary(replace(DONE, verdict="Overfitting: it [turned]."), tmp_path / "runs" / "a b", console)
    assert printed(console) == [
        "finished  max_epochs",
        "trained   30 epochs, 1,230 steps, 38,790 samples in 4.2 s",
        "time      data 3.1%  step 80.0%  evaluation 11.9%  overhead 5.0%",
        "best      step 420, epoch 20: loss/train 0.01  loss/val 0.07123  accuracy/val 0.9812  gap/loss 0.06",
        "test      loss 0.08341  accuracy 0.9778",
        "Overfitting: it [turned].",
        "written to runs/a b",
        "look at it: tensorboard --logdir 'runs/a b'",
    ]


def test_summary_of_a_run_that_failed_at_once(console):
    failed = Result("failed", "error", 0, 0, 0, 0.0, error="ValueError: shape [3, 4]")
    reporting.print_summary(failed, None, console)
    assert printed(console) == [
        "failed   ValueError: shape [3, 4]",
        "trained  0 epochs, 0 steps, 0 samples in 0.0 s",
    ]


def test_long_folders_stay_in_one_piece(console):
    folder = Path("/runs", "y" * 150)
    reporting.print_summary(DONE, folder, console)
    assert printed(console)[-2:] == [f"written to {folder}", f"look at it: tensorboard --logdir {folder}"]


def test_sweep(console, tmp_path):
    lost = replace(DONE, status="interrupted", best=None, test={}).to_json()
    unknown = DONE.to_json() | {"test": {"loss": None, "accuracy": 0.1}}
    failed = {"status": "failed", "error": "loss 'focal': gamma must be >= 0, got [-1]."}
    rows = [
        (["optimizer=sgd", "regularizer=[l2,l1]"], tmp_path / "0", DONE.to_json()),
        (["optimizer=adamw"], tmp_path / "1", unknown),
        (["loss=focal", "loss.gamma=-1"], tmp_path / "2", failed),
        ([], tmp_path / "3", None),
        (["seed=3"], tmp_path / "10", lost),
    ]
    reporting.print_sweep(rows, console)
    table = [line.split() for line in printed(console)]
    assert table == [
        ["job", "overrides", "status", "loss/val", "loss/test", "accuracy/test"],
        ["0", "optimizer=sgd", "regularizer=[l2,l1]", "finished", "0.07123", "0.08341", "0.9778"],
        ["1", "optimizer=adamw", "finished", "0.07123", "nan", "0.1"],
        ["2", "loss=focal", "loss.gamma=-1", "failed"],
        ["3", "failed"],
        ["10", "seed=3", "interrupted"],
        ["2:", *failed["error"].split()],
        ["3:", "no", "result"],
        ["written", "to", str(tmp_path)],
        ["look", "at", "it:", "tensorboard", "--logdir", str(tmp_path)],
    ]


def test_sweep_without_a_validation_set_and_in_nested_folders(console, tmp_path, monkeypatch):
    scores = Evaluation(1, 1, {"loss/train": 0.5, "accuracy/train": 0.25})
    result = replace(DONE, best=scores, test={}).to_json()
    monkeypatch.chdir(tmp_path)
    reporting.print_sweep([([], tmp_path / "a" / "x", result), ([], Path("b", "x"), result)], console)
    table = [line.split() for line in printed(console)]
    assert table[:3] == [
        ["job", "overrides", "status", "loss/train"],
        ["a/x", "finished", "0.5"],
        ["b/x", "finished", "0.5"],
    ]
    assert table[3] == ["written", "to", "."]


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_folds_overrides_and_no_number(tmp_path, width):
    console = Console(file=io.StringIO(), width=width)
    overrides = [f"optimizer.option_{i}=0.001" for i in range(6)]
    reporting.print_sweep([(overrides, tmp_path / "0", DONE.to_json())], console)
    header, first, *_ = printed(console)
    assert header.split()[-3:] == ["loss/val", "loss/test", "accuracy/test"]
    assert first.split()[-3:] == ["0.07123", "0.08341", "0.9778"]


def test_notes_go_to_standard_error(capsys):
    reporting.note("loss [weighted] counts rows")
    assert capsys.readouterr() == ("", "loss [weighted] counts rows\n")
