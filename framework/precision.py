"""Mixed precision: autocast, and loss scaling whose every decision stays on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

PrecisionName = Literal[32, "bf16", "fp16"]


class Precision:
    """Autocast of the forward pass, and for fp16 the scale of the loss (Micikevicius et al., 2018, section 3.2).

    The scale doubles after `GROWTH_INTERVAL` finite steps and halves after one that was not, which is skipped.
    """

    GROWTH_INTERVAL = 2000
    dtypes: dict[Any, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}  # noqa: RUF012  # never written

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        self.device = device
        self.dtype = self.dtypes.get(name)
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        """The type that sums and counts are kept in: float64, which Metal lacks."""
        self.scale = torch.tensor(2.0**16, device=device) if name == "fp16" else None
        self.finite_steps = torch.zeros((), device=device)

    def state(self) -> dict[str, Any]:
        """Return the scale and its count."""
        return {"scale": self.scale, "finite_steps": self.finite_steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned, where both scale."""
        if self.scale is not None and state["scale"] is not None:
            self.scale.copy_(state["scale"])
            self.finite_steps = state["finite_steps"].to(self.device, copy=True)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on."""
        return loss if self.scale is None else loss.float() * self.scale

    def unscale(self, gradients: Sequence[Tensor]) -> Tensor | None:
        """Divide the scale out of gradients; return whether any is not finite (0-d bool), or None unless fp16.

        Where one is not, all become zero, so that no state built from them is lost.
        """
        if self.scale is None:
            return None
        found = torch.zeros((), dtype=torch.bool, device=self.device)
        if gradients:
            torch._foreach_div_(list(gradients), self.scale)
            norms = torch._foreach_norm([g.float() for g in gradients])
            found = ~torch.isfinite(torch.stack(norms).sum())
        for gradient in gradients:
            gradient.masked_fill_(found, 0.0)
        grown = (self.finite_steps + 1 >= self.GROWTH_INTERVAL) & ~found
        self.scale *= torch.where(found, 0.5, torch.where(grown, 2.0, 1.0))
        self.finite_steps = torch.where(found | grown, 0.0, self.finite_steps + 1)
        return found


def masked(update: Callable[[], None], optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
    """Call `update`, and take it back where the 0-d bool `skip` is true; nothing is read on the host.

    Fused torch optimizers are handed `found_inf` and skip by themselves. The gradients become zero; weights get back
    their values, and state its values or, where this step made it, zero. Counters that are kept on the host's side of a
    CUDA model go on.
    """
    kept = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for param in kept:
        assert param.grad is not None
        param.grad.masked_fill_(skip, 0.0)
    before = {id(t): (t, t.detach().clone()) for t in (*kept, *_state(optimizer)) if t.device == skip.device}
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]  # torch's protocol
    try:
        update()
    finally:
        for name in ("grad_scale", "found_inf"):
            vars(optimizer).pop(name, None)
    with torch.no_grad():
        for tensor, old in before.values():
            tensor.copy_(torch.where(skip, old, tensor))
        for tensor in _state(optimizer):
            if id(tensor) not in before and tensor.device == skip.device:
                tensor.masked_fill_(skip, 0)


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
