"""Normalisation by the root mean square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.compiled import fused, row_blocks
from framework.functions.contract import Call, Function, hand_written, pull_back
from framework.functions.normalization import as_norms_in_autocast, check_last
from framework.functions.opaque import opaque


class RMSNorm(Function):
    """y = γ x̂, x̂ = r x, r = (mean x² + ε)^(−½); with δ = ∂L/∂y and ĝ = γ δ: ∂L/∂x = r (ĝ − x̂ mean(ĝ x̂)),
    ∂L/∂γ = Σ δ x̂ over the rows.

    N rows, H features: x (N, H), γ (H,) or None, r (N, 1); the means are over H. What is kept is x, and r in
    at least float32. Source: Zhang & Sennrich, 2019, arXiv:1910.07467, eq. 4; the second term is what comes through r,
    with ∂r/∂x_j = −r³ x_j / H.
    """

    @staticmethod
    def forward(inputs_NH: Tensor, weight_H: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        # a compiler fuses the formulas with what is around them, and keeps no more than x and r for them
        if torch.compiler.is_compiling():
            return normalise_rows(inputs_NH, weight_H, eps)
        output_NH, scale_N1 = rms_norm_forward(inputs_NH, weight_H, eps)
        return output_NH, scale_N1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.eps = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], inputs[1], output[1])

    @staticmethod
    def backward(ctx: Any, delta_NH: Tensor, _: None = None) -> tuple[Tensor | None, ...]:
        inputs_NH, weight_H, scale_N1 = ctx.saved_tensors
        if torch.is_grad_enabled():
            arguments = (inputs_NH, weight_H, ctx.eps)
            return pull_back(_formula, arguments, ctx.needs_input_grad, delta_NH)
        of_inputs, of_weight, _ = ctx.needs_input_grad
        gradients = rms_norm_gradients if torch.compiler.is_compiling() else rms_norm_backward
        gradient_NH, of_weight_H = gradients(delta_NH, None, inputs_NH, weight_H, scale_N1, of_weight)
        return gradient_NH if of_inputs else None, of_weight_H.to(weight_H.dtype) if of_weight else None, None


def normalise_rows(inputs_NH: Tensor, weight_H: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return γ x̂ and r; see RMSNorm."""
    wide_NH = inputs_NH.to(torch.promote_types(inputs_NH.dtype, torch.float32))
    scale_N1 = (wide_NH.square().mean(-1, keepdim=True) + eps).rsqrt()
    output_NH = wide_NH * scale_N1
    if weight_H is not None:
        output_NH = output_NH * weight_H
    return output_NH.to(inputs_NH.dtype), scale_N1


