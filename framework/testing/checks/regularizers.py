"""Regularizers: they act in training, where they say, and leave the rest as it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.objective import Supervised
from framework.parameters import named_parameters
from framework.testing import parts, problems, trials
from framework.testing.checks.hooks import overrides
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.examples import CLASSES

LEARNING_RATE = 0.1


def regularizer_of(subject: Subject, **options: Any) -> Any:
    """Make one for the small problem."""
    return subject.build(*parts.arguments(subject, task="classification", outputs=CLASSES), **options)


def _prepared(subject: Subject) -> tuple[Any, problems.Network]:
    """Return one, and the network that it has looked at."""
    made, model = regularizer_of(subject), problems.network()
    made.prepare(model)
    return made, model


def _needs(subject: Subject, hook: str) -> None:
    if not overrides(subject, hook):
        raise SkipTest(f"it does not override {hook}")


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw the same inside, as the trainer has a step do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _add_gradients(model: nn.Module) -> None:
    inputs, target = problems.examples(8)
    model.zero_grad()
    problems.cross_entropy(model(inputs), target).backward()


def _gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@check(
    "regularizer",
    rule="a penalty is a finite 0-d tensor >= 0 with the weights' gradients, which are its derivatives",
    mend="compute it in torch's operations from the model's parameters, without .item(), .data, .detach() or no_grad",
)
def penalty_is_differentiable(subject: Subject) -> None:
    """Compare its gradients with differences, at weights of several sizes."""
    _needs(subject, "penalty")
    made, model = _prepared(subject)
    params = list(named_parameters(model).values())
    start = [p.detach().clone() for p in params]
    generator = torch.Generator().manual_seed(1)
    for size in (0.01, 1.0, 10.0):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
        _place(params, start, start, size - 1)
        value = _penalty(made, model)
        if not value.requires_grad:
            raise CheckError("the penalty has no gradient: it does not require one")
        gradients = torch.autograd.grad(value, params, allow_unused=True)
        along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
        step = 1e-6 * size
        sides = []
        for sign in (1, -1):
            _place(params, [size * s for s in start], direction, sign * step)
            sides.append(float(_penalty(made, model).detach()))
        measured = (sides[0] - sides[1]) / (2 * step)
        if not math.isclose(along, measured, rel_tol=1e-4, abs_tol=1e-7):
            raise CheckError(f"along a direction the gradient says {along:.6g}, differences of values {measured:.6g}")


@torch.no_grad()
def _place(params: list[nn.Parameter], start: list[Tensor], direction: list[Tensor], length: float) -> None:
    for param, origin, way in zip(params, start, direction, strict=True):
        param.copy_(origin + length * way)


def _penalty(made: Any, model: nn.Module) -> Tensor:
    with _seeded():
        value = made.penalty(model)
    if not isinstance(value, Tensor) or value.ndim != 0:
        form = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise CheckError(f"the penalty is {form}, not a 0-d tensor")
    if not math.isfinite(found := float(value.detach())) or found < 0:
        raise CheckError(f"the penalty is {found:.6g}")
    return value


@check(
    "regularizer",
    rule="project twice is project once",
    mend="move the weights to the nearest that keep the constraint; one that takes a step each time, such as a decay, "
    "says so in expected_failures",
)
def project_is_idempotent(subject: Subject) -> None:
    """Project weights of several sizes twice."""
    _needs(subject, "project")
    for size in (0.1, 1.0, 100.0):
        made, model = _prepared(subject)
        _scale(model, size)
        _project(made, model)
        once = trials.weights(model)
        _project(made, model)
        twice = trials.weights(model)
        if not all(torch.allclose(once[name], twice[name], rtol=1e-9, atol=1e-12) for name in once):
            raise CheckError(
                f"weights of {size:g} times the usual size: the second time {trials.difference(once, twice)}"
            )


@torch.no_grad()
def _scale(model: nn.Module, factor: float) -> None:
    for param in model.parameters():
        param.mul_(factor)


def _project(made: Any, model: nn.Module) -> None:
    params = named_parameters(model)
    with torch.no_grad(), _seeded():
        made.project(params, dict.fromkeys(params, LEARNING_RATE))


@check(
    "regularizer",
    rule="project changes weights in place, finite ones to finite ones, and not their gradients",
    mend="change them by param.mul_(...), param.copy_(...) under torch.no_grad(), and leave param.grad alone",
)
def project_leaves_gradients(subject: Subject) -> None:
    """Project after a backward pass, and weights of zero."""
    _needs(subject, "project")
    made, model = _prepared(subject)
    _scale(model, 100.0)
    _add_gradients(model)
    before, tensors = _gradients(model), {name: id(p) for name, p in model.named_parameters()}
    _project(made, model)
    if not trials.same(_gradients(model), before):
        raise CheckError("a gradient changed")
    for name, param in model.named_parameters():
        if id(param) != tensors.get(name) or not (param.is_leaf and param.requires_grad):
            raise CheckError(f"'{name}' is another tensor, or no longer a trainable leaf")
    for factor in (1.0, 0.0):
        _scale(model, factor)
        _project(made, model)
        for name, param in model.named_parameters():
            if not bool(param.isfinite().all()):
                raise CheckError(f"'{name}' is not finite after it{'' if factor else ', from weights of zero'}")


@check(
    "regularizer",
    rule="on_gradients changes gradients in place, leaves weights alone, and passes over parameters without a gradient",
    mend="work on param.grad where it is not None, by param.grad.add_(...) and the like",
)
def on_gradients_leaves_weights(subject: Subject) -> None:
    """Change the gradients of a network one of whose parameters has none."""
    _needs(subject, "on_gradients")
    made, model = _prepared(subject)
    _add_gradients(model)
    model.stem.weight.grad = None
    before = trials.weights(model)
    with _seeded():
        try:
            made.on_gradients(named_parameters(model), 0)
        except (AttributeError, TypeError) as error:
            raise CheckError(f"with a parameter whose grad is None: {type(error).__name__}: {error}") from error
    if not trials.same(before, trials.weights(model)):
        raise CheckError(f"it changed weights: {trials.difference(before, trials.weights(model))}")
    for name, param in model.named_parameters():
        gradient = param.grad
        if gradient is not None and not (gradient.shape == param.shape and bool(gradient.isfinite().all())):
            raise CheckError(f"the gradient of '{name}' is not finite, or not {tuple(param.shape)}")


@check(
    "regularizer",
    rule="on_batch returns a batch of the same form and as many rows, and leaves the one it was given alone",
    mend="compute new tensors (inputs + noise, not inputs.add_(noise)), and return what has the same structure",
)
def on_batch_keeps_the_form(subject: Subject) -> None:
    """Change batches of 8 rows and of 1."""
    _needs(subject, "on_batch")
    made, _ = _prepared(subject)
    for rows in (8, 1):
        batch, untouched = problems.examples(rows), problems.examples(rows)
        with _seeded():
            changed = made.on_batch(batch)
        if not trials.same(batch, untouched):
            raise CheckError("it changed the batch that it was given, in place")
        if not (
            isinstance(changed, tuple | list) and len(changed) == 2 and all(isinstance(t, Tensor) for t in changed)
        ):
            raise CheckError(f"of (inputs, target) it made {_form(changed)}")
        inputs, target = changed
        if inputs.shape != batch[0].shape or inputs.dtype != batch[0].dtype or target.shape[:1] != (rows,):
            raise CheckError(f"of {_form(batch)} it made {_form(changed)}")
        if not bool(inputs.isfinite().all()):
            raise CheckError("the inputs are not finite")


def _form(batch: Any) -> str:
    if not isinstance(batch, tuple | list):
        return f"a {type(batch).__name__}"
    return f"({', '.join(str(tuple(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in batch)})"


@check(
    "regularizer",
    rule="second_pass gives every weight back bit for bit, with a finite gradient each",
    mend="copy the weights before they are moved and copy_ them back: adding and subtracting leaves rounding behind",
)
def second_pass_gives_weights_back(subject: Subject) -> None:
    """Give it gradients, and a way to compute them again."""
    _needs(subject, "second_pass")
    made, model = _prepared(subject)
    model.train()
    _add_gradients(model)
    calls = itertools.count()
    before = trials.weights(model)

    @torch.enable_grad()
    def recompute() -> None:
        next(calls)
        _add_gradients(model)

    with torch.no_grad(), _seeded():
        made.second_pass(named_parameters(model), recompute)
    if not trials.same(before, after := trials.weights(model)):
        raise CheckError(f"{trials.difference(before, after)} from what it was")
    for name, param in model.named_parameters():
        if not param.requires_grad or param.grad is None or not bool(param.grad.isfinite().all()):
            raise CheckError(f"'{name}' has no finite gradient after it")
    if not next(calls):
        raise CheckError("it never called recompute: what needs no second pass belongs into on_gradients")


@check(
    "regularizer",
    rule="objective returns an objective: (model, batch) -> a finite 0-d mean with gradients, its weight >= 0, outputs "
    "(prediction, target) of as many rows, or None",
    mend="call the objective that is given, and hand on its weight and outputs beside the changed mean",
)
def objective_keeps_its_form(subject: Subject) -> None:
    """Minimise it on a batch."""
    _needs(subject, "objective")
    made, model = _prepared(subject)
    model.train()
    with _seeded():
        answer = made.objective(Supervised(problems.cross_entropy))(model, problems.examples(8))
    if not (isinstance(answer, tuple) and len(answer) == 3):
        raise CheckError(f"it returned a {type(answer).__name__}, not (mean, weight, outputs)")
    mean, weight, outputs = answer
    if not (isinstance(mean, Tensor) and mean.ndim == 0 and mean.requires_grad and bool(mean.isfinite())):
        raise CheckError(f"its mean is {mean!r:.80}")
    if (isinstance(weight, Tensor) and weight.ndim) or not 0 <= float(weight) < math.inf:
        raise CheckError(f"its weight is {weight!r:.80}")
    if outputs is not None:
        sizes = [len(part) for part in outputs]
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            raise CheckError(f"its outputs have {sizes} rows, not as many predictions as targets")
    if not model.training:
        raise CheckError("it left the model in evaluation mode")
