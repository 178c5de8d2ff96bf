"""Normalisation of each example over its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written
from framework.functions.normalization import as_norms_in_autocast, cast, widened


class LayerNorm(Function):
    """y = γ x̂ + β, x̂ = r (x − μ), μ = mean x, r = (mean (x − μ)² + ε)^(−½); with δ = ∂L/∂y and ĝ = γ δ:
    ∂L/∂x = r (ĝ − mean ĝ − x̂ mean(ĝ x̂)), ∂L/∂γ = Σ δ x̂ and ∂L/∂β = Σ δ over the rows.

    N rows, H features: x (N, H), γ and β (H,) or None, the means over H. The statistics μ and r (N, 1) are outputs
    too, so that second derivatives pass through them: ∂μ/∂x = 1/H and ∂r/∂x = −r² x̂/H.
    Source: Ba et al., 2016, arXiv:1607.06450, eq. 3.
    """

    @staticmethod
    def forward(
        inputs_NH: Tensor, weight_H: Tensor | None, bias_H: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide_NH, weight_H, bias_H = widened(inputs_NH, weight_H, bias_H)
        output_NH, mean_N1, scale_N1 = torch.native_layer_norm(wide_NH, wide_NH.shape[-1:], weight_H, bias_H, eps)
        return cast(output_NH, inputs_NH.dtype), mean_N1, scale_N1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        inputs_NH, weight_H, bias_H, _ = inputs
        ctx.bias_dtype = None if bias_H is None else bias_H.dtype
        ctx.save_for_backward(inputs_NH, weight_H, output[1], output[2])

    @staticmethod
    def backward(
        ctx: Any, delta_NH: Tensor, of_mean_N1: Tensor | None = None, of_scale_N1: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        inputs_NH, weight_H, mean_N1, scale_N1 = ctx.saved_tensors
        of_inputs, of_weight, of_bias, _ = ctx.needs_input_grad
        delta_NH = cast(delta_NH, scale_N1.dtype)
        normed_NH = (inputs_NH - mean_N1) * scale_N1
        gradient_NH = of_weight_H = None
        if of_inputs:
            scaled_NH = delta_NH if weight_H is None else delta_NH * weight_H
            shift_N1 = scaled_NH.mean(-1, keepdim=True)
            slope_N1 = (scaled_NH * normed_NH).mean(-1, keepdim=True)
            if of_mean_N1 is not None and of_scale_N1 is not None:
                features = inputs_NH.shape[-1]
                shift_N1 = shift_N1 - of_mean_N1 / (features * scale_N1)
                slope_N1 = slope_N1 + of_scale_N1 * scale_N1 / features
            gradient_NH = torch.addcmul(scaled_NH - shift_N1, normed_NH, slope_N1, value=-1) * scale_N1
            gradient_NH = cast(gradient_NH, inputs_NH.dtype)
        if of_weight:
            of_weight_H = cast((delta_NH * normed_NH).sum(0), weight_H.dtype)
        of_bias_H = cast(delta_NH.sum(0), ctx.bias_dtype) if of_bias else None
        return gradient_NH, of_weight_H, of_bias_H, None


def _reference(
    inputs: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    return nn.functional.layer_norm(inputs, shape, weight, bias, eps)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    rows_of_zeros = draw(4, 6).detach()
    rows_of_zeros[1:3] = 0
    return {
        "weight and bias": Call((draw(5, 6), 6, draw(6), draw(6))),
        "weight": Call((draw(5, 6), (6,), draw(6))),
        "no weight, no bias": Call((draw(5, 6), 6)),
        "three dimensions": Call((draw(2, 3, 6), 6, draw(6), draw(6)), {"eps": 1e-3}),
        "over two dimensions": Call((draw(4, 2, 3), (2, 3), draw(2, 3), draw(2, 3))),
        "one row": Call((draw(6), 6, draw(6), draw(6))),
        "large values": Call((draw(5, 6, scale=1e3), 6, draw(6), draw(6))),
        "small values": Call((draw(5, 6, scale=1e-3), 6, draw(6), draw(6)), {"eps": 1e-1}),
        "rows of zeros": Call((rows_of_zeros.requires_grad_(), 6, draw(6), draw(6)), {"eps": 1e-1}),
        "strided": Call((draw(6, 5).detach().t().requires_grad_(), 6, draw(6), draw(6))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(512, 256, generator=generator).requires_grad_()
    return Call((inputs, 256, nn.Parameter(torch.ones(256)), nn.Parameter(torch.zeros(256)))), inputs.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def layer_norm(
    inputs: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return γ (x − mean) / √(variance + ε) + β, statistics over the last dimensions: (..., *S), S and S -> (..., *S).

    Raises ValueError where the shapes do not fit.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    parameters = [p for p in (weight, bias) if p is not None]
    if not shape or inputs.shape[-len(shape) :] != shape or any(p.shape != shape for p in parameters):
        raise ValueError(
            f"layer_norm: inputs must end in normalized_shape, and weight and bias be of it; got {tuple(inputs.shape)} "
            f"to be normalised over {shape}, with parameters {[tuple(p.shape) for p in parameters]}."
        )
    inputs, weight, bias = as_norms_in_autocast(inputs, weight, bias)
    flat = (p if p is None else p.reshape(-1) for p in (weight, bias))
    output: Tensor = LayerNorm.apply(inputs.reshape(-1, math.prod(shape)), *flat, eps)[0]
    return output.view(inputs.shape)
