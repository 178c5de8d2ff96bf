"""The gate of transformers' networks and the projection after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, pull_back, to_autocast_dtype
from framework.functions.opaque import opaque
from framework.functions.swiglu import check_gate, write_gradients


class SwiGLUDown(Function):
    """z = a Wᵀ, a = u g σ(g); with δ = ∂L/∂z: ∂L/∂W = δᵀ a, ∂L/∂a = δ W, and from there as in SwiGLU.

    N rows, F features, O outputs: g, u, a (N, F), W (O, F), z (N, O). What is kept is g and u: a is computed again,
    which takes a fiftieth of the time of a product. Source: Shazeer, 2020, arXiv:2002.05202, eq. 6.
    """

    @staticmethod
    def forward(gate_NF: Tensor, up_NF: Tensor, weight_OF: Tensor) -> Tensor:
        output_NO: Tensor = swiglu_down_forward(gate_NF, up_NF, weight_OF)
        return output_NO

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, delta_NO: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return pull_back(_reference, ctx.saved_tensors, ctx.needs_input_grad, delta_NO)
        of_gate, of_up, of_weight = ctx.needs_input_grad
        gradients = swiglu_down_backward(delta_NO, *ctx.saved_tensors, of_gate or of_up, of_weight)
        return tuple(g if n else None for g, n in zip(gradients, ctx.needs_input_grad, strict=True))


@opaque(
    "swiglu_down_forward(Tensor gate, Tensor up, Tensor weight) -> Tensor",
    lambda gate_NF, up_NF, weight_OF: gate_NF.new_empty(gate_NF.shape[0], weight_OF.shape[0]),
)
def swiglu_down_forward(gate_NF: Tensor, up_NF: Tensor, weight_OF: Tensor) -> Tensor:
    """Return z; see SwiGLUDown."""
    return _gated(gate_NF, up_NF).mm(weight_OF.t())


def _fake(
    delta_NO: Tensor, gate_NF: Tensor, up_NF: Tensor, weight_OF: Tensor, of_hidden: bool, of_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        gate_NF.new_empty(gate_NF.shape if of_hidden else 0),
        up_NF.new_empty(up_NF.shape if of_hidden else 0),
        weight_OF.new_empty(weight_OF.shape if of_weight else 0),
    )


@opaque(
    "swiglu_down_backward(Tensor delta, Tensor gate, Tensor up, Tensor weight, bool of_hidden, bool of_weight)"
    " -> (Tensor, Tensor, Tensor)",
    _fake,
)
def swiglu_down_backward(
    delta_NO: Tensor, gate_NF: Tensor, up_NF: Tensor, weight_OF: Tensor, of_hidden: bool, of_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ∂L/∂g, ∂L/∂u and ∂L/∂W, empty where they are not asked for."""
    # the weight first: a is gone again before the gradients of its size are made
    of_weight_OF = delta_NO.t().mm(_gated(gate_NF, up_NF)) if of_weight else weight_OF.new_empty(0)
    if not of_hidden:
        return gate_NF.new_empty(0), up_NF.new_empty(0), of_weight_OF
    of_hidden_NF, of_up_NF = delta_NO.mm(weight_OF), up_NF.new_empty(up_NF.shape)
    write_gradients(of_hidden_NF, gate_NF, up_NF, of_gate_NF=of_hidden_NF, of_up_NF=of_up_NF)
    return of_hidden_NF, of_up_NF, of_weight_OF


def _gated(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    return nn.functional.silu(gate_NF).mul_(up_NF)


def _reference(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.linear(nn.functional.silu(gate) * up, weight)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {
        "rows": Call((draw(4, 6), draw(4, 6), draw(3, 6))),
        "three dimensions": Call((draw(2, 3, 6), draw(2, 3, 6), draw(3, 6))),
        "one row": Call((draw(6), draw(6), draw(3, 6))),
        "saturated": Call((draw(4, 6, scale=1e3), draw(4, 6), draw(3, 6))),
        "near zero": Call((draw(4, 6, scale=1e-3), draw(4, 6, scale=1e-3), draw(3, 6))),
        "strided": Call(
            (draw(6, 4).detach().t().requires_grad_(), draw(4, 6), draw(6, 3).detach().t().requires_grad_())
        ),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    gate, up = (torch.randn(512, 256, generator=generator).requires_grad_() for _ in range(2))
    weight = nn.Parameter(torch.randn(64, 256, generator=generator))
    return Call((gate, up, weight)), gate.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def swiglu_down(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """Return (gate · σ(gate) · up) Wᵀ: (..., F), (..., F) and (O, F) -> (..., O).

    Raises ValueError where the shapes do not fit.
    """
    check_gate("swiglu_down", gate, up)
    if weight.ndim != 2 or weight.shape[1] != gate.shape[-1]:
        raise ValueError(
            f"swiglu_down: gate must be (..., F) and weight (O, F), got {tuple(gate.shape)} and {tuple(weight.shape)}."
        )
    gate, up, weight = to_autocast_dtype(gate, up, weight)
    rows = (-1, gate.shape[-1])
    output: Tensor = SwiGLUDown.apply(gate.reshape(rows), up.reshape(rows), weight)
    return output.view(*gate.shape[:-1], weight.shape[0])
