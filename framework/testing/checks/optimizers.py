"""Optimizers: they descend, keep to their groups, and can be saved."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.checkpoint import load_optimizer, optimizer_parts
from framework.parameters import parameter_groups
from framework.testing import trials
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.pair import pair

LEARNING_RATES = (0.1, 0.01, 1e-3, 1e-4, 1.0)
"""Those that are tried, in turn: signs and layers' norms need other ones than gradients."""


class Weights(nn.Module):
    """A matrix and a vector with a name each, float32."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator).to(dtype))
        self.bias = nn.Parameter(torch.randn(3, generator=generator).to(dtype))


def _optimizer(
    subject: Subject, model: nn.Module, *, decay: float = 0.0, lr: float | None = 0.1, **options: Any
) -> torch.optim.Optimizer:
    """Make one that holds all of a model, in the groups that the framework makes; `lr` None leaves the default."""
    if trials.takes(subject, "weight_decay"):
        options["weight_decay"] = decay
    if lr is not None and trials.takes(subject, "lr"):
        options["lr"] = lr
    known = {option.name: option.default for option in subject.component.signature.options}
    own = getattr(subject.factory, "kit_options", {})
    rate = {**known, **own, **subject.options, **options}.get("lr", 1.0)
    return _from_groups(
        subject, model, parameter_groups(model, lr=rate, weight_decay=options.get("weight_decay")), options
    )


def _from_groups(
    subject: Subject, model: nn.Module, groups: list[dict[str, Any]], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    built: torch.optim.Optimizer = subject.build(*trials.arguments(subject, params=groups, model=model), **options)
    return built


def _step(optimizer: torch.optim.Optimizer, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
    for param, gradient in gradients.items():
        param.grad = None if gradient is None else gradient.clone()
    optimizer.step()


def _random_gradients(model: nn.Module, step: int) -> dict[nn.Parameter, Tensor | None]:
    generator = torch.Generator().manual_seed(step + 1)
    return {p: torch.randn(p.shape, generator=generator).to(p.dtype) for p in model.parameters()}


def _zero_gradients(model: nn.Module) -> dict[nn.Parameter, Tensor | None]:
    return {p: torch.zeros_like(p) for p in model.parameters()}


def _walk(optimizer: torch.optim.Optimizer, model: nn.Module, steps: range) -> dict[str, Tensor]:
    """Take steps along gradients of their own, and return the weights."""
    for step in steps:
        _step(optimizer, _random_gradients(model, step))
    return trials.weights(model)


def _descend(subject: Subject, model: nn.Module, function: Callable[[], Tensor], steps: int) -> float:
    """Return the fraction of a function's value that is left after so many steps."""
    optimizer = _optimizer(subject, model, lr=None)
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
    for lr in LEARNING_RATES if trials.takes(subject, "lr") else (math.nan,):
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
    if not trials.takes(subject, "weight_decay"):
        raise SkipTest("it has no option weight_decay")
    spared, decayed = Weights(), Weights()
    plain, decaying = _optimizer(subject, spared), _optimizer(subject, decayed, decay=0.1)
    before = trials.weights(decayed)
    for _ in range(3):
        _step(plain, _zero_gradients(spared))
        _step(decaying, _zero_gradients(decayed))
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
    if not trials.takes(subject, "lr"):
        raise SkipTest("it has no option lr")
    model = Weights()
    group = {"params": [model.weight], "param_names": ["weight"], "lr": 0.0}
    optimizer = _from_groups(subject, model, [group], {"lr": 0.1})
    if trials.takes(subject, "weight_decay"):
        optimizer.param_groups[0]["weight_decay"] = 0.0
    before = trials.weights(model)
    optimizer.add_param_group({"params": [model.bias], "param_names": ["bias"], "lr": 0.1})
    after = _walk(optimizer, model, range(3))
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
    optimizer = _optimizer(subject, model)
    for fresh in (True, False):
        before = model.bias.detach().clone(), _copy(optimizer.state.get(model.bias, {}))
        _step(optimizer, {model.weight: torch.ones_like(model.weight), model.bias: None})
        if not torch.equal(model.bias, before[0]):
            raise CheckError(f"a parameter whose grad is None moved, with {'no' if fresh else 'a'} state of before")
        if not trials.same(_copy(optimizer.state.get(model.bias, {})), before[1]):
            raise CheckError("the state of a parameter whose grad is None changed")
        _walk(optimizer, model, range(2))


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


@check(
    "optimizer",
    rule="from a fresh start, gradients of zero leave weights as they are, unless moves_at_zero_gradient is set",
    mend="look for 0/0 where eps is missing, or say moves_at_zero_gradient = True where moving is what is meant",
)
def still_at_zero_gradient(subject: Subject) -> None:
    """Take three steps of zero gradients, without weight decay."""
    model = Weights()
    before = trials.weights(model)
    optimizer = _optimizer(subject, model)
    for _ in range(3):
        _step(optimizer, _zero_gradients(model))
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
    model = trials.network()
    fitted = trials.trainer(model, optimizer=lambda m: _optimizer(subject, m, lr=0.01, decay=0.01), max_steps=4)
    trials.fit(fitted)
    return {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}


