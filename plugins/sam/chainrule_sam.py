"""Sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from framework.registry import NonNegative, regularizer
from framework.regularizers import NamedParams, Regularizer

MARGIN = 0.01
"""What the adaptive form adds to |w|, so that weights of 0 move too: Kwon et al.'s η."""


@regularizer("sam")
class SAM(Regularizer):
    """Takes each step's gradient where the loss is highest nearby, which leads to flat minima: two passes a step.

    g ← ∇L(w + ε) with ε = ρ g / ‖g‖₂ over all weights together; `adaptive`: ε = ρ T² g / ‖T g‖₂ with T = |w| + 0.01 of
    each weight, so that the reach goes with the weights' size. ρ is `rho`; 0 takes no second pass. The weights are
    given back exactly. The gradient g is that of the loss over the step's whole batch, without penalties.
    Sources: Foret et al. (2021), arXiv:2010.01412, equations 2 and 3, who took ρ = 0.05; adaptive: Kwon et al. (2021),
    arXiv:2102.11600, equation 5, with ρ about ten times as large.
    """

    def __init__(self, *, rho: NonNegative = 0.05, adaptive: bool = False) -> None:
        self.rho = rho
        self.adaptive = adaptive

    @torch.no_grad()
    def second_pass(self, params: NamedParams, recompute: Callable[[], None]) -> None:
        """Exchange the gradients for those at the worst nearby weights."""
        weights: list[Tensor] = [p for p in params.values() if p.grad is not None]
        if not self.rho or not weights:
            return
        moves = self._moves(weights)
        before = [w.clone() for w in weights]
        torch._foreach_add_(weights, moves)
        try:
            recompute()
        finally:
            torch._foreach_copy_(weights, before)

    def _moves(self, weights: list[Tensor]) -> list[Tensor]:
        """Return ε of each weight; 0 where the gradient is."""
        scales = [w.abs().add_(MARGIN) for w in weights] if self.adaptive else None
        moves = [w.grad.clone() for w in weights if w.grad is not None]
        if scales is not None:
            torch._foreach_mul_(moves, scales)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(moves)))
        torch._foreach_mul_(moves, torch.where(norm > 0, self.rho / norm, 0.0))
        if scales is not None:
            torch._foreach_mul_(moves, scales)
        return moves