def rms_norm_gradients(
    delta_NH: Tensor,
    past_NH: Tensor | None,
    inputs_NH: Tensor,
    weight_H: Tensor | None,
    scale_N1: Tensor,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return ∂L/∂x, with the gradient `past` that x has from its other use, and ∂L/∂γ, empty unless asked for."""
    delta_NH = delta_NH.to(scale_N1.dtype)
    # first, so that a compiler may write ∂L/∂x over δ
    of_weight_H = scale_N1.new_empty(0)
    if weight_H is not None and of_weight:
        of_weight_H = (delta_NH * (inputs_NH * scale_N1)).sum(0)
    scaled_NH = delta_NH if weight_H is None else delta_NH * weight_H
    slope_N1 = (scaled_NH * inputs_NH).mean(-1, keepdim=True) * scale_N1 * scale_N1 * scale_N1
    gradient_NH = scaled_NH * scale_N1 - inputs_NH * slope_N1
    if past_NH is not None:
        gradient_NH = gradient_NH + past_NH
    return gradient_NH.to(inputs_NH.dtype), of_weight_H


normalise = fused(normalise_rows)


@fused
def write_gradients(
    delta_NH: Tensor,
    past_NH: Tensor | None,
    inputs_NH: Tensor,
    scale_N1: Tensor,
    weight_H: Tensor | None,
    of_inputs_NH: Tensor,
    of_weight_H: Tensor | None,
) -> None:
    """Write ∂L/∂x, and add to ∂L/∂γ what these rows give."""
    rows = rms_norm_gradients(delta_NH, past_NH, inputs_NH, weight_H, scale_N1, of_weight_H is not None)
    of_inputs_NH.copy_(rows[0])
    if of_weight_H is not None:
        of_weight_H.add_(rows[1])


def _fake_forward(inputs_NH: Tensor, weight_H: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(inputs_NH.dtype, torch.float32)
    return inputs_NH.new_empty(inputs_NH.shape), inputs_NH.new_empty((inputs_NH.shape[0], 1), dtype=wide)


def _fake_backward(
    delta_NH: Tensor,
    past_NH: Tensor | None,
    inputs_NH: Tensor,
    weight_H: Tensor | None,
    scale_N1: Tensor,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    of_weight_H = scale_N1.new_empty(weight_H.shape if weight_H is not None and of_weight else 0)
    return inputs_NH.new_empty(inputs_NH.shape), of_weight_H


@opaque("rms_norm_forward(Tensor inputs, Tensor? weight, float eps) -> (Tensor, Tensor)", _fake_forward)
def rms_norm_forward(inputs_NH: Tensor, weight_H: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return γ x̂ and r."""
    outputs: tuple[Tensor, Tensor] = normalise(inputs_NH.numel(), inputs_NH.contiguous(), weight_H, eps)
    return outputs


@opaque(
    "rms_norm_backward(Tensor delta, Tensor? past, Tensor inputs, Tensor? weight, Tensor scale, bool of_weight)"
    " -> (Tensor, Tensor)",
    _fake_backward,
)
def rms_norm_backward(
    delta_NH: Tensor,
    past_NH: Tensor | None,
    inputs_NH: Tensor,
    weight_H: Tensor | None,
    scale_N1: Tensor,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return what `rms_norm_gradients` returns."""
    of_inputs_NH = inputs_NH.new_empty(inputs_NH.shape)
    of_weight_H = scale_N1.new_zeros(weight_H.shape) if weight_H is not None and of_weight else None
    # a block is in the cache still when its second reduction, over the rows, reads it again
    for *given, of_inputs in row_blocks(delta_NH.contiguous(), past_NH, inputs_NH.contiguous(), scale_N1, of_inputs_NH):
        write_gradients(inputs_NH.numel(), *given, weight_H, of_inputs, of_weight_H)
    if weight_H is None or of_weight_H is None:
        return of_inputs_NH, scale_N1.new_empty(0)
    return of_inputs_NH, of_weight_H


def _formula(inputs_NH: Tensor, weight_H: Tensor | None, eps: float) -> Tensor:
    return nn.functional.rms_norm(inputs_NH, inputs_NH.shape[-1:], weight_H, eps)


def _reference(inputs: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    return _formula(inputs, weight, eps)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    rows_of_zeros = draw(4, 6).detach()
    rows_of_zeros[1:3] = 0
    return {
        "weight": Call((draw(5, 6), draw(6))),
        "no weight": Call((draw(5, 6),)),
        "three dimensions": Call((draw(2, 3, 6), draw(6)), {"eps": 1e-3}),
        "one row": Call((draw(6), draw(6))),
        "large values": Call((draw(5, 6, scale=1e3), draw(6))),
        "small values": Call((draw(5, 6, scale=1e-3), draw(6)), {"eps": 1e-1}),
        "rows of zeros": Call((rows_of_zeros.requires_grad_(), draw(6)), {"eps": 1e-1}),
        "strided": Call((draw(6, 5).detach().t().requires_grad_(), draw(6))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(512, 256, generator=generator).requires_grad_()
    return Call((inputs, nn.Parameter(torch.ones(256)))), inputs.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def rms_norm(inputs: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """Return γ x / √(mean x² + ε), the mean over the last dimension: (..., H) and (H,) -> (..., H).

    Raises ValueError where the shapes do not fit.
    """
    check_last("rms_norm", inputs, weight)
    inputs, weight = as_norms_in_autocast(inputs, weight)
    output: Tensor = RMSNorm.apply(inputs.reshape(-1, inputs.shape[-1]), weight, eps)[0]
    return output.view(inputs.shape)
