"""The output layer and its cross-entropy in one, without ever holding the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn import functional

from framework.functions.contract import Call, Function, hand_written, pull_back
from framework.functions.cross_entropy_rows import (
    Rows,
    at_least_float32,
    check_options,
    check_target,
    formula,
    logit_gradient,
    losses,
    row_scale,
    target_gradient,
    target_rows,
    to_result,
    to_rows,
)
from framework.functions.opaque import opaque
from framework.functions.wide_products import add_product, multiply

BYTES_OF_LOGITS = 2**23
"""What a chunk of rows may take: enough for fast matrix products, little beside the weight's gradient."""


class LinearCrossEntropy(Function):
    """L = cross_entropy(z, target) of z = h Wᵀ + b; with G = ∂L/∂z: ∂L/∂h = G W, ∂L/∂W = Gᵀ h, ∂L/∂b = Σₙ Gₙ.

    N rows, H inputs, C classes: h (N, H), W (C, H), b (C,) or None; the loss and G are CrossEntropy's. G is formed a
    chunk of R rows at a time, R C logits in one buffer. As L is a number, its gradients are known up to the incoming
    gradient once the logits are: `formed` says which of (h, W, b) to form along with the loss, in three products where
    autograd takes three too. The others are computed from the inputs again, in four. `products` is the type of the
    matrices multiplied; logits, losses and the sums of ∂L/∂W and ∂L/∂b are at least float32. Returns the loss, then
    what it keeps: row scales and gradients. Source: Wijmans et al. (2024), arXiv:2411.09009, section 4, by rows alone;
    gradients along with the loss: Hsu et al. (2024), arXiv:2410.10989, section 3.2.
    """

    @staticmethod
    def forward(
        hidden_NH: Tensor,
        weight_CH: Tensor,
        bias_C: Tensor | None,
        target: Tensor,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float | None,
        reduction: str,
        products: torch.dtype,
        formed: tuple[bool, bool, bool],
    ) -> tuple[Tensor, ...]:
        scale_N = row_scale(target, None, ignore_index, reduction, at_least_float32(products))
        options = (ignore_index, label_smoothing, z_loss, softcap, products)
        loss_N, *gradients, _ = _chunks(hidden_NH, weight_CH, bias_C, target, scale_N, *options, *formed, False)
        return loss_N if reduction == "none" else loss_N.sum(), scale_N, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ignore_index, label_smoothing, z_loss, softcap, reduction, products, formed = inputs
        ctx.options = (ignore_index, label_smoothing, z_loss, softcap, reduction, products, formed)
        ctx.formed = formed
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, delta: Tensor, *of_kept: None) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_CH, bias_C, target, scale_N, *gradients = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            inputs = (hidden_NH, weight_CH, bias_C, target, *ctx.options)
            of_inputs = (*needed, *[False] * 7)
            return pull_back(lambda *values: _formula(*values).to(delta.dtype), inputs, of_inputs, delta)
        if any(need and not has for need, has in zip(needed, (*ctx.formed, False), strict=True)):
            ignore_index, label_smoothing, z_loss, softcap, _, products, _ = ctx.options
            options = (ignore_index, label_smoothing, z_loss, softcap, products)
            found = _chunks(hidden_NH, weight_CH, bias_C, target, scale_N * delta, *options, *needed)[1:]
        elif torch.compiler.is_compiling() or is_legacy_batchedtensor(delta):
            found = [g * delta for g in gradients]
        else:
            # In place, as a second gradient of the weight would double the peak. What is returned becomes .grad, so a
            # graph that is retained computes it again. `.data`: autograd is not to see a saved tensor change. Several
            # incoming gradients at once (is_grads_batched) have no room in it.
            ctx.formed = (False, False, False)
            found = [g.data.mul_(delta) for g in gradients]
        values = (hidden_NH, weight_CH, bias_C, target)
        return (
            *(g.to(v.dtype) if need else None for g, v, need in zip((*found, None)[:4], values, needed, strict=True)),
            *[None] * 7,
        )


def _kernel_fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    scale: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    of_hidden, of_weight, of_bias, of_target = rest[-4:]
    rows, inputs, classes = *hidden.shape, weight.shape[0]
    return (
        torch.empty_like(scale),
        scale.new_empty((rows, inputs) if of_hidden else (0,), dtype=hidden.dtype),
        scale.new_empty((classes, inputs) if of_weight else (0,)),
        scale.new_empty((classes,) if of_bias else (0,)),
        scale.new_empty((rows, classes) if of_target else (0,), dtype=target.dtype),
    )


