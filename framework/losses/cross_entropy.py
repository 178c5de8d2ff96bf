"""Cross-entropy on logits, and the negative log-likelihood that is its half on log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from framework.registry import Fraction, NonNegative, loss

ClassDim = Literal["inferred", "last", "second"]


class ClassLoss(nn.Module):
    """What losses over classes share: class weights, ignored targets, and where the classes are.

    Scores are (..., C) with targets (...), as a language model's (B, T, V) with (B, T), or torch's (N, C, d₁, ...)
    with (N, d₁, ...). Where both fit, or the target is probabilities of three or more dimensions, `class_dim`
    decides; left to be inferred, the last dimension is taken for class indices, and ValueError raised for
    probabilities.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Sequence[NonNegative] | None = None,
        ignore_index: int = -100,
        class_dim: ClassDim = "inferred",
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.get_default_dtype())
        self.register_buffer("class_weights", weights, persistent=False)
        self.ignore_index = ignore_index
        self.class_dim = class_dim

    def weight(self, target: Tensor) -> Tensor | int:
        """Return the sum of the weights of the targets that are not ignored; of probabilities, the rows."""
        if target.is_floating_point():
            return target.numel() // target.shape[self._dim_of_probabilities(target)]
        return row_weights(target, self.ignore_index, self.class_weights).sum()

    def find_classes(self, prediction: Tensor, target: Tensor) -> int:
        """Return the dimension of the classes; raise ValueError where the shapes do not fit."""
        if target.is_floating_point():
            fits = prediction.shape == target.shape
            dims = [self._dim_of_probabilities(target)] if fits else []
        else:
            dims = [d for d in self._dims(prediction.ndim) if _without(prediction.shape, d) == target.shape]
        if not dims:
            raise ValueError(
                f"{type(self).__name__}: prediction must be (..., classes) or (N, classes, ...) and target the same "
                f"without the classes, or probabilities of the same shape, got {tuple(prediction.shape)} and "
                f"{target.dtype} {tuple(target.shape)}."
            )
        classes = prediction.shape[dims[0]]
        if self.class_weights is not None and self.class_weights.numel() != classes:
            raise ValueError(
                f"{type(self).__name__}: class_weights must have one weight for each of the {classes} classes, "
                f"got {self.class_weights.numel()}."
            )
        return dims[0]

    def mean(self, log_p: Tensor, target: Tensor, dim: int, smoothing: float = 0.0) -> Tensor:
        """Return the mean for class indices: see CrossEntropy."""
        if not smoothing and (self.class_weights is None or self.class_weights.dtype == log_p.dtype):
            total = row_weights(target, self.ignore_index, self.class_weights).sum()
            return self._sum(log_p, target.long(), dim) / torch.where(total == 0, 1, total)
        valid, index = split_ignored(target, self.ignore_index)
        terms = log_p.gather(dim, index.unsqueeze(dim)).squeeze(dim)
        weights = valid
        if self.class_weights is not None:
            weights = self.class_weights[index] * valid
            terms = terms * weights
        if smoothing:
            uniform = self._weighted(log_p, dim).mean(dim)
            terms = (1 - smoothing) * terms + smoothing * uniform
        total = weights.sum()
        return -torch.where(valid, terms, 0.0).sum() / torch.where(total == 0, 1, total)

    def _sum(self, log_p: Tensor, target: Tensor, dim: int) -> Tensor:
        """Return −Σₙ w_yₙ log p_n,yₙ, by torch's kernel."""
        if dim != 1:
            log_p, target = log_p.movedim(dim, -1).reshape(-1, log_p.shape[dim]), target.reshape(-1)
        return nll_loss(log_p, target, self.class_weights, ignore_index=self.ignore_index, reduction="sum")

    def _weighted(self, log_p: Tensor, dim: int) -> Tensor:
        """Multiply each class by its weight."""
        if self.class_weights is None:
            return log_p
        return log_p * self.class_weights.view(-1, *[1] * (log_p.ndim - 1 - dim))

    def _dims(self, ndim: int) -> list[int]:
        """Return the dimensions where the classes may be, the likelier first."""
        candidates = {"inferred": (ndim - 1, 1), "last": (ndim - 1,), "second": (1,)}[self.class_dim]
        return [d for d in dict.fromkeys(candidates) if 0 <= d < ndim]

    def _dim_of_probabilities(self, target: Tensor) -> int:
        dims = self._dims(target.ndim)
        if len(dims) != 1:
            raise ValueError(
                f"{type(self).__name__}: probabilities of shape {tuple(target.shape)} may have their classes in the "
                f"last or the second dimension: say class_dim='last' or 'second'; it is {self.class_dim!r}."
            )
        return dims[0]


