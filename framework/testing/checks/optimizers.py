"""Optimizers: they descend, and keep to their groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.testing import parts, problems, trials
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.descents import (
    Weights,
    copied,
    from_groups,
    optimizer_of,
    take_step,
    walk,
    zero_gradients,
)
from framework.testing.pair import pair

LEARNING_RATES = (0.1, 0.01, 1e-3, 1e-4, 1.0)
"""Those that are tried, in turn: signs and layers' norms need other ones than gradients."""


def _descend(subject: Subject, model: nn.Module, function: Callable[[], Tensor], steps: int) -> float:
    """Return the fraction of a function's value that is left after so many steps."""
    optimizer = optimizer_of(subject, model, lr=None)
    first = function().item()
    for _ in range(steps):
        optimizer.zero_grad()
        value = function()
        value.backward()
        optimizer.step()
    return function().item() / first


def _best(subject: Subject, attempt: Callable[[Subject], float], enough: float) -> None:
    """Raise CheckError where no learning rate leaves as small a fraction as that."""
    left: dict[float, float] = {}
    for lr in LEARNING_RATES if parts.takes(subject, "lr") else (math.nan,):
        options = subject.options if math.isnan(lr) else {**subject.options, "lr": lr}
        left[lr] = attempt(Subject(subject.component, options))
        if left[lr] <= enough:
            return
    seen = ", ".join(f"{fraction:.3g} at lr {lr:g}" for lr, fraction in left.items())
    raise CheckError(f"of the first value there is left {seen}; at most {enough:g} should be")


@check(
    "optimizer",
    rule="some learning rate of 1e-4 to 1 brings a convex quadratic to 1 % of its first value in 300 steps",
    mend="look at the sign of the update (weights go down the gradient) and at the order in which state is updated",
)
def descends_a_quadratic(subject: Subject) -> None:
    """Descend on ½ Σ c (w − t)², c from 1 to 10."""

    def attempt(tried: Subject) -> float:
        model = Weights()
        curvatures = {p: torch.linspace(1, 10, p.numel()).view_as(p) for p in model.parameters()}
        return _descend(
            tried,
            model,
            lambda: torch.stack([(c * (p - 0.5) ** 2).sum() / 2 for p, c in curvatures.items()]).sum(),
            300,
        )

    _best(subject, attempt, 0.01)


@check(
    "optimizer",
    rule="some learning rate of 1e-4 to 1 brings Rosenbrock's function to 15 % of its first value in 500 steps",
    mend="where the quadratic's check passes, look at what is divided by: a curved valley needs steps that stay small",
)
def descends_rosenbrock(subject: Subject) -> None:
    """Descend on Σ (1 − x)² + 100 (y − x²)² from about (−1.2, 1)."""

    def attempt(tried: Subject) -> float:
        model = nn.Module()
        start = torch.tensor([[-1.2, 1.0], [-1.1, 1.3], [-1.3, 0.9], [0.2, 1.5]])
        model.weight = nn.Parameter(start.clone())
        return _descend(tried, model, lambda: _rosenbrock(model.weight), 500)  # type: ignore[arg-type]  # set above

    _best(subject, attempt, 0.15)


def _rosenbrock(points: Tensor) -> Tensor:
    x, y = points.unbind(1)
    return ((1 - x) ** 2 + 100 * (y - x**2) ** 2).sum()


@check(
    "optimizer",
    rule="a group whose weight_decay is 0 does not decay, one whose weight_decay is not does",
    mend="read group['weight_decay'] in `update`, not an attribute of the optimizer",
)
def respects_decay_exemption(subject: Subject) -> None:
    """Decay a matrix and spare a vector, at zero gradients."""
    if not parts.takes(subject, "weight_decay"):
        raise SkipTest("it has no option weight_decay")
    spared, decayed = Weights(), Weights()
    plain, decaying = optimizer_of(subject, spared), optimizer_of(subject, decayed, decay=0.1)
    before = trials.weights(decayed)
    for _ in range(3):
        take_step(plain, zero_gradients(spared))
        take_step(decaying, zero_gradients(decayed))
    if not torch.equal(spared.bias, decayed.bias):
        by = float((spared.bias - decayed.bias).detach().abs().max())
        raise CheckError(f"weight_decay of another group moved an exempt parameter by {by:.3g}")
    without, with_decay = float(spared.weight.detach().norm()), float(decayed.weight.detach().norm())
    if not with_decay < min(without, float(before["weight"].norm())):
        raise CheckError(f"with weight_decay 0.1 the norm is {with_decay:.5g} after 3 steps, without {without:.5g}")