@opaque(
    "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor scale, int ignore_index, "
    "float label_smoothing, float z_loss, float? softcap, ScalarType products, bool of_hidden, bool of_weight, "
    "bool of_bias, bool of_target) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_kernel_fake,
)
def _chunks(
    hidden_NH: Tensor,
    weight_CH: Tensor,
    bias_C: Tensor | None,
    target: Tensor,
    scale_N: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    products: torch.dtype,
    of_hidden: bool,
    of_weight: bool,
    of_bias: bool,
    of_target: bool,
) -> tuple[Tensor, ...]:
    """Return the loss of each row, and the gradients asked for by h, W, b and the target of their sum."""
    needed = (of_hidden, of_weight, of_bias, of_target)
    outputs = _kernel_fake(hidden_NH, weight_CH, bias_C, target, scale_N, *needed)
    loss_N, grad_NH, grad_CH, grad_C, grad_NC = outputs
    grad_CH.zero_()
    grad_C.zero_()
    classes, of_logits = weight_CH.shape[0], of_hidden or of_weight or of_bias
    read_again = of_target or (of_logits and softcap is not None)  # otherwise p is written over the logits
    step = max(1, BYTES_OF_LOGITS // (scale_N.element_size() * classes * (2 if read_again else 1)))
    logits = scale_N.new_empty(min(step, hidden_NH.shape[0]), classes)
    other = torch.empty_like(logits) if read_again else logits
    weight_CH = weight_CH.to(products)
    z_scale_N = scale_N if z_loss else None
    rows = Rows(target, scale_N, z_scale_N, None, ignore_index, label_smoothing, z_loss, softcap)
    for i in range(0, hidden_NH.shape[0], step):
        hidden_RH = hidden_NH[i : i + step].to(products)
        j = i + hidden_RH.shape[0]
        z_RC, rows_R = logits[: j - i], rows.take(i, j)
        multiply(hidden_RH, weight_CH.t(), z_RC, bias_C)
        if softcap is not None:
            z_RC.div_(softcap).tanh_().mul_(softcap)
        loss_N[i:j], lse_R, p_RC = losses(z_RC, rows_R, out=other[: j - i])
        if of_target:
            grad_NC[i:j] = target_gradient(z_RC, lse_R, rows_R)
        if of_logits:
            delta_RC = logit_gradient(z_RC, lse_R, p_RC, rows_R)
            if of_bias:
                grad_C.add_(delta_RC.sum(0))
            delta_RC = delta_RC.to(products)
            if of_hidden:
                multiply(delta_RC, weight_CH, grad_NH[i:j])
            if of_weight:
                add_product(grad_CH, delta_RC.t(), hidden_RH)
    return outputs


def _formula(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    reduction: str,
    products: torch.dtype,
    formed: tuple[bool, bool, bool],
) -> Tensor:
    """Return the loss by torch's operations."""
    bias = None if bias is None else bias.to(products)
    logits = functional.linear(hidden.to(products), weight.to(products), bias).to(at_least_float32(products))
    return formula(logits, target, None, ignore_index, label_smoothing, z_loss, softcap, reduction)


def _reference(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    logits = functional.linear(hidden, weight, bias)
    return formula(logits, target, None, ignore_index, label_smoothing, z_loss, softcap, reduction)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def classes(*shape: int, ignored: int = 0) -> Tensor:
        target = torch.randint(7, shape, generator=generator)
        target.view(-1)[:ignored] = -100
        return target

    def probabilities(*shape: int) -> Tensor:
        return draw(*shape).detach().softmax(-1).requires_grad_()

    everything: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 5.0}
    saturated = draw(7, 4).detach().mul_(25).requires_grad_()
    return {
        "plain": Call((draw(5, 4), draw(7, 4), classes(5))),
        "bias": Call((draw(5, 4), draw(7, 4), classes(5)), {"bias": draw(7)}),
        "ignored": Call((draw(5, 4), draw(7, 4), classes(5, ignored=2)), {"bias": draw(7)}),
        "all ignored": Call((draw(5, 4), draw(7, 4), classes(5, ignored=5)), {"bias": draw(7), **everything}),
        "ignored class": Call((draw(5, 4), draw(7, 4), classes(5)), {"ignore_index": 3}),
        "smoothing": Call((draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"label_smoothing": 0.1}),
        "probabilities": Call((draw(5, 4), draw(7, 4), probabilities(5, 7)), {"bias": draw(7)}),
        "constant probabilities": Call((draw(5, 4), draw(7, 4), probabilities(5, 7).detach()), everything),
        "z-loss": Call((draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"z_loss": 0.1}),
        "softcap": Call((draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"softcap": 2.0}),
        "everything": Call((draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"bias": draw(7), **everything}),
        "everything of probabilities": Call(
            (draw(5, 4), draw(7, 4), probabilities(5, 7)), {"bias": draw(7), **everything}
        ),
        "sum": Call((draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"reduction": "sum", **everything}),
        "none": Call(
            (draw(5, 4), draw(7, 4), classes(5, ignored=1)), {"bias": draw(7), "reduction": "none", **everything}
        ),
        "three dimensions": Call(
            (draw(2, 3, 4), draw(7, 4), classes(2, 3, ignored=1)), {"bias": draw(7), "reduction": "none"}
        ),
        "saturated": Call((draw(5, 4), saturated, classes(5))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    rows, classes, inputs = 2048, 2048, 8
    hidden = torch.randn(rows, inputs, generator=generator).requires_grad_()
    weight = nn.Parameter(torch.randn(classes, inputs, generator=generator))
    return Call((hidden, weight, torch.randint(classes, (rows,), generator=generator))), rows * classes


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=0)
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return cross_entropy(hidden weightᵀ + bias, target) of hidden (..., H), weight (C, H), bias (C,), without logits.

    The target is class indices (...) or probabilities (..., C). Class indices that are neither classes nor
    `ignore_index` raise torch's IndexError; whatever else does not fit raises ValueError.
    """
    name = "linear_cross_entropy"
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"{name}: hidden must be (..., H) and weight (C, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{name}: bias must be one number for each of {weight.shape[0]} classes, got {tuple(bias.shape)}."
        )
    check_target(name, "hidden", hidden.shape, target, weight.shape[:1])
    check_options(name, label_smoothing, softcap, reduction)
    device = hidden.device.type
    products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    once = torch.is_grad_enabled() and reduction != "none" and not target.requires_grad
    formed = tuple(once and t is not None and t.requires_grad for t in (hidden, weight, bias))
    rows, row_targets = to_rows(hidden), target_rows(target, weight.shape[0])
    options = (ignore_index, label_smoothing, z_loss, softcap, reduction, products, formed)
    loss: Tensor = LinearCrossEntropy.apply(rows, weight, bias, row_targets, *options)[0]
    return to_result(loss, hidden)
