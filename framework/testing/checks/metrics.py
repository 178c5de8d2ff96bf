"""What a metric has to do."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric

from framework.datasets import Data
from framework.testing import parts, problems
from framework.testing.conformance import CheckError, Subject, check

INTERFACE = ("update", "compute", "reset", "merge_state", "metric_state", "higher_is_better")
"""What of torchmetrics' a trainer and its ranks use."""
CLOSE = 1e-5
"""The relative error of sums in another order."""


def _made(subject: Subject) -> tuple[Data, Metric]:
    data, metric = parts.data_for(subject)
    if missing := [name for name in INTERFACE if not hasattr(metric, name)]:
        raise CheckError(f"a {type(metric).__name__} is no torchmetrics.Metric: it has no {', '.join(missing)}")
    return data, metric


def _outputs(data: Data, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a model's raw outputs and the targets."""
    _, target = data.train.gather(torch.arange(problems.EXAMPLES))
    shape = target.shape if data.task == "regression" else (*target.shape, data.outputs)
    return 2 * torch.randn(shape, generator=Generator().manual_seed(seed)), target


def _score(metric: Metric, prediction: Tensor, target: Tensor) -> float:
    metric.reset()
    metric.update(prediction, target)
    return float(metric.compute())


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)


@check(
    "metric",
    rule="from a model's raw outputs and the targets it computes one finite number",
    mend="take logits, not probabilities or classes, and reduce over classes or outputs",
)
def metric_takes_raw_outputs(subject: Subject) -> None:
    """Feed it logits or values."""
    data, metric = _made(subject)
    metric.update(*_outputs(data))
    value = metric.compute()
    if not isinstance(value, Tensor) or value.numel() != 1 or not torch.isfinite(value).all():
        raise CheckError(f"it computes {value}")


@check(
    "metric",
    rule="over several batches, and over several ranks, it is what it is over all examples at once",
    mend="add sums and counts by add_state(..., dist_reduce_fx='sum') and divide in compute; "
    "keep the examples (dist_reduce_fx='cat') where the whole is more than its parts; full_state_update is False",
)
def metric_adds_up(subject: Subject) -> None:
    """Cut the examples in uneven parts, and give some to another metric that is merged."""
    data, metric = _made(subject)
    prediction, target = _outputs(data)
    whole = _score(metric, prediction, target)
    parts = list(zip(prediction.tensor_split([5, 20]), target.tensor_split([5, 20]), strict=True))
    metric.reset()
    for part in parts:
        metric.update(*part)
    if not _close(whole, value := float(metric.compute())):
        raise CheckError(f"it is {whole:.6g} over all examples, and {value:.6g} over three batches of them")
    _, here = _made(subject)
    _, there = _made(subject)
    here.update(*parts[0])
    for part in parts[1:]:
        there.update(*part)
    here.merge_state(there.metric_state)
    if not _close(whole, value := float(here.compute())):
        raise CheckError(f"it is {whole:.6g} over all examples, and {value:.6g} merged from two ranks")


@check(
    "metric",
    rule="reset() forgets everything",
    mend="keep what is counted in states, by add_state, which reset() puts back",
)
def metric_forgets(subject: Subject) -> None:
    """Measure, reset, and measure other examples."""
    data, metric = _made(subject)
    fresh = _score(_made(subject)[1], *_outputs(data, seed=1))
    metric.update(*_outputs(data))
    metric.compute()
    if not _close(fresh, value := _score(metric, *_outputs(data, seed=1))):
        raise CheckError(f"after other examples and a reset() it is {value:.6g}, new it is {fresh:.6g}")


@check(
    "metric",
    rule="higher_is_better says which way is better, and nothing is better than what is right",
    mend="set the class attribute higher_is_better, and look for a sign or an order of arguments turned round",
)
def metric_rewards_the_right(subject: Subject) -> None:
    """Compare right outputs with random ones."""
    data, metric = _made(subject)
    if metric.higher_is_better is None:
        raise CheckError("its higher_is_better is None")
    _, target = _outputs(data)
    right = target if data.task == "regression" else 20.0 * one_hot(target, data.outputs)
    best = _score(metric, right, target)
    for seed in range(3):
        value = _score(metric, *_outputs(data, seed))
        if not (best > value if metric.higher_is_better else best < value):
            way = "higher" if metric.higher_is_better else "lower"
            raise CheckError(f"right outputs score {best:.6g}, random ones {value:.6g}, and {way} is better")
