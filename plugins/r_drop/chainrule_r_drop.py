"""R-Drop."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.functional import kl_div

from framework.batching import Batch
from framework.errors import ConfigError
from framework.objective import Objective
from framework.registry import NonNegative, regularizer
from framework.regularizers import Regularizer


@regularizer("r_drop")
class RDrop(Regularizer):
    """Trains on each batch twice, under two dropout masks, and pulls the two predictions together.

    L = ½ (L₁ + L₂) + ½ α [KL(p₁‖p₂) + KL(p₂‖p₁)], α being `strength`: the batch goes through the model once, doubled;
    L₁ and L₂ are its halves' losses, p₁ and p₂ the softmax of their logits over C classes, KL the mean over the rows.
    Logits (N, C), (N, ..., C), or (N, C, ...) for class indices of their shape without C; (N,) or (N, 1) is one logit
    of two classes. The metrics see the first half. Needs a loss that is a mean over examples. Raises ConfigError for
    tasks without classes, ValueError for outputs that cannot be logits. Without dropout nothing differs and the loss
    alone is left; at strength 0 not even the batch is doubled.
    Source: Liang et al. (2021), arXiv:2106.14448, equations 2 to 4, with the mean where they have the sum of L₁ and L₂.
    """

    def __init__(self, task: str, *, strength: NonNegative = 1.0) -> None:
        if task == "regression":
            raise ConfigError("regularizer 'r_drop' compares probabilities of classes, and regression has none.")
        self.strength = strength

    def objective(self, objective: Objective) -> Objective:
        """Return the doubled objective; at strength 0 the one given."""
        return _Doubled(objective, self.strength) if self.strength else objective


class _Doubled:
    """An objective over a batch and its copy, with what separates their predictions added."""

    def __init__(self, objective: Objective, strength: float) -> None:
        self.inner = objective
        self.strength = strength

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        rows = _rows(batch)
        mean, weight, outputs = self.inner(model, _each(batch, rows, lambda t: torch.cat((t, t))))
        logits, dim = _logits(outputs, 2 * rows)
        divergence = _divergence(*logits.log_softmax(dim).split(rows), dim=dim)
        return mean + self.strength * divergence, weight / 2, _each(outputs, 2 * rows, lambda t: t[:rows])


def _rows(batch: Batch) -> int:
    """Return the first dimension of a batch's first tensor that has one."""
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append)
    return next((len(t) for t in found if t.ndim), 0)


def _each(batch: Any, rows: int, change: Any) -> Any:
    """Change the tensors that count the rows."""
    return apply_to_collection(batch, Tensor, lambda t: change(t) if t.ndim and len(t) == rows else t)


def _logits(outputs: Any, rows: int) -> tuple[Tensor, int]:
    """Return an objective's logits and the dimension of their classes, at least two; raise ValueError for others."""
    logits, target = outputs if isinstance(outputs, tuple | list) and len(outputs) == 2 else (outputs, None)
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or not logits.ndim or len(logits) != rows:
        got = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(
            f"regularizer 'r_drop' needs an objective with (logits, target) as outputs, one row for each of {rows} "
            f"examples, got {got}: leave it out."
        )
    if logits.ndim == 1:
        logits = logits.unsqueeze(1)
    dim = logits.ndim - 1
    if isinstance(target, Tensor) and not target.is_floating_point():
        without = {d: (*logits.shape[:d], *logits.shape[d + 1 :]) for d in (dim, 1)}
        dim = next((d for d, shape in without.items() if shape == target.shape), dim)
    if logits.shape[dim] == 1:
        logits = torch.cat((torch.zeros_like(logits), logits), dim)
    return logits, dim


def _divergence(log_p: Tensor, log_q: Tensor, *, dim: int) -> Tensor:
    """Return ½ [KL(p‖q) + KL(q‖p)], the mean over the rows."""
    both = kl_div(log_p, log_q, reduction="none", log_target=True) + kl_div(
        log_q, log_p, reduction="none", log_target=True
    )
    return both.sum(dim).mean() / 2
