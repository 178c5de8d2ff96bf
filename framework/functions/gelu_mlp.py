"""Two weighted layers with a GELU between them."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from framework.functions.compiled import row_blocks
from framework.functions.contract import Call, Function, hand_written, pull_back, to_autocast_dtype
from framework.functions.linear import linear
from framework.functions.opaque import opaque

Approximate = Literal["none", "tanh"]


class GELUDown(Function):
    """y = a Wᵀ + b, a = z Φ(z); with δ = ∂L/∂y: ∂L/∂W = δᵀ a, ∂L/∂b = Σ δ over the rows,
    ∂L/∂z = (δ W) (Φ(z) + z φ(z)).

    Φ is the normal distribution and φ = Φ′ its density, or approximately Φ(z) = ½ (1 + t), t = tanh q,
    q = √(2/π) (z + 0.044715 z³), φ(z) = ½ (1 − t²) q′(z). N rows, F features, O outputs: z, a (N, F), W (O, F),
    b (O,) or None. What is kept is z: a is computed again. Source: Hendrycks & Gimpel, 2016, arXiv:1606.08415,
    section 2.
    """

    @staticmethod
    def forward(hidden_NF: Tensor, weight_OF: Tensor, bias_O: Tensor | None, approximate: str) -> Tensor:
        output_NO: Tensor = gelu_down_forward(hidden_NF, weight_OF, bias_O, approximate)
        return output_NO

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.approximate = inputs[3]
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, delta_NO: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NF, weight_OF, bias_O = ctx.saved_tensors
        if torch.is_grad_enabled():
            arguments = (hidden_NF, weight_OF, bias_O, ctx.approximate)
            return pull_back(_formula, arguments, ctx.needs_input_grad, delta_NO)
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        of_hidden_NF, of_weight_OF = gelu_down_backward(
            delta_NO, hidden_NF, weight_OF, ctx.approximate, of_hidden, of_weight
        )
        return (
            of_hidden_NF if of_hidden else None,
            of_weight_OF if of_weight else None,
            delta_NO.sum(0) if of_bias else None,
            None,
        )


@opaque(
    "gelu_down_forward(Tensor hidden, Tensor weight, Tensor? bias, str approximate) -> Tensor",
    lambda hidden_NF, weight_OF, bias_O, approximate: hidden_NF.new_empty(hidden_NF.shape[0], weight_OF.shape[0]),
)
def gelu_down_forward(hidden_NF: Tensor, weight_OF: Tensor, bias_O: Tensor | None, approximate: str) -> Tensor:
    """Return y; see GELUDown."""
    return _formula(hidden_NF, weight_OF, bias_O, approximate)


def _fake(
    delta_NO: Tensor, hidden_NF: Tensor, weight_OF: Tensor, approximate: str, of_hidden: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        hidden_NF.new_empty(hidden_NF.shape if of_hidden else 0),
        weight_OF.new_empty(weight_OF.shape if of_weight else 0),
    )


@opaque(
    "gelu_down_backward(Tensor delta, Tensor hidden, Tensor weight, str approximate, bool of_hidden, bool of_weight)"
    " -> (Tensor, Tensor)",
    _fake,
)
def gelu_down_backward(
    delta_NO: Tensor, hidden_NF: Tensor, weight_OF: Tensor, approximate: str, of_hidden: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return ∂L/∂z and ∂L/∂W, empty where they are not asked for."""
    # the weight first: a is gone again before the gradient of its size is made
    of_weight_OF = weight_OF.new_empty(0)
    if of_weight:
        of_weight_OF = delta_NO.t().mm(nn.functional.gelu(hidden_NF, approximate=approximate))
    if not of_hidden:
        return hidden_NF.new_empty(0), of_weight_OF
    of_hidden_NF = delta_NO.mm(weight_OF)
    for gradient, hidden in row_blocks(of_hidden_NF, hidden_NF):
        gradient.mul_(_slope(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), approximate))
    return of_hidden_NF, of_weight_OF


