"""Normalisation of each channel over the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written
from framework.functions.normalization import cast, widened


class BatchNorm(Function):
    """y = γ x̂ + β, x̂ = r (x − μ), μ = mean x, v = mean (x − μ)², r = (v + ε)^(−½); with δ = ∂L/∂y:
    ∂L/∂x = γ r (δ − mean δ − x̂ mean(δ x̂)), ∂L/∂γ = Σ δ x̂, ∂L/∂β = Σ δ.

    C channels: x (N, C, ...), all else (C,); sums and means are over the M = N × positions values of a channel. The
    statistics μ and v are outputs as well, with ∂μ/∂x = 1/M and ∂v/∂x = 2 (x − μ)/M.
    Source: Ioffe & Szegedy, 2015, arXiv:1502.03167, section 3, with the terms of their ∂L/∂x collected.
    """

    @staticmethod
    def forward(
        inputs: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide, weight_C, bias_C = widened(inputs, weight_C, bias_C)
        output, mean_C, scale_C = torch.native_batch_norm(wide, weight_C, bias_C, None, None, True, 0.0, eps)
        # exact to rounding of v + ε, which is what v is for; below 0 by rounding where v is 0
        variance_C = (scale_C.pow(-2) - eps).clamp(min=0)
        return cast(output, inputs.dtype), mean_C, variance_C

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, weight_C, bias_C, ctx.eps = inputs
        ctx.bias_dtype = None if bias_C is None else bias_C.dtype
        ctx.save_for_backward(values, weight_C, output[1], output[2])

    @staticmethod
    def backward(
        ctx: Any, delta: Tensor, of_mean_C: Tensor | None = None, of_variance_C: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        inputs, weight_C, mean_C, variance_C = ctx.saved_tensors
        of_inputs, of_weight, of_bias, _ = ctx.needs_input_grad
        over = [d for d in range(inputs.ndim) if d != 1]
        per_channel = (-1, *[1] * (inputs.ndim - 2))
        count = inputs.numel() // inputs.shape[1]

        delta = cast(delta, mean_C.dtype)
        scale_C = (variance_C + ctx.eps).rsqrt()
        centred = inputs - mean_C.view(per_channel)
        of_bias_C = delta.sum(over)
        of_weight_C = (delta * centred).sum(over) * scale_C
        gradient = None
        if of_inputs:
            slope_C = scale_C if weight_C is None else scale_C * weight_C
            of_centred_C = slope_C * scale_C * of_weight_C / -count
            constant_C = slope_C * of_bias_C / -count
            if of_mean_C is not None and of_variance_C is not None:
                of_centred_C = of_centred_C + of_variance_C * (2 / count)
                constant_C = constant_C + of_mean_C / count
            slope, of_centred, constant = (c.view(per_channel) for c in (slope_C, of_centred_C, constant_C))
            gradient = torch.addcmul(torch.addcmul(constant, delta, slope), centred, of_centred)
            gradient = cast(gradient, inputs.dtype)
        return (
            gradient,
            cast(of_weight_C, weight_C.dtype) if of_weight else None,
            cast(of_bias_C, ctx.bias_dtype) if of_bias else None,
            None,
        )


def _reference(
    inputs: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    output = nn.functional.batch_norm(inputs, None, None, weight, bias, True, 0.0, eps)
    variance, mean = torch.var_mean(inputs, [d for d in range(inputs.ndim) if d != 1], correction=0)
    return output, mean, variance


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    constant_channels = draw(5, 4).detach()
    constant_channels[:, 1] = 0
    constant_channels[:, 2] = 3
    return {
        "weight and bias": Call((draw(5, 4), draw(4), draw(4))),
        "weight": Call((draw(5, 4), draw(4))),
        "no weight, no bias": Call((draw(5, 4),)),
        "sequences": Call((draw(3, 4, 5), draw(4), draw(4)), {"eps": 1e-3}),
        "images": Call((draw(3, 4, 2, 3), draw(4), draw(4))),
        "one image": Call((draw(1, 4, 2, 3), draw(4), draw(4))),
        "large values": Call((draw(5, 4, scale=1e2), draw(4), draw(4))),
        "small values": Call((draw(5, 4, scale=1e-3), draw(4), draw(4)), {"eps": 1e-1}),
        "constant channels": Call((constant_channels.requires_grad_(), draw(4), draw(4)), {"eps": 1e-1}),
        "strided": Call((draw(4, 5).detach().t().requires_grad_(), draw(4), draw(4))),
        "channels last": Call((draw(3, 2, 3, 4).detach().permute(0, 3, 1, 2).requires_grad_(), draw(4), draw(4))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(64, 8, 16, 16, generator=generator).requires_grad_()
    return Call((inputs, nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8)))), inputs.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def batch_norm(
    inputs: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ (x − mean) / √(variance + ε) + β, and the mean and the biased variance of each channel in the batch.

    (N, C, ...), (C,) and (C,) -> (N, C, ...), (C,) and (C,). Raises ValueError where the shapes do not fit, and where
    a channel has only one value.
    """
    if inputs.ndim < 2 or any(p is not None and p.shape != inputs.shape[1:2] for p in (weight, bias)):
        shapes = [tuple(p.shape) for p in (weight, bias) if p is not None]
        raise ValueError(
            "batch_norm: inputs must be (N, C, ...), and weight and bias (C,), got inputs "
            f"{tuple(inputs.shape)} and parameters {shapes}."
        )
    check_values_per_channel(inputs)
    output, mean, variance = BatchNorm.apply(inputs, weight, bias, eps)
    return output, mean, variance


def check_values_per_channel(inputs: Tensor) -> None:
    """Raise ValueError where a channel has only one value."""
    if inputs.numel() < 2 * inputs.shape[1]:
        raise ValueError(
            "batch_norm: expected more than 1 value per channel, else each is its own mean, "
            f"got inputs {tuple(inputs.shape)}: take a larger batch."
        )
