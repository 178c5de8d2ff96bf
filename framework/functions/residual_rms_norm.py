"""A residual connection and the normalisation after it, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.compiled import fused
from framework.functions.contract import Call, Function, hand_written, pull_back
from framework.functions.normalization import as_norms_in_autocast, check_last
from framework.functions.opaque import opaque
from framework.functions.rms_norm import normalise_rows, rms_norm_backward, rms_norm_gradients


class ResidualRMSNorm(Function):
    """h = x + s, y = γ r h, r = (mean h² + ε)^(−½); with δ = ∂L/∂y and η = ∂L/∂h of what comes after:
    ∂L/∂x = ∂L/∂s = η + r (γ δ − r h mean(γ δ r h)), ∂L/∂γ = Σ δ r h over the rows.

    N rows, H features: x, s, h, y (N, H), γ (H,), r (N, 1). What is kept is h, which is an output, and r. Source:
    Zhang & Sennrich, 2019, arXiv:1910.07467, eq. 4, and the sum rule: h has two uses.
    """

    @staticmethod
    def forward(
        inputs_NH: Tensor, residual_NH: Tensor, weight_H: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # a compiler fuses the formulas with what is around them, and keeps no more than h and r for them
        if torch.compiler.is_compiling():
            return add_and_normalise_rows(inputs_NH, residual_NH, weight_H, eps)
        output_NH, sum_NH, scale_N1 = residual_rms_norm_forward(inputs_NH, residual_NH, weight_H, eps)
        return output_NH, sum_NH, scale_N1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        inputs_NH, residual_NH, weight_H, ctx.eps = inputs
        ctx.dtypes = inputs_NH.dtype, residual_NH.dtype
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight_H, *output[1:])

    @staticmethod
    def backward(ctx: Any, delta_NH: Tensor | None, past_NH: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        weight_H, sum_NH, scale_N1 = ctx.saved_tensors
        of_inputs, of_residual, of_weight, _ = ctx.needs_input_grad
        gradient_NH: Tensor | None = past_NH
        of_weight_H: Tensor | None = None
        if delta_NH is not None and torch.is_grad_enabled():
            needed = (of_inputs or of_residual, of_weight, False)
            gradient_NH, of_weight_H = pull_back(_norm, (sum_NH, weight_H, ctx.eps), needed, delta_NH)[:2]
            if gradient_NH is not None and past_NH is not None:
                gradient_NH = gradient_NH + past_NH
        elif delta_NH is not None:
            gradients = rms_norm_gradients if torch.compiler.is_compiling() else rms_norm_backward
            gradient_NH, of_weight_H = gradients(delta_NH, past_NH, sum_NH, weight_H, scale_N1, of_weight)
            of_weight_H = of_weight_H if weight_H is None else of_weight_H.to(weight_H.dtype)
        return (
            gradient_NH.to(ctx.dtypes[0]) if of_inputs and gradient_NH is not None else None,
            gradient_NH.to(ctx.dtypes[1]) if of_residual and gradient_NH is not None else None,
            of_weight_H if of_weight else None,
            None,
        )


def add_and_normalise_rows(
    inputs_NH: Tensor, residual_NH: Tensor, weight_H: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ r h, h and r; see ResidualRMSNorm."""
    sum_NH = inputs_NH + residual_NH
    output_NH, scale_N1 = normalise_rows(sum_NH, weight_H, eps)
    return output_NH, sum_NH, scale_N1


add_and_normalise = fused(add_and_normalise_rows)


def _fake(inputs_NH: Tensor, residual_NH: Tensor, weight_H: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(inputs_NH.dtype, residual_NH.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    shape = inputs_NH.shape
    return (
        inputs_NH.new_empty(shape, dtype=dtype),
        inputs_NH.new_empty(shape, dtype=dtype),
        inputs_NH.new_empty((shape[0], 1), dtype=wide),
    )


@opaque(
    "residual_rms_norm_forward(Tensor inputs, Tensor residual, Tensor? weight, float eps) -> (Tensor, Tensor, Tensor)",
    _fake,
)
def residual_rms_norm_forward(
    inputs_NH: Tensor, residual_NH: Tensor, weight_H: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ r h, h and r."""
    outputs: tuple[Tensor, Tensor, Tensor] = add_and_normalise(
        inputs_NH.numel(), inputs_NH.contiguous(), residual_NH.contiguous(), weight_H, eps
    )
    return outputs


def _norm(sum_NH: Tensor, weight_H: Tensor | None, eps: float) -> Tensor:
    return nn.functional.rms_norm(sum_NH, sum_NH.shape[-1:], weight_H, eps)


def _reference(
    inputs: Tensor, residual: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    total = inputs + residual
    return _norm(total, weight, eps), total


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    zeros = torch.zeros(4, 6, dtype=torch.float64)
    return {
        "weight": Call((draw(5, 6), draw(5, 6), draw(6))),
        "no weight": Call((draw(5, 6), draw(5, 6))),
        "three dimensions": Call((draw(2, 3, 6), draw(2, 3, 6), draw(6)), {"eps": 1e-3}),
        "large values": Call((draw(5, 6, scale=1e3), draw(5, 6, scale=1e3), draw(6))),
        "small values": Call((draw(5, 6, scale=1e-3), draw(5, 6, scale=1e-3), draw(6)), {"eps": 1e-1}),
        "rows of zeros": Call((zeros.clone().requires_grad_(), zeros.clone().requires_grad_(), draw(6)), {"eps": 1e-1}),
        "strided": Call((draw(6, 5).detach().t().requires_grad_(), draw(5, 6), draw(6))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs, residual = (torch.randn(512, 256, generator=generator).requires_grad_() for _ in range(2))
    return Call((inputs, residual, nn.Parameter(torch.ones(256)))), inputs.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def residual_rms_norm(
    inputs: Tensor, residual: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return the normalised sum γ h / √(mean h² + ε) and the sum h = inputs + residual, both (..., H).

    The mean is over the last dimension. Raises ValueError where the shapes do not fit.
    """
    if inputs.shape != residual.shape:
        raise ValueError(
            "residual_rms_norm: inputs and residual must have the same shape, got "
            f"{tuple(inputs.shape)} and {tuple(residual.shape)}."
        )
    check_last("residual_rms_norm", inputs, weight)
    inputs, residual, weight = as_norms_in_autocast(inputs, residual, weight)
    rows = (-1, inputs.shape[-1])
    output, total, _ = ResidualRMSNorm.apply(inputs.reshape(rows), residual.reshape(rows), weight, eps)
    return output.view(inputs.shape), total.view(inputs.shape)
