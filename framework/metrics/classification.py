"""Metrics of classes: of logits (N, C), or (N,) and (N, 1) where there are two classes and one output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from torch import Tensor

from framework.errors import ConfigError
from framework.metrics.quotient import Quotient
from framework.metrics.shapes import IGNORED, Adapter, adapted, best_of, binary, probability_rows, rows
from framework.metrics.tasks import check_task
from framework.registry import Count, Range, metric

if TYPE_CHECKING:
    from torchmetrics import Metric

Average = Literal["micro", "macro", "weighted"]


def _build(name: str, outputs: int, average: str) -> Metric:
    """Return torchmetrics' of a name; values are not checked, which would synchronise."""
    from torchmetrics import classification

    if outputs == 1:
        return adapted(getattr(classification, f"Binary{name}"), binary)(ignore_index=IGNORED, validate_args=False)
    kind = adapted(getattr(classification, f"Multiclass{name}"), rows(outputs))
    return kind(num_classes=outputs, average=average, ignore_index=IGNORED, validate_args=False)


def _fraction_right(adapt: Adapter) -> Quotient:
    """Return the fraction of targets that are the class, or the likeliest of the scores, that `adapt` gives."""

    def right(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        predicted, index = adapt(prediction, target)
        predicted = predicted.max(-1).indices if predicted.ndim > 1 else predicted  # argmax takes longer
        return (predicted == index).sum(), index.ne(IGNORED).sum()

    return Quotient(right, higher_is_better=True)


def _side(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    probability, index = binary(prediction, target)
    return (probability > 0.5).long(), index


@metric("accuracy")
def accuracy(task: str, outputs: int, *, average: Average = "micro") -> Metric | Quotient:
    """Fraction of targets that get the highest score; of tokens in a language task.

    micro: correct / all; macro: the mean over classes of correct / all of the class; weighted: that mean weighted by
    the classes' sizes. With one output, the fraction on the right side of logit 0. Source: torchmetrics.
    """
    check_task("accuracy", task)
    if outputs == 1 or average == "micro":
        return _fraction_right(_side if outputs == 1 else rows(outputs))
    return _build("Accuracy", outputs, average)


@metric("top_k_accuracy")
def top_k_accuracy(task: str, outputs: int, *, k: Count = 5) -> Quotient:
    """Fraction of targets that are among the k highest scores.

    Raises ConfigError where there are not more than k classes, since then every answer is right.
    """
    check_task("top_k_accuracy", task)
    if k >= outputs:
        raise ConfigError(f"metric.top_k_accuracy.k must be < the number of classes, {outputs}, got {k}: lower it.")
    return _fraction_right(best_of(outputs, k))


@metric("precision")
def precision(task: str, outputs: int, *, average: Average = "macro") -> Metric:
    """Fraction of a class's predictions that are right: TP / (TP + FP), averaged over classes.

    With one output, that of class 1, where `average` has nothing to do. Source: torchmetrics.
    """
    check_task("precision", task)
    return _build("Precision", outputs, average)


@metric("recall")
def recall(task: str, outputs: int, *, average: Average = "macro") -> Metric:
    """Fraction of a class's targets that are found: TP / (TP + FN), averaged over classes.

    With one output, that of class 1, where `average` has nothing to do. Source: torchmetrics.
    """
    check_task("recall", task)
    return _build("Recall", outputs, average)


@metric("f1")
def f1(task: str, outputs: int, *, average: Average = "macro") -> Metric:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN), averaged over classes.

    With one output, that of class 1, where `average` has nothing to do. Source: torchmetrics.
    """
    check_task("f1", task)
    return _build("F1Score", outputs, average)


@metric("auroc")
def auroc(task: str, outputs: int, *, thresholds: Annotated[int, Range(2)] | None = None) -> Metric:
    """Area under the curve of true against false positive rate, each class against the rest, macro-averaged.

    Exact, which keeps every score until the interval ends; with `thresholds`, so many counts evenly spaced in
    probability instead. Source: torchmetrics.
    """
    check_task("auroc", task)
    from torchmetrics.classification import BinaryAUROC, MulticlassAUROC

    if outputs == 1:
        kind = adapted(BinaryAUROC, binary)
        return kind(thresholds=thresholds, ignore_index=IGNORED, validate_args=False)
    kind = adapted(MulticlassAUROC, probability_rows(outputs))
    return kind(num_classes=outputs, thresholds=thresholds, ignore_index=IGNORED, validate_args=False)
