"""Contexts of the numbers and rows that training meets: extreme values, ignored targets, padding, micro-batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from framework.gradients.contexts import Setting, Skipped, context, differ
from framework.gradients.outputs import floating
from framework.gradients.problem import Gradients, Problem
from framework.gradients.rows import check_rows, direction, probe
from framework.losses.weighing import announce, weigh

LARGE = 20.0
"""The size that the largest number of an input is brought to, so that exponentials saturate."""
HUGE = 1e4
"""The size at which exponentials overflow in float64, unless they are shifted by the largest."""
CERTAIN = 2.5
"""What the logits of inputs between 0 and 1 are multiplied by."""


@context(
    "saturated inputs",
    "shift by the maximum, use log1p, expm1 and logsigmoid, and never divide by what may vanish; look at the tails",
)
def _saturated(setting: Setting) -> str:
    problem = setting.problem
    if not problem.inputs:
        raise Skipped("no floating input")
    try:
        extreme = problem.remade(lambda t: _pushed(t, LARGE), everything=False)
        value = extreme.value()
    except ValueError as error:
        raise Skipped(f"such inputs were refused: {error}") from None
    if not math.isfinite(value):
        raise Skipped("the value itself is not finite there")
    gradients = extreme.gradients()
    if what := _not_finite(gradients):
        return what
    setting.need_values()
    tolerance = replace(setting.tolerance, value=value)
    if problem.module is not None:
        generator = torch.Generator().manual_seed(4)
        along = {name: direction(t, generator) for name, t in extreme.tensors.items()}
        found = probe(extreme, along, gradients, tolerance)
        if found.verdict == "wrong":
            return f"backpropagation gives {found.analytic:.6g}, values say {found.numeric:.6g}"
    else:
        for row in check_rows(extreme, tolerance, gradients, directions=2):
            if row.verdict in ("wrong", "missing"):
                return f"{row.name}: backpropagation gives {row.analytic:.6g}, values say {row.numeric:.6g}"
    huge = problem.remade(lambda t: _pushed(t, HUGE), everything=False)
    return _not_finite(huge.gradients()) if math.isfinite(huge.value()) else ""


@context(
    "every target ignored",
    "give zero, not 0/0: divide by the count only where it is not 0",
)
def _all_ignored(setting: Setting) -> str:
    problem, index, place = _with_ignored(setting.problem)
    target = _target(problem, place)
    changed = _with_target(problem, place, torch.full_like(target, index))
    gradients = replace(changed, penalties={}).gradients()
    if what := _not_finite(gradients):
        return what
    largest = max((float(g.abs().max()) for g in gradients.values() if g is not None and g.numel()), default=0.0)
    return f"a gradient of {largest:.2g} where every target is ignored" if largest > 1e-12 else ""


@context("padding", "let ignored rows count neither in the sum nor in what it is divided by")
def _padding(setting: Setting) -> str:
    """Add a row whose target is ignored: what the others get must not change."""
    problem, index, place = _with_ignored(setting.problem)
    target = _target(problem, place)
    if not target.ndim or not target.shape[0]:
        raise Skipped("no rows")
    extended = torch.cat((target, torch.full_like(target[:1], index)))
    if place is None:
        padded = problem.remade(_one_more(target.shape[0]))
        _refuse_mixing(problem, padded, slice(0, target.shape[0]))
        return differ(replace(padded, target=extended).gradients(), _with_none_for_more(setting.plain, padded))
    names = [n for n, t in problem.inputs.items() if t.ndim > target.ndim and t.shape[: target.ndim] == target.shape]
    if not names or _reduction(problem) == "none":
        raise Skipped("no rows to add to")
    longer = _one_more(target.shape[0])
    chosen = problem.inputs[names[0]]
    args, kwargs = apply_to_collection(
        (problem.args, dict(problem.kwargs)),
        Tensor,
        lambda t: longer(t.detach()).requires_grad_() if t is chosen else t,
    )
    padded = _with_target(replace(problem, args=args, kwargs=kwargs), place, extended)
    return differ(padded.gradients(), _with_none_for_more(setting.plain, padded))


@context("micro-batches", "give the loss a method weight(target): the number of terms that its mean is over")
def _micro_batches(setting: Setting) -> str:
    """Compare the weighed mean of two parts of the batch with the batch."""
    problem = setting.problem
    rows = _rows(problem.target)
    if problem.module is None or problem.loss is None or rows < 2:
        raise Skipped("for a module with a loss and a target of two rows or more")
    if any(t.ndim == 0 or t.shape[0] != rows for t in _tensors(problem.args)):
        raise Skipped("inputs and target have different numbers of rows")
    assert problem.loss is not None
    middle = rows // 2 if rows > 2 else 1
    total: Gradients = dict.fromkeys(problem.parameters)
    value, weights = 0.0, 0.0
    for part in (slice(0, middle), slice(middle, rows)):
        piece = problem.remade(_cut(part), penalties={})
        _refuse_mixing(piece, problem, part)
        piece = replace(piece, target=apply_to_collection(problem.target, Tensor, _cut(part)))
        weight = float(weigh(problem.loss, piece.target))
        gradients = piece.gradients(list(problem.parameters))
        value, weights = value + weight * piece.value(), weights + weight
        for name, gradient in gradients.items():
            if gradient is not None:
                before = total[name]
                total[name] = weight * gradient if before is None else before + weight * gradient
    if not weights:
        raise Skipped("the targets count nothing")
    whole = replace(problem, penalties={})
    declared = announce(problem.loss) is None
    due = whole.value()
    if abs(value / weights - due) > 1e-9 * abs(due) + 1e-12:
        what = f"the loss of a batch is {due:.6g}, the weighed mean over its halves {value / weights:.6g}"
        if declared:
            return what
        raise Skipped(f"the loss is no mean over rows: {what}")
    mean = {n: None if g is None else g / weights for n, g in total.items()}
    return differ(mean, whole.gradients(list(problem.parameters)))


def _pushed(tensor: Tensor, size: float) -> Tensor:
    """Return extreme inputs of the same kind: numbers, probabilities, or rows of them that sum to 1."""
    if not tensor.numel():
        return tensor
    if bool(((tensor >= 0) & (tensor <= 1)).all()):
        certain = (CERTAIN * tensor.clamp(1e-4, 1 - 1e-4).logit()).sigmoid()
        sums = tensor.sum(-1, keepdim=True) if tensor.ndim else tensor
        return certain / certain.sum(-1, keepdim=True) if torch.allclose(sums, torch.ones_like(sums)) else certain
    largest = tensor.abs().max()
    return tensor * torch.where(largest > 0, size / largest, 1.0)


def _not_finite(gradients: Gradients) -> str:
    bad = [name for name, g in gradients.items() if g is not None and not bool(torch.isfinite(g).all())]
    return f"the gradient by {bad[0]} is not finite" if bad else ""


Place = str | int | None


def _with_ignored(problem: Problem) -> tuple[Problem, int, Place]:
    """Return the problem, the index of ignored targets, and where its target is: None for that of the loss."""
    if problem.loss is not None:
        index = getattr(problem.loss, "ignore_index", None)
        if index is None or not isinstance(problem.target, Tensor) or problem.target.is_floating_point():
            raise Skipped("the loss ignores no target")
        return problem, int(index), None
    if isinstance(problem.subject, nn.Module):
        raise Skipped("no loss")
    try:
        parameters = inspect.signature(problem.subject).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]  # no parameter is as good as an empty mapping of them
    if "ignore_index" not in parameters:
        raise Skipped("it ignores no target")
    default = parameters["ignore_index"].default
    names = list(parameters)
    arguments: dict[Place, Any] = dict(enumerate(problem.args))
    arguments.update(problem.kwargs.items())
    index = problem.kwargs.get("ignore_index", default)
    if "ignore_index" not in problem.kwargs and names.index("ignore_index") < len(problem.args):
        index = problem.args[names.index("ignore_index")]
    place = next((p for p, a in arguments.items() if isinstance(a, Tensor) and a.dtype == torch.int64), None)
    if place is None or not isinstance(index, int):
        raise Skipped("no target of class indices")
    return problem, index, place


def _target(problem: Problem, place: Place) -> Tensor:
    found: Tensor = (
        problem.target if place is None else problem.args[place] if isinstance(place, int) else problem.kwargs[place]
    )
    return found


def _with_target(problem: Problem, place: Place, target: Tensor) -> Problem:
    if place is None:
        return replace(problem, target=target)
    if isinstance(place, int):
        return replace(problem, args=(*problem.args[:place], target, *problem.args[place + 1 :]))
    return replace(problem, kwargs={**problem.kwargs, place: target})


def _reduction(problem: Problem) -> Any:
    return problem.kwargs.get("reduction", "mean")


def _one_more(rows: int) -> Callable[[Tensor], Tensor]:
    """Return what repeats the first of so many rows at the end."""

    def change(tensor: Tensor) -> Tensor:
        return torch.cat((tensor, tensor[:1])) if tensor.ndim and tensor.shape[0] == rows else tensor

    return change


def _with_none_for_more(plain: Gradients, padded: Problem) -> Gradients:
    """Return the gradients that are due with rows added: zero for those."""

    def due(gradient: Tensor, size: int) -> Tensor:
        return torch.cat((gradient, torch.zeros_like(gradient[: size - len(gradient)]))) if gradient.ndim else gradient

    return {
        name: None if gradient is None else due(gradient, len(padded.tensors[name]) if gradient.ndim else 0)
        for name, gradient in plain.items()
    }


def _cut(part: slice) -> Callable[[Tensor], Tensor]:
    return lambda t: t[part]


def _refuse_mixing(fewer: Problem, more: Problem, part: slice) -> None:
    """Raise Skipped where a row's output depends on the others, as in batch norm, or on what is drawn."""
    with torch.no_grad():
        pairs = zip(floating(fewer.call()), floating(more.call()), strict=True)
        if any(a.shape != b[part].shape or not torch.allclose(a, b[part], rtol=1e-9, atol=1e-12) for a, b in pairs):
            raise Skipped("a row's output depends on the others, or on what is drawn")


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    apply_to_collection(value, Tensor, found.append)
    return found


def _rows(target: Any) -> int:
    found = _tensors(target)
    return found[0].shape[0] if found and found[0].ndim else 0
