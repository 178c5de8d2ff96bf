"""The gate of transformers' networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.compiled import row_blocks
from framework.functions.contract import Call, Function, hand_written
from framework.functions.opaque import opaque


class SwiGLU(Function):
    """y = u g σ(g); with δ = ∂L/∂y: ∂L/∂u = δ g σ(g), ∂L/∂g = δ u (σ(g) + g σ(g) (1 − σ(g))).

    The gate g, the values u and y have one shape, here N rows of F features. What is kept is g and u: σ(g) is
    computed again. Source: Shazeer, 2020, arXiv:2002.05202, eq. 5, with σ′ = σ (1 − σ).
    """

    @staticmethod
    def forward(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        return nn.functional.silu(gate_NF) * up_NF

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, delta_NF: Tensor) -> tuple[Tensor | None, ...]:
        gate_NF, up_NF = ctx.saved_tensors
        of_gate, of_up = ctx.needs_input_grad
        # a compiler fuses the formula with what is around it, and keeps no more than g and u for it
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            gradients_NF = _gradients(delta_NF, gate_NF, up_NF)
        else:
            gradients_NF = swiglu_backward(delta_NF, gate_NF, up_NF)
        return gradients_NF[0] if of_gate else None, gradients_NF[1] if of_up else None


def _gradients(delta: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(gate.dtype, torch.float32)
    sigmoid = gate.to(wide).sigmoid()
    silu = gate * sigmoid
    return (delta * up * (sigmoid + silu * (1 - sigmoid))).to(gate.dtype), (delta * silu).to(up.dtype)


def write_gradients(delta_NF: Tensor, gate_NF: Tensor, up_NF: Tensor, of_gate_NF: Tensor, of_up_NF: Tensor) -> None:
    """Write ∂L/∂g and ∂L/∂u, see SwiGLU; `of_gate` may be `delta` itself, which it then replaces."""
    wide = torch.promote_types(gate_NF.dtype, torch.float32)
    for delta, gate, up, of_gate, of_up in row_blocks(delta_NF, gate_NF, up_NF, of_gate_NF, of_up_NF):
        sigmoid = gate.to(wide).sigmoid()
        silu = gate * sigmoid
        torch.mul(delta, silu, out=of_up)
        slope = sigmoid.addcmul_(silu, 1 - sigmoid)
        torch.mul(delta, slope.mul_(up), out=of_gate)


def _fake(delta_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    return gate_NF.new_empty(gate_NF.shape), up_NF.new_empty(up_NF.shape)


@opaque("swiglu_backward(Tensor delta, Tensor gate, Tensor up) -> (Tensor, Tensor)", _fake)
def swiglu_backward(delta_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂L/∂g and ∂L/∂u; see SwiGLU."""
    of_gate_NF, of_up_NF = gate_NF.new_empty(gate_NF.shape), up_NF.new_empty(up_NF.shape)
    write_gradients(delta_NF, gate_NF, up_NF, of_gate_NF, of_up_NF)
    return of_gate_NF, of_up_NF


def _reference(gate: Tensor, up: Tensor) -> Tensor:
    return nn.functional.silu(gate) * up


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {
        "rows": Call((draw(4, 6), draw(4, 6))),
        "three dimensions": Call((draw(2, 3, 6), draw(2, 3, 6))),
        "one row": Call((draw(6), draw(6))),
        "saturated": Call((draw(4, 6, scale=1e3), draw(4, 6))),
        "near zero": Call((draw(4, 6, scale=1e-3), draw(4, 6, scale=1e-3))),
        "strided": Call((draw(6, 4).detach().t().requires_grad_(), draw(4, 6))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    gate, up = (torch.randn(512, 256, generator=generator).requires_grad_() for _ in range(2))
    return Call((gate, up)), gate.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return gate · σ(gate) · up, all of one shape (..., F); raises ValueError where the two differ."""
    check_gate("swiglu", gate, up)
    output: Tensor = SwiGLU.apply(gate.reshape(-1, gate.shape[-1]), up.reshape(-1, gate.shape[-1]))
    return output.view(gate.shape)


def check_gate(name: str, gate: Tensor, up: Tensor) -> None:
    """Raise ValueError unless both are (..., F)."""
    if gate.ndim == 0 or gate.shape != up.shape:
        raise ValueError(
            f"{name}: gate and up must have the same shape (..., F), got {tuple(gate.shape)} and {tuple(up.shape)}."
        )