def _slope(z: Tensor, approximate: str) -> Tensor:
    """Return the derivative of z Φ(z); see GELUDown."""
    if approximate == "tanh":
        square = z * z
        t = (square * 0.044715).add_(1).mul_(z).mul_(math.sqrt(2 / math.pi)).tanh_()
        slope_of_q = square.mul_(3 * 0.044715).add_(1).mul_(math.sqrt(2 / math.pi))
        density = torch.addcmul(t.new_ones(()), t, t, value=-1).mul_(slope_of_q)
        return t.add_(1).addcmul_(z, density).mul_(0.5)
    density = (z * z).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return (z * math.sqrt(0.5)).erf_().add_(1).mul_(0.5).addcmul_(z, density)


def _formula(hidden: Tensor, weight: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    return nn.functional.linear(nn.functional.gelu(hidden, approximate=approximate), weight, bias)


def _reference(
    inputs: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    *,
    approximate: Approximate = "none",
) -> Tensor:
    return _formula(nn.functional.linear(inputs, weight_in, bias_in), weight_out, bias_out, approximate)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {
        "biases": Call((draw(4, 3), draw(6, 3), draw(6), draw(2, 6), draw(2))),
        "no biases": Call((draw(4, 3), draw(6, 3), None, draw(2, 6), None)),
        "three dimensions": Call((draw(2, 4, 3), draw(6, 3), draw(6), draw(2, 6), draw(2))),
        "one row": Call((draw(3), draw(6, 3), draw(6), draw(2, 6), draw(2))),
        "tanh": Call((draw(4, 3), draw(6, 3), draw(6), draw(2, 6), draw(2)), {"approximate": "tanh"}),
        "saturated": Call((draw(4, 3), draw(6, 3), draw(6, scale=1e3), draw(2, 6), draw(2))),
        "saturated tanh": Call(
            (draw(4, 3), draw(6, 3), draw(6, scale=1e3), draw(2, 6), draw(2)), {"approximate": "tanh"}
        ),
        "near zero": Call((draw(4, 3, scale=1e-3), draw(6, 3), None, draw(2, 6), draw(2))),
        "strided": Call((draw(3, 4).detach().t().requires_grad_(), draw(6, 3), draw(6), draw(2, 6), draw(2))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(512, 64, generator=generator).requires_grad_()
    weight_in = nn.Parameter(torch.randn(256, 64, generator=generator))
    weight_out = nn.Parameter(torch.randn(64, 256, generator=generator))
    biases = nn.Parameter(torch.zeros(256)), nn.Parameter(torch.zeros(64))
    return Call((inputs, weight_in, biases[0], weight_out, biases[1])), inputs.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4 * (1 + 4))
def gelu_mlp(
    inputs: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    *,
    approximate: Approximate = "none",
) -> Tensor:
    """Return GELU(x W₁ᵀ + b₁) W₂ᵀ + b₂: (..., I), (F, I), (F,), (O, F) and (O,) -> (..., O).

    `approximate` is torch's: none, or tanh. Raises ValueError for another, and where the shapes do not fit.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu_mlp: approximate must be none or tanh, got {approximate!r}.")
    hidden = linear(inputs, weight_in, bias_in)
    if weight_out.ndim != 2 or weight_out.shape[1] != hidden.shape[-1]:
        raise ValueError(
            "gelu_mlp: weight_in must be (F, I) and weight_out (O, F), got "
            f"{tuple(weight_in.shape)} and {tuple(weight_out.shape)}."
        )
    hidden, weight_out, bias_out = to_autocast_dtype(hidden, weight_out, bias_out)
    output: Tensor = GELUDown.apply(hidden.view(-1, hidden.shape[-1]), weight_out, bias_out, approximate)
    return output.view(*inputs.shape[:-1], weight_out.shape[0])