def split_ignored(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return which class indices count, and int64 indices with 0 in place of those that do not."""
    target = target.long()
    valid = target != ignore_index
    return valid, torch.where(valid, target, 0)


def row_weights(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    """Return what each class index counts: its class's weight or 1, and 0 where it is ignored."""
    if class_weights is None:
        return target != ignore_index
    valid, index = split_ignored(target, ignore_index)
    return class_weights[index] * valid


def _without(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1 :])


@loss("cross_entropy")
class CrossEntropy(ClassLoss):
    """Cross-entropy of logits with class indices or class probabilities, for classification.

    With log p = log softmax(x), class weights w (1 unless given) and smoothing ε over C classes:
    class indices y, those equal to `ignore_index` left out:

        L = Σₙ [−(1 − ε) w_yₙ log p_n,yₙ − (ε/C) Σ_c w_c log p_nc] / Σₙ w_yₙ    (0 where nothing is left)

    and probabilities q, with q' = (1 − ε) q + ε/C over N rows, where nothing is ignored:

        L = −(1/N) Σₙ Σ_c w_c q'_nc log p_nc

    Where every w_yₙ of a batch is 0, its loss has weight 0, and its smoothing term is lost with it.
    Shapes are in ClassLoss; those that do not fit, or another number of class weights, raise ValueError.
    Source: the chapter, "Categorical Cross-Entropy"; smoothing: Szegedy et al. (2016), arXiv:1512.00567, section 7;
    the means are torch.nn.CrossEntropyLoss's.
    """

    def __init__(
        self,
        *,
        class_weights: Sequence[NonNegative] | None = None,
        ignore_index: int = -100,
        label_smoothing: Fraction = 0.0,
        class_dim: ClassDim = "inferred",
    ) -> None:
        super().__init__(class_weights=class_weights, ignore_index=ignore_index, class_dim=class_dim)
        self.label_smoothing = label_smoothing

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean, 0-d."""
        dim = self.find_classes(prediction, target)
        if prediction.shape[dim] == 1:
            raise ValueError("CrossEntropy over one class is always 0: take BCELogits for two, MSE for values.")
        log_p = prediction.log_softmax(dim)
        if not target.is_floating_point():
            return self.mean(log_p, target, dim, self.label_smoothing)
        classes = target.shape[dim]
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / classes
        return -(self._weighted(log_p, dim) * target).sum() / (target.numel() // classes)


@loss("nll")
class NLL(ClassLoss):
    """Negative log-likelihood of class indices under log-probabilities.

    L = −Σₙ w_yₙ ŷ_n,yₙ / Σₙ w_yₙ, those equal to `ignore_index` left out (0 where nothing is left). Shapes are in
    ClassLoss; those that do not fit, probabilities as target, or another number of class weights raise ValueError.
    Source: Bishop (2006), Pattern Recognition and Machine Learning, equation 4.108; the mean is torch.nn.NLLLoss's.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean, 0-d."""
        if target.is_floating_point():
            raise ValueError(
                f"NLL: target must be class indices, got {target.dtype}: kl_divergence takes probabilities."
            )
        return self.mean(prediction, target, self.find_classes(prediction, target))
