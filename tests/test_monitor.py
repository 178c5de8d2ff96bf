import math
from types import SimpleNamespace

import pytest

from framework.errors import ConfigError
from framework.history import Evaluation, verdict
from framework.monitor import Monitor


def feed(monitor: Monitor, scores: list[float]) -> tuple[list[bool], list[str]]:
    best, reasons = [], []
    for step, value in enumerate(scores):
        evaluation = Evaluation(step, step, {"loss/val": value})
        best.append(monitor.observe(evaluation))
        reasons.append(monitor.reason_to_stop(evaluation))
    return best, reasons


def test_best_is_strict_and_patience_counts_evaluations():
    best, reasons = feed(Monitor("loss/val", "min", patience=2), [3.0, 2.0, 2.0, 2.5])
    assert best == [True, True, False, False]
    assert reasons == ["", "", "", "patience"]


def test_min_delta_makes_small_gains_count_as_waiting_but_best_still_follows():
    monitor = Monitor("loss/val", "min", patience=2, min_delta=0.5)
    best, reasons = feed(monitor, [3.0, 2.9, 2.8])
    assert best == [True, True, True]
    assert reasons == ["", "", "patience"]
    assert monitor.best is not None
    assert monitor.best.step == 2


def test_max_mode_and_target():
    best, reasons = feed(Monitor("loss/val", "max", target=0.9), [0.5, 0.4, 0.9])
    assert best == [True, False, True]
    assert reasons == ["", "", "target"]


def test_nan_is_never_the_best():
    monitor = Monitor("loss/val", "min", patience=3)
    best, reasons = feed(monitor, [math.nan, 2.0, math.nan, math.nan, math.nan])
    assert best == [False, True, False, False, False]
    assert reasons[-1] == "patience"
    assert monitor.best is not None
    assert monitor.best.step == 1


def test_unknown_score_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no score 'loss/vall': did you mean 'loss/val'"):
        Monitor("loss/vall", "min").check(["loss/val", "loss/train"])


def test_only_a_schedulers_mode_that_is_a_direction_has_to_agree():
    monitor = Monitor("loss/val", "min")
    monitor.check_direction({}, SimpleNamespace(mode="triangular"))
    with pytest.raises(ConfigError, match=r"the scheduler's mode is max and trainer\.mode is min"):
        monitor.check_direction({}, SimpleNamespace(mode="max"))


def curve(val: list[float], train: list[float]) -> list[Evaluation]:
    pairs = enumerate(zip(val, train, strict=True), start=1)
    return [Evaluation(e * 10, e, {"loss/val": v, "loss/train_slice": t}) for e, (v, t) in pairs]


def test_verdict_names_the_epoch_where_validation_turned():
    text = verdict(curve([1.0, 0.5, 0.6, 0.9], [1.0, 0.5, 0.3, 0.1]))
    assert "after epoch 2" in text
    assert "0.9 at epoch 4" in text


@pytest.mark.parametrize(
    ("val", "train"),
    [
        ([1.0, 0.5, 0.4], [1.0, 0.5, 0.3]),  # still falling
        ([1.0, 0.5, 0.52], [1.0, 0.5, 0.3]),  # within a twentieth
        ([1.0, 0.5, 0.9], [1.0, 0.5, 0.8]),  # training turned up as well: diverging, not overfitting
        ([1.0, 0.5], [1.0, 0.1]),  # too short to say
    ],
)
def test_no_verdict_without_overfitting(val, train):
    assert verdict(curve(val, train)) == ""
