"""The bar as a terminal shows it, and the lines elsewhere."""

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from framework import registry
from framework.callbacks import ProgressBar, progress
from framework.history import Progress

LOGGED = {"loss/train": 0.25, "grad_norm": 3.0, "accuracy/train": 0.875, "f1/train": 0.5, "lr": 0.001}
EVALUATED = {
    "loss/train": 0.25,
    "accuracy/train": 0.875,
    "loss/val": 0.5,
    "accuracy/val": 0.75,
    "gap/loss": 0.25,
}


class Terminal(io.StringIO):
    """A file that says it is a terminal, and what it would show."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if token == "\x1b[2K":
                lines[row] = ""
            elif token == "\x1b[1A":
                row -= 1
            elif token == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif token[0] not in "\x1b\r":
                lines[row] += token
        return [line.rstrip() for line in lines]


@pytest.fixture
def trainer():
    return SimpleNamespace(progress=Progress(), total_steps=100, history=[], directory=None)


@pytest.fixture
def bar(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    bar = ProgressBar()
    bar.console = Console(file=Terminal(), force_terminal=True, width=80)
    return bar


def step(bar, trainer, number):
    trainer.progress.step = number
    bar.on_step_end(trainer)


def test_it_is_registered_without_options():
    assert registry.components("callback")["progress"].signature.options == ()
    assert isinstance(registry.build("callback", "progress", {}), ProgressBar)


def test_terminal_shows_the_state_of_the_run(bar, trainer):
    bar.on_fit_start(trainer)
    assert re.fullmatch(r"epoch 1 ━+ +0/100", bar.console.file.screen()[0])
    for number in (1, 40):
        time.sleep(0.02)
        step(bar, trainer, number)
    bar.on_logged(trainer, LOGGED)
    trainer.progress.epoch = 1
    bar.on_evaluated(trainer, EVALUATED)
    time.sleep(0.02)
    step(bar, trainer, 50)
    first, second = bar.console.file.screen()
    assert re.fullmatch(r"epoch 2 ━+[╸╺]?━+ +50/100 [\d,.e-]+ steps/s, 0:00:0\d left", first)
    assert second == "train loss 0.25 accuracy 0.875   val loss 0.5 accuracy 0.75   lr 0.001"
    bar.on_fit_end(trainer, None)
    first, *_ = bar.console.file.screen()
    assert re.search(r"50/100 [\d,.e-]+ steps/s in 0:00:00$", first), "stopped early: what it took"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_it_never_takes_more_than_two_lines(bar, trainer, width):
    bar.console.width = width
    bar.on_fit_start(trainer)
    bar.on_logged(trainer, LOGGED)
    bar.on_evaluated(trainer, EVALUATED)
    for number in range(1, 101):
        step(bar, trainer, number)
    shown = bar.console.file.screen()
    assert len(shown) == 2
    assert max(map(len, shown)) <= width
    if width >= 80:
        assert "100/100" in shown[0]
        assert shown[1].endswith("lr 0.001")


def test_the_number_of_steps_and_a_validation_set_may_be_missing(bar, trainer):
    trainer.total_steps = None
    bar.on_fit_start(trainer)
    bar.on_logged(trainer, {"mae/train": 3.0, "loss/train": 2.0, "lr": 0.1})
    bar.on_evaluated(trainer, {"loss/train": 2.0})
    for number in (1, 2, 3):
        time.sleep(0.01)
        step(bar, trainer, number)
    first, second = bar.console.file.screen()
    assert second == "train loss 2 mae 3   lr 0.1", "the loss first, and nothing of a validation set"
    assert re.search(r" 3/\? [\d.]+ steps/s$", first)
    bar.on_fit_end(trainer, None)


def test_the_cursor_comes_back_and_the_streams_too(bar, trainer):
    streams = sys.stdout, sys.stderr
    for _ in range(2):
        bar.on_fit_start(trainer)
        assert bar.console.file.getvalue().count("\x1b[?25l") == bar.console.file.getvalue().count("\x1b[?25h") + 1
        print("a user's print", file=sys.stderr)
        bar.on_fit_end(trainer, None)
        assert bar.console.file.getvalue().endswith("\x1b[?25h")
    assert (sys.stdout, sys.stderr) == streams
    assert sum("a user's print" in line for line in bar.console.file.screen()) == 2


def test_a_slow_step_has_a_pace(bar, trainer):
    bar.on_fit_start(trainer)
    for number, now in ((1, 0.0), (2, 40.0), (3, 80.0)):
        bar._bar.get_time = lambda now=now: now
        step(bar, trainer, number)
    assert bar.console.file.screen()[0].endswith(" 3/100 0.025 steps/s, 1:04:40 left")
    bar.on_fit_end(trainer, None)


def test_drawing_waits_for_its_interval(bar, trainer, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 3600.0)
    bar.on_fit_start(trainer)
    drawn = bar.console.file.getvalue()
    for number in range(100):
        step(bar, trainer, number)
    assert bar.console.file.getvalue() == drawn
    bar.on_fit_end(trainer, None)


@pytest.mark.parametrize("forced", [None, True])
def test_a_file_gets_one_line_an_evaluation(bar, trainer, forced):
    """Colours that CI services force make no terminal of a file."""
    bar.console = Console(file=io.StringIO(), force_terminal=forced, width=40)
    bar.on_fit_start(trainer)
    bar.on_logged(trainer, LOGGED)
    step(bar, trainer, 50)
    trainer.progress.epoch = 2
    bar.on_evaluated(trainer, EVALUATED | {"loss/train_slice": 0.25})
    trainer.total_steps = None
    bar.on_evaluated(trainer, {"loss/val": float("nan")})
    bar.on_fit_end(trainer, None)
    scores = "loss/train 0.25  accuracy/train 0.875  loss/val 0.5  accuracy/val 0.75  gap/loss 0.25"
    assert bar.console.file.getvalue().splitlines() == [
        f"epoch 2  step 50/100  {scores}",
        "epoch 2  step 50  loss/val nan",
    ]