@check(
    "optimizer",
    rule="each group has its own learning rate, and a group added later is trained too",
    mend="read group['lr'] in `update`, and walk self.param_groups as it is at the time of the step",
)
def follows_its_groups(subject: Subject) -> None:
    """Hold one group still, and add one."""
    if not parts.takes(subject, "lr"):
        raise SkipTest("it has no option lr")
    model = Weights()
    group = {"params": [model.weight], "param_names": ["weight"], "lr": 0.0}
    optimizer = from_groups(subject, model, [group], {"lr": 0.1})
    if parts.takes(subject, "weight_decay"):
        optimizer.param_groups[0]["weight_decay"] = 0.0
    before = trials.weights(model)
    optimizer.add_param_group({"params": [model.bias], "param_names": ["bias"], "lr": 0.1})
    after = walk(optimizer, model, range(3))
    if not torch.equal(before["weight"], after["weight"]):
        raise CheckError(f"in a group of lr 0, {trials.difference({'weight': before['weight']}, after)}")
    if torch.equal(before["bias"], after["bias"]):
        raise CheckError("a parameter of a group that was added did not move in 3 steps")


@check(
    "optimizer",
    rule="a parameter without a gradient stays, and so does its state",
    mend="leave out the parameters whose grad is None, as framework.optimizers.Optimizer does",
)
def skips_none_gradients(subject: Subject) -> None:
    """Take a step in which one of two parameters has no gradient."""
    model = Weights()
    optimizer = optimizer_of(subject, model)
    for fresh in (True, False):
        before = model.bias.detach().clone(), copied(optimizer.state.get(model.bias, {}))
        take_step(optimizer, {model.weight: torch.ones_like(model.weight), model.bias: None})
        if not torch.equal(model.bias, before[0]):
            raise CheckError(f"a parameter whose grad is None moved, with {'no' if fresh else 'a'} state of before")
        if not trials.same(copied(optimizer.state.get(model.bias, {})), before[1]):
            raise CheckError("the state of a parameter whose grad is None changed")
        walk(optimizer, model, range(2))


@check(
    "optimizer",
    rule="from a fresh start, gradients of zero leave weights as they are, unless moves_at_zero_gradient is set",
    mend="look for 0/0 where eps is missing, or say moves_at_zero_gradient = True where moving is what is meant",
)
def still_at_zero_gradient(subject: Subject) -> None:
    """Take three steps of zero gradients, without weight decay."""
    model = Weights()
    before = trials.weights(model)
    optimizer = optimizer_of(subject, model)
    for _ in range(3):
        take_step(optimizer, zero_gradients(model))
    moved = not trials.same(before, trials.weights(model))
    declared = getattr(subject.factory, "moves_at_zero_gradient", False)
    if moved and not declared:
        raise CheckError(f"after 3 steps of zero gradients {trials.difference(before, trials.weights(model))}")
    if declared and not moved:
        raise CheckError("it says moves_at_zero_gradient = True, and 3 steps of zero gradients moved nothing")


@check(
    "optimizer",
    rule="two ranks that share a batch train as one rank that has all of it does",
    mend="let the update depend on parameters, gradients and state alone: gradients are averaged before it",
)
def same_on_two_ranks(subject: Subject) -> None:
    """Train on one rank and on two, and compare."""
    alone = _train(subject)
    for rank, shared in enumerate(pair().run(_train, subject)):
        by = {name: torch.tensor(values, dtype=torch.float64) for name, values in shared.items()}
        one = {name: torch.tensor(values, dtype=torch.float64) for name, values in alone.items()}
        if not all(torch.allclose(one[name], by[name], rtol=1e-5, atol=1e-7) for name in one):
            raise CheckError(f"after 4 steps, on rank {rank} of two against one alone {trials.difference(one, by)}")


def _train(subject: Subject) -> dict[str, list[float]]:
    model = problems.network()
    fitted = trials.trainer(model, optimizer=optimizer_of(subject, model, lr=0.01, decay=0.01), max_steps=4)
    trials.fit(fitted)
    return {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
