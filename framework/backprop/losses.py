"""Which hand-written function a loss is, and with what arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from framework import losses
from framework.backprop.context import Context
from framework.functions.bce import BCE
from framework.functions.bce_logits import BCELogits
from framework.functions.contract import Function
from framework.functions.cross_entropy import CrossEntropy
from framework.functions.cross_entropy_rows import target_rows, to_rows
from framework.functions.huber import Huber
from framework.functions.mse import MSE
from framework.losses.base import check_same_shape
from framework.losses.weighing import weigh


@dataclass(slots=True)
class LossByHand:
    """A function and its arguments, the prediction first; `undo` gives its gradient the prediction's shape.

    `weight` finds the number of terms of the mean among the function's outputs, None where it is not there.
    """

    function: type[Function]
    arguments: tuple[Any, ...]
    undo: Callable[[Tensor], Tensor] | None = None
    weight: Callable[[Any], Tensor | None] | None = None


def _over_elements(function: type[Function], *options: str) -> Callable[[Any, Tensor, Tensor], LossByHand]:
    """Return the rule of a loss over elements, with some of its attributes as options."""

    def rule(loss: nn.Module, prediction: Tensor, target: Tensor) -> LossByHand:
        check_same_shape(loss, prediction, target)
        return LossByHand(function, (prediction, target, *(getattr(loss, name) for name in options), "mean"))

    return rule


def _classes_last(
    prediction: Tensor, target: Tensor, dim: int, weights: Tensor | None, ignored: int, smoothing: float
) -> LossByHand:
    """Return cross-entropy over rows, whichever dimension of the prediction its classes are."""
    options = (weights, ignored, smoothing, 0.0, None, "mean")
    if prediction.ndim == 2 and dim == 1:
        return LossByHand(
            CrossEntropy, (prediction, target_rows(target, prediction.shape[1]), *options), None, _counted
        )
    moved = prediction.movedim(dim, -1)
    target = target.movedim(dim, -1) if target.is_floating_point() else target
    rows = to_rows(moved)
    return LossByHand(
        CrossEntropy,
        (rows, target_rows(target, rows.shape[1]), *options),
        lambda gradient: gradient.view(moved.shape).movedim(-1, dim),
        _counted,
    )


def _counted(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
    """Return the sum of the weights of the targets, which the function has where it took the short way."""
    return None if outputs[2].ndim else outputs[2]


def _cross_entropy(loss: losses.CrossEntropy, prediction: Tensor, target: Tensor) -> LossByHand:
    dim = loss.find_classes(prediction, target)
    return _classes_last(prediction, target, dim, loss.class_weights, loss.ignore_index, loss.label_smoothing)


def _torch_cross_entropy(loss: nn.CrossEntropyLoss, prediction: Tensor, target: Tensor) -> LossByHand:
    dim = min(1, prediction.ndim - 1)
    return _classes_last(prediction, target, dim, loss.weight, loss.ignore_index, loss.label_smoothing)


RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], LossByHand]] = {
    losses.CrossEntropy: _cross_entropy,
    losses.MSE: _over_elements(MSE),
    losses.Huber: _over_elements(Huber, "delta"),
    losses.BCE: _over_elements(BCE),
    losses.BCELogits: _over_elements(BCELogits, "pos_weight"),
    nn.CrossEntropyLoss: _torch_cross_entropy,
    nn.MSELoss: _over_elements(MSE),
    nn.HuberLoss: _over_elements(Huber, "delta"),
    nn.BCEWithLogitsLoss: _over_elements(BCELogits, "pos_weight"),
}
"""What each loss is by hand."""


def differentiate(
    loss: nn.Module, prediction: Tensor, target: Tensor, cotangent: Callable[[Tensor, Tensor | float], Tensor]
) -> tuple[Tensor, Tensor | float, Tensor]:
    """Return a loss, the number of terms it is the mean of, and the error signal ∂L/∂prediction times the cotangent.

    `cotangent` is given the first two.
    """
    step = RULES[type(loss)](loss, prediction, target)
    context = Context()
    context.needs_input_grad = (True, *[False] * (len(step.arguments) - 1))
    output: Any = step.function.forward(*step.arguments)
    step.function.setup_context(context, step.arguments, output)
    counted = None if step.weight is None else step.weight(output)
    weight = weigh(loss, target) if counted is None else counted
    value: Tensor = output[0] if type(output) is tuple else output
    delta: Tensor = step.function.backward(context, cotangent(value, weight))[0]
    return value, weight, step.undo(delta) if step.undo else delta


def obstacle(loss: Any) -> str:
    """Return why a loss cannot be run by hand, or nothing where it can."""
    name = getattr(loss, "__name__", type(loss).__name__)
    if type(loss) not in RULES:
        return f"{name} has no hand-written backward"
    if getattr(loss, "reduction", "mean") != "mean":
        return f"{name} has reduction={loss.reduction!r}"
    if isinstance(loss, nn.BCEWithLogitsLoss) and loss.weight is not None:
        return f"{name} has a weight"
    return ""
