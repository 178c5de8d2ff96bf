"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework import Callback, callback
from framework.parameters import named_tensors
from framework.registry import Count, Probability, Size

if TYPE_CHECKING:
    from framework import Trainer


@callback("ema")
class EMA(Callback):
    """Exponential moving average of the weights, evaluated and saved in their place (Polyak and Juditsky, 1992).

    The average begins as the weights after the first step past `start_step`; then, every `every` steps,
    average ← d · average + (1 − d) · weights with d = `decay`, or with `warmup` min(decay, (1 + n) / (10 + n)), where n
    counts the weights averaged so far. Parameters and floating-point buffers, such as batch norm's statistics, are
    averaged, half precision in float32; other buffers are taken as they are.
    """

    every_rank = True

    def __init__(
        self, *, decay: Probability = 0.999, warmup: bool = True, start_step: Size = 0, every: Count = 1
    ) -> None:
        self.decay, self.warmup, self.start_step, self.every = decay, warmup, start_step, every
        self._averages: dict[str, Tensor] = {}
        self._count = 0
        self._weights: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        """Begin anew in a new run."""
        self._weights = []
        if trainer.progress.step == 0:
            self._averages, self._count = {}, 0

    def on_step_end(self, trainer: Trainer) -> None:
        """Take the weights into the average, where that is due."""
        past = trainer.progress.step - self.start_step
        if past < 1 or (past - 1) % self.every:
            return
        if not self._weights:
            self._find(trainer)
        averages = list(self._averages.values())
        with torch.no_grad():
            weights = [w.to(a.dtype) for w, a in zip(self._weights, averages, strict=True)]
            torch._foreach_lerp_(averages, weights, 1 - self._rate())
        self._count += 1

    def evaluation_weights(self, trainer: Trainer) -> Mapping[str, Tensor] | None:
        """Return the averages, once there are any."""
        return self._averages or None

    def state(self) -> dict[str, Any]:
        """Return the averages and how many weights they are of."""
        return {"count": self._count, "averages": self._averages}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self._count = state["count"]
        self._averages = {name: tensor.clone() for name, tensor in state["averages"].items()}
        self._weights = []

    def _rate(self) -> float:
        """Return d of the next average; the first is the weights themselves."""
        if not self._count:
            return 0.0
        return min(self.decay, (1 + self._count) / (10 + self._count)) if self.warmup else self.decay

    def _find(self, trainer: Trainer) -> None:
        """Find the model's tensors, and give each an average on its device."""
        live = {name: t for name, t in named_tensors(trainer.model).items() if t.is_floating_point() or t.is_complex()}
        self._weights = list(live.values())
        kept, self._averages = self._averages, {}
        for name, tensor in live.items():
            wide = torch.promote_types(tensor.dtype, torch.float32)
            self._averages[name] = kept.get(name, tensor).to(tensor.device, wide, copy=True)