@check(
    "optimizer",
    rule="state saved, loaded into a fresh optimizer and continued takes the same steps bit for bit",
    mend="keep everything that later steps depend on in self.state or in the groups, none of it in attributes",
)
def optimizer_resumes(subject: Subject) -> None:
    """Continue through state_dict, and through the form that checkpoints keep."""
    for name, carry in (("state_dict", _through_state_dict), ("a checkpoint", _through_checkpoint)):
        model = Weights()
        optimizer = _optimizer(subject, model, decay=0.01)
        _walk(optimizer, model, range(4))
        other = Weights()
        other.load_state_dict(model.state_dict())
        fresh = _optimizer(subject, other, decay=0.01)
        carry(optimizer, fresh)
        one, two = _walk(optimizer, model, range(4, 8)), _walk(fresh, other, range(4, 8))
        if not trials.same(one, two):
            raise CheckError(f"4 steps after resuming from {name}, {trials.difference(one, two)}")


def _through_state_dict(optimizer: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> None:
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _through_checkpoint(optimizer: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> None:
    tensors, values = optimizer_parts(optimizer)
    load_optimizer(fresh, tensors, json.loads(json.dumps(values)), hyperparameters=True)


@check(
    "optimizer",
    rule="state holds tensors and plain values (numbers, strings, lists and mappings of them) only",
    mend="put a tensor, a number or a string into self.state[param][name] in place of an object",
)
def optimizer_state_is_plain(subject: Subject) -> None:
    """Look at everything in state_dict after two steps."""
    model = Weights()
    optimizer = _optimizer(subject, model)
    _walk(optimizer, model, range(2))
    saved = optimizer.state_dict()
    entries = [(f"state['{key}']", value) for kept in saved["state"].values() for key, value in kept.items()]
    entries += [(f"the group's '{key}'", value) for group in saved["param_groups"] for key, value in group.items()]
    for where, value in entries:
        for found in _leaves(value):
            if not (found is None or isinstance(found, Tensor | bool | int | float | str)):
                raise CheckError(f"{where} has a {type(found).__name__}")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (key, *_leaves(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


@check(
    "optimizer",
    rule="with maximize it does to a gradient what it does without to the gradient's negative",
    mend="negate the gradients of groups with maximize, before weight decay is added to them",
)
def maximizes(subject: Subject) -> None:
    """Climb along gradients and descend along their negatives."""
    if not trials.takes(subject, "maximize"):
        raise SkipTest("it has no option maximize")
    up, down = Weights(), Weights()
    climbing, descending = _optimizer(subject, up, decay=0.01, maximize=True), _optimizer(subject, down, decay=0.01)
    for step in range(3):
        _step(climbing, _random_gradients(up, step))
        _step(descending, {p: -g for p, g in _random_gradients(down, step).items() if g is not None})
    one, two = trials.weights(up), trials.weights(down)
    if not all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one):
        raise CheckError(f"after 3 steps {trials.difference(one, two)}")


@check(
    "optimizer",
    rule="parameters of float32 and of bfloat16 move, keep their type and stay finite",
    mend="make state by torch.zeros_like(param), and cast what is computed in float32 before it is added",
)
def trains_float32_and_bfloat16(subject: Subject) -> None:
    """Take three steps in each type."""
    for dtype in (torch.float32, torch.bfloat16):
        model = Weights(dtype)
        before = trials.weights(model)
        after = _walk(_optimizer(subject, model), model, range(3))
        for name, tensor in after.items():
            if tensor.dtype != dtype:
                raise CheckError(f"a parameter of {dtype} became one of {tensor.dtype}")
            if not bool(tensor.isfinite().all()):
                raise CheckError(f"'{name}' of {dtype} is not finite after 3 steps")
            if torch.equal(tensor, before[name]):
                raise CheckError(f"'{name}' of {dtype} did not move in 3 steps")


@check(
    "optimizer",
    rule="step takes a closure that computes the loss, and returns what it returned",
    mend="give step the parameter `closure=None`, and call it under torch.enable_grad() before the update",
)
def takes_a_closure(subject: Subject) -> None:
    """Take a step whose gradients a closure makes."""
    model = Weights()
    optimizer = _optimizer(subject, model)
    before = trials.weights(model)

    def closure() -> float:
        optimizer.zero_grad()
        value = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        value.backward()
        return value.item()

    expected = closure()
    returned = optimizer.step(closure)  # type: ignore[arg-type,func-returns-value,unused-ignore]  # torch's overloads
    if returned is None or not math.isclose(float(returned), expected, rel_tol=1e-6):
        raise CheckError(f"the closure returned {expected:g}, step returned {returned!r}")
    if trials.same(before, trials.weights(model)):
        raise CheckError("a step with a closure moved nothing")


@check(
    "optimizer",
    rule="evaluation_weights gives finite tensors of its own parameters' shapes, by parameter, and changes nothing",
    mend="return {param: tensor} of the parameters in self.param_groups, computed into new tensors",
)
def gives_weights_to_evaluate(subject: Subject) -> None:
    """Ask for the weights before the first step and after three."""
    if not hasattr(subject.factory, "evaluation_weights"):
        raise SkipTest("it has no evaluation_weights")
    model = Weights()
    optimizer = _optimizer(subject, model)
    for steps in (range(0), range(3)):
        before = _walk(optimizer, model, steps), _copy(optimizer.state.get(model.weight, {}))
        given = optimizer.evaluation_weights()  # type: ignore[attr-defined]  # asked above
        own = {id(p) for p in model.parameters()}
        for param, tensor in given.items():
            if id(param) not in own:
                raise CheckError(f"a key is {type(param).__name__} {param!r:.40}, no parameter of its groups")
            if tensor.shape != param.shape or not bool(tensor.isfinite().all()):
                raise CheckError(f"of a parameter {tuple(param.shape)} it gives {tuple(tensor.shape)}, or not finite")
        if not trials.same((trials.weights(model), _copy(optimizer.state.get(model.weight, {}))), before):
            raise CheckError("asking for the weights changed a parameter or its state")
