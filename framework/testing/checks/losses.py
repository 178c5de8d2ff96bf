"""What a loss has to do."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.gradients import check_function
from framework.losses.weighing import weigh
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.examples import ROWS, Example, Pair, examples_of, floats, leaves, rows

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
"""Of float64 sums in another order."""


def _wide(loss: Any, pair: Pair) -> tuple[Any, Any, Any]:
    """Return loss, prediction and target in float64."""
    return loss.double() if isinstance(loss, nn.Module) else loss, *floats(pair, lambda tensor: tensor.double())


def _value_and_gradients(loss: Any, prediction: Any, target: Any) -> tuple[Tensor, list[Tensor]]:
    prediction = floats(prediction, lambda tensor: tensor.detach().clone().requires_grad_())
    value = loss(prediction, target)
    if not isinstance(value, Tensor) or value.ndim:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise CheckError(f"it returns {shape} where a 0-d tensor is due")
    if not value.requires_grad:
        raise CheckError("its value has no gradient")
    gradients = torch.autograd.grad(value, leaves(prediction), allow_unused=True)
    return value.detach(), [torch.zeros(()) if g is None else g for g in gradients]


def _weight(loss: Any, target: Any) -> float:
    return float(weigh(loss, target))


@check(
    "loss",
    rule="the gradient is the derivative of the value",
    mend="compare the backward pass with the formula: framework.testing.assert_gradients says where it differs; "
    "a .detach(), .item() or torch.no_grad() in the forward pass cuts the gradient off",
)
def loss_gradients_are_right(subject: Subject) -> None:
    """Differentiate numerically, in float64."""
    for example, loss in examples_of(subject):
        loss, prediction, target = _wide(loss, example.pair())
        _value_and_gradients(loss, prediction, target)
        report = check_function(lambda p, loss=loss, target=target: loss(p, target), prediction, contexts=())
        if not report.ok:
            raise CheckError(f"with {example.name}: {' '.join(report.explain().split())[:400]}")


@check(
    "loss",
    rule="value and gradient are finite at saturated inputs: logits of ±10⁴, probabilities of 0 and 1",
    mend="compute in logarithms (log_softmax, logsigmoid, logsumexp), and where a logarithm or root of 0 can't be "
    "avoided, bound what goes in, not what comes out: torch.where after the fact still has a NaN gradient",
)
def loss_is_finite_when_saturated(subject: Subject) -> None:
    """Feed it the extremes."""
    for example, loss in examples_of(subject):
        prediction, target = example.pair()
        for extreme in example.saturated(prediction):
            value, gradients = _value_and_gradients(loss, extreme, target)
            if not torch.isfinite(value):
                raise CheckError(f"with saturated {example.name} its value is {value:g}")
            if not all(torch.isfinite(g).all() for g in gradients):
                raise CheckError(f"with saturated {example.name} its gradient is not finite")


def _mean_of_parts(loss: Any, prediction: Any, target: Any) -> float:
    total = weight = 0.0
    for index in torch.arange(_length(target)).tensor_split([2, 7]):
        part, of = rows(prediction, index), rows(target, index)
        count = _weight(loss, of)
        total, weight = total + (float(loss(part, of)) * count if count else 0.0), weight + count
    return total / weight


def _length(target: Any) -> int:
    found: list[int] = []
    for tensor in [target] if isinstance(target, Tensor) else target:
        found.append(len(tensor))
    return found[0]


def _parts_differ(subject: Subject, example: Example, loss: Any) -> str:
    """Say how the mean of parts differs from that of the whole, or nothing."""
    loss, prediction, target = _wide(loss, example.pair())
    for case, goal in [("", target), *_with_ignored(subject, target)]:
        whole, parts = float(loss(prediction, goal)), _mean_of_parts(loss, prediction, goal)
        if not abs(whole - parts) <= CLOSE["atol"] + CLOSE["rtol"] * abs(whole):
            return f"with {example.name}{case} the loss is {whole:.9g}, the weighted mean of three parts {parts:.9g}"
    return ""


def _with_ignored(subject: Subject, target: Any) -> list[tuple[str, Any]]:
    """Return a target of which some are ignored, where the loss can ignore."""
    names = {option.name for option in subject.component.signature.options}
    if "ignore_index" not in names or target.is_floating_point():
        return []
    ignored = target.clone()
    ignored[1:5] = getattr(subject.build(), "ignore_index", -100)
    return [(", four of them ignored,", ignored)]


def _is_additive(subject: Subject) -> bool:
    return bool(getattr(subject.factory, "additive", True))


@check(
    "loss",
    rule="the loss of a batch is the mean of its parts', weighed by weight(target)",
    mend="return the mean, and let weight(target) return the number of terms that it is over; "
    "where a batch is more than its parts, say so by the attribute additive = False",
)
def loss_is_the_mean_of_its_parts(subject: Subject) -> None:
    """Cut a batch in three."""
    if not _is_additive(subject):
        raise SkipTest("it says additive = False")
    for example, loss in examples_of(subject):
        if found := _parts_differ(subject, example, loss):
            raise CheckError(found)


@check(
    "loss",
    rule="additive = False is for a loss that is not the mean of its parts'",
    mend="leave the attribute out: the loss can be cut into micro-batches without a word",
)
def loss_is_not_additive_as_it_says(subject: Subject) -> None:
    """Cut a batch in three and see a difference."""
    if _is_additive(subject):
        raise SkipTest("it does not say additive = False")
    if not any(_parts_differ(subject, example, loss) for example, loss in examples_of(subject)):
        raise CheckError("it says additive = False, and the loss of every batch is the mean of its parts'")


@check(
    "loss",
    rule="the order of the examples does not matter",
    mend="let each term depend on the pair of its own row, not on its place in the batch",
)
def loss_ignores_the_order(subject: Subject) -> None:
    """Shuffle a batch."""
    for example, loss in examples_of(subject):
        loss, prediction, target = _wide(loss, example.pair())
        length = _length(target)
        order = torch.randperm(length, generator=torch.Generator().manual_seed(1))
        there, shuffled = float(loss(prediction, target)), float(loss(rows(prediction, order), rows(target, order)))
        if not abs(there - shuffled) <= CLOSE["atol"] + CLOSE["rtol"] * abs(there):
            raise CheckError(f"with {example.name} the loss is {there:.9g}, and {shuffled:.9g} in another order")


@check(
    "loss",
    rule="weight(target) is a finite number ≥ 0 that needs no prediction, or there is none and rows are counted",
    mend="return the number of terms that the mean is over, as a number or a 0-d tensor",
)
def loss_weight_is_a_count(subject: Subject) -> None:
    """Ask for it."""
    for example, loss in examples_of(subject):
        _, target = example.pair()
        weight = torch.as_tensor(weigh(loss, target))
        if weight.ndim or not torch.isfinite(weight.float()) or weight < 0:
            raise CheckError(f"with {example.name} the weight is {weight.tolist()}")


@check(
    "loss",
    rule="an option ignore_index leaves the targets of that value out, gradient included, and of nothing it makes 0",
    mend="mask what is ignored, divide by what is left, and by 1 where nothing is",
)
def loss_leaves_out_ignored(subject: Subject) -> None:
    """Ignore four rows, and all."""
    if "ignore_index" not in {option.name for option in subject.component.signature.options}:
        raise SkipTest("it has no option ignore_index")
    for example, loss in examples_of(subject):
        prediction, target = example.pair()
        for _, ignored in _with_ignored(subject, target):
            kept = torch.cat([torch.arange(1), torch.arange(5, ROWS)])
            value, (gradient, *_rest) = _value_and_gradients(loss, prediction, ignored)
            without = loss(prediction[kept], target[kept])
            if not torch.allclose(value, without):
                raise CheckError(f"four rows ignored give {value:.6g}, and without these rows it is {without:.6g}")
            if gradient[1:5].any():
                raise CheckError("ignored rows have a gradient")
            nothing, (gradient, *_rest) = _value_and_gradients(
                loss, prediction, torch.full_like(target, ignored[1].flatten()[0])
            )
            if nothing != 0 or gradient.any():
                raise CheckError(f"with every target ignored it is {nothing:g}, not 0 without a gradient")


@check(
    "loss",
    rule="a batch of no rows weighs 0 and adds nothing to any gradient, or raises a ValueError that says so",
    mend="let weight(target) come from the target's own size, and index or divide by nothing that may be missing",
)
def loss_bears_an_empty_batch(subject: Subject) -> None:
    """Feed it no rows of predictions that depend on a parameter."""
    for example, loss in examples_of(subject):
        prediction, target = (rows(part, torch.arange(0)) for part in example.pair())
        scale = torch.ones((), requires_grad=True)
        try:
            value = loss(floats(prediction, partial(torch.mul, scale)), target)
            weight = _weight(loss, target)
        except ValueError:
            continue
        except Exception as error:
            raise CheckError(f"with no rows of {example.name} it raises {type(error).__name__}: {error}") from None
        if weight != 0:
            raise CheckError(f"no rows of {example.name} weigh {weight:g}, not 0")
        gradient = torch.autograd.grad(value, scale, allow_unused=True)[0] if value.requires_grad else None
        if gradient is not None and gradient != 0:
            raise CheckError(f"with no rows of {example.name} a parameter's gradient is {gradient:g}, not 0")
