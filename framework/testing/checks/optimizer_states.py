"""Optimizers: they can be saved, and take what a trainer has."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from framework.checkpoint import load_optimizer, optimizer_parts
from framework.testing import parts, trials
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.descents import (
    Weights,
    copied,
    optimizer_of,
    random_gradients,
    take_step,
    walk,
)


@check(
    "optimizer",
    rule="state saved, loaded into a fresh optimizer and continued takes the same steps bit for bit",
    mend="keep everything that later steps depend on in self.state or in the groups, none of it in attributes",
)
def optimizer_resumes(subject: Subject) -> None:
    """Continue through state_dict, and through the form that checkpoints keep."""
    for name, carry in (("state_dict", _through_state_dict), ("a checkpoint", _through_checkpoint)):
        model = Weights()
        optimizer = optimizer_of(subject, model, decay=0.01)
        walk(optimizer, model, range(4))
        other = Weights()
        other.load_state_dict(model.state_dict())
        fresh = optimizer_of(subject, other, decay=0.01)
        carry(optimizer, fresh)
        one, two = walk(optimizer, model, range(4, 8)), walk(fresh, other, range(4, 8))
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
    optimizer = optimizer_of(subject, model)
    walk(optimizer, model, range(2))
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
    if not parts.takes(subject, "maximize"):
        raise SkipTest("it has no option maximize")
    up, down = Weights(), Weights()
    climbing, descending = optimizer_of(subject, up, decay=0.01, maximize=True), optimizer_of(subject, down, decay=0.01)
    for step in range(3):
        take_step(climbing, random_gradients(up, step))
        take_step(descending, {p: -g for p, g in random_gradients(down, step).items() if g is not None})
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
        after = walk(optimizer_of(subject, model), model, range(3))
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
    optimizer = optimizer_of(subject, model)
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
    optimizer = optimizer_of(subject, model)
    for steps in (range(0), range(3)):
        before = walk(optimizer, model, steps), copied(optimizer.state.get(model.weight, {}))
        given = optimizer.evaluation_weights()  # type: ignore[attr-defined]  # asked above
        own = {id(p) for p in model.parameters()}
        for param, tensor in given.items():
            if id(param) not in own:
                raise CheckError(f"a key is {type(param).__name__} {param!r:.40}, no parameter of its groups")
            if tensor.shape != param.shape or not bool(tensor.isfinite().all()):
                raise CheckError(f"of a parameter {tuple(param.shape)} it gives {tuple(tensor.shape)}, or not finite")
        if not trials.same((trials.weights(model), copied(optimizer.state.get(model.weight, {}))), before):
            raise CheckError("asking for the weights changed a parameter or its state")
