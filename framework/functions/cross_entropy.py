"""Cross-entropy of logits: softmax and logarithm cancel to p − y."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written, pull_back
from framework.functions.cross_entropy_rows import (
    Rows,
    at_least_float32,
    cap,
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
    z_scale,
)
from framework.functions.opaque import opaque

SMALL = 2**14
"""Logits up to here cost less than calling an operator for them does: their softmax is kept, as log p."""
LOGITS_PER_CHUNK = 2**20
"""4 MiB of float32: what one core's caches keep between two operations."""

TINY = torch.finfo(torch.float32).tiny
"""What a sum of weights is at least, so that where it is 0 the loss is."""

_NLL = torch.ops.aten.nll_loss_forward.default
_NLL_BACKWARD = torch.ops.aten.nll_loss_backward.default
_LOG_SOFTMAX_BACKWARD = torch.ops.aten._log_softmax_backward_data.default
_MEAN, _SUM = 1, 2
"""The numbers that these operators give the reductions."""


class CrossEntropy(Function):
    """L = Σₙ sₙ CEₙ + a Σₙ rₙ lseₙ² with CE = −Σ_c t_c log p_c = T lse − Σ_c t_c z_c, p = softmax(z), T = Σ_c t_c.

    N rows, C classes: logits x (N, C), z = x, or k tanh(x/k) under a soft-cap k; lse = log Σ_c exp z_c. Weights w
    (1 unless given), smoothing ε, z-loss a. Targets: t = (1−ε) w_y e_y + (ε/C) w for class indices y (N,), and
    t = w ∘ ((1−ε) q + ε/C) for probabilities q (N, C). Mean: s = v/Σ v w_y, r = v/Σ v, with v = 0 where y is ignored
    and 1 elsewhere; both are 0 where their sum is. For probabilities s = r = 1/N. Otherwise s = r = v.

        ∂L/∂z = s (T p − t) + 2 a r lse p        ∂L/∂x = ∂L/∂z (1 − (z/k)²)        ∂L/∂q = s (1−ε) w (lse − z)

    Of class indices y, unweighted, that is s (p − e_y). Source: the chapter, "Categorical Cross-Entropy"; smoothing:
    Szegedy et al. (2016), arXiv:1512.00567, section 7; z-loss: Chowdhery et al. (2022), arXiv:2204.02311, section 5;
    soft-cap: Gemma Team (2024), arXiv:2408.00118, section 2. Returns the loss and what it keeps: nothing and s; of a
    plain mean over few logits, log p and Σ v w_y.
    """

    @staticmethod
    def forward(
        logits_NC: Tensor,
        target: Tensor,
        class_weights_C: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float | None,
        reduction: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = at_least_float32(logits_NC.dtype)
        if _is_plain(logits_NC, target, label_smoothing, z_loss, softcap, reduction):
            log_p_NC = logits_NC.log_softmax(1, dtype=dtype)
            weights = class_weights_C if class_weights_C is None else class_weights_C.to(dtype)
            loss, total = _NLL(log_p_NC, target, weights, _SUM, ignore_index)
            return loss / total.clamp_min(TINY), log_p_NC, total
        scale_N = row_scale(target, class_weights_C, ignore_index, reduction, dtype)
        z_scale_N = z_scale(target, scale_N, class_weights_C, ignore_index, z_loss, reduction)
        rows = Rows(target, scale_N, z_scale_N, class_weights_C, ignore_index, label_smoothing, z_loss, softcap)
        if logits_NC.numel() <= SMALL:
            loss_N = losses(cap(logits_NC.to(dtype), softcap), rows)[0]
        else:
            loss_N = _losses(logits_NC, *rows)
        return loss_N if reduction == "none" else loss_N.sum(), scale_N.new_empty(0), scale_N

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits_NC, target, class_weights_C, *ctx.options = inputs
        _, log_p_NC, scale_N = output
        ctx.save_for_backward(logits_NC, target, class_weights_C, log_p_NC, scale_N)

    @staticmethod
    def backward(ctx: Any, delta: Tensor, *of_kept: Tensor) -> tuple[Tensor | None, ...]:
        logits_NC, target, class_weights_C, log_p_NC, scale_N = ctx.saved_tensors
        of_logits, of_target = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            inputs = (logits_NC, target, class_weights_C, *ctx.options)
            needed = (of_logits, of_target, *[False] * 6)
            return pull_back(lambda *values: formula(*values).to(delta.dtype), inputs, needed, delta)
        ignore_index, label_smoothing, z_loss, softcap, reduction = ctx.options
        if _is_plain(logits_NC, target, label_smoothing, z_loss, softcap, reduction):
            weights = class_weights_C if class_weights_C is None else class_weights_C.to(log_p_NC.dtype)
            y_NC = _NLL_BACKWARD(
                delta, log_p_NC, target, weights, _MEAN, ignore_index, scale_N.clamp_min(TINY)
            )  # y = −s w_y e_y
            # y − p Σ_c y_c, in one pass over memory
            plain_NC = _LOG_SOFTMAX_BACKWARD(y_NC, log_p_NC, 1, log_p_NC.dtype)
            return plain_NC.to(logits_NC.dtype), *[None] * 7
        z_scale_N = z_scale(target, scale_N, class_weights_C, ignore_index, z_loss, reduction)
        z_scale_N = None if z_scale_N is None else z_scale_N * delta
        rows = Rows(target, scale_N * delta, z_scale_N, class_weights_C, ignore_index, label_smoothing, z_loss, softcap)
        if logits_NC.numel() <= SMALL:
            grad_NC, grad_target = _gradients_of(logits_NC, rows, of_logits, of_target)
        else:
            grad_NC, grad_target = _gradients(logits_NC, *rows, of_logits, of_target)
        return grad_NC if of_logits else None, grad_target if of_target else None, *[None] * 6


def _is_plain(
    logits_NC: Tensor, target: Tensor, label_smoothing: float, z_loss: float, softcap: float | None, reduction: str
) -> bool:
    """Whether the call is the usual one, on a batch so small that each operation's own cost is what counts."""
    usual = reduction == "mean" and softcap is None and not (label_smoothing or z_loss)
    return usual and logits_NC.numel() <= SMALL and not target.is_floating_point()


def _gradients_of(
    logits_NC: Tensor, rows: Rows, of_logits: bool, of_target: bool, out: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Return ∂L/∂x and ∂L/∂q; the first is written to `out`."""
    z_NC = cap(logits_NC.to(rows.scale.dtype), rows.softcap)
    in_place = out is not None and out.dtype == z_NC.dtype
    p_NC = torch.softmax(z_NC, 1, out=out) if in_place else z_NC.softmax(1)
    grad_NC = grad_target = lse_N = None
    if of_target or rows.z_scale is not None:
        lse_N = z_NC.amax(1) - p_NC.amax(1).log()
    if of_target and lse_N is not None:
        grad_target = target_gradient(z_NC, lse_N, rows).to(rows.target.dtype)
    if of_logits:
        grad_NC = logit_gradient(z_NC, lse_N, p_NC, rows).to(logits_NC.dtype)
        if out is not None and not in_place:
            out.copy_(grad_NC)
    return grad_NC, grad_target


_ROWS = (
    "Tensor target, Tensor scale, Tensor? z_scale, Tensor? class_weights, int ignore_index, float label_smoothing, "
    "float z_loss, float? softcap"
)


@opaque(
    f"cross_entropy(Tensor logits, {_ROWS}) -> Tensor",
    fake=lambda logits, target, scale, *rest: torch.empty_like(scale),
)
def _losses(logits_NC: Tensor, *of_rows: Any) -> Tensor:
    rows = Rows(*of_rows)
    loss_N = torch.empty_like(rows.scale)
    step = max(1, LOGITS_PER_CHUNK // logits_NC.shape[1])
    p_RC = loss_N.new_empty(min(step, logits_NC.shape[0]), logits_NC.shape[1])
    for i in range(0, logits_NC.shape[0], step):
        z_RC = cap(logits_NC[i : i + step].to(loss_N.dtype), rows.softcap)
        j = i + z_RC.shape[0]
        loss_N[i:j] = losses(z_RC, rows.take(i, j), out=p_RC[: j - i])[0]
    return loss_N


def _gradients_fake(logits: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    of_logits, of_target = rest[-2:]
    return (
        logits.new_empty(logits.shape if of_logits else (0,)),
        logits.new_empty(logits.shape if of_target else (0,), dtype=target.dtype),
    )


@opaque(
    f"cross_entropy_backward(Tensor logits, {_ROWS}, bool of_logits, bool of_target) -> (Tensor, Tensor)",
    fake=_gradients_fake,
)
def _gradients(logits_NC: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *of_rows, of_logits, of_target = rest
    rows = Rows(*of_rows)
    grad_NC, grad_target = _gradients_fake(logits_NC, rows.target, of_logits, of_target)
    step = max(1, LOGITS_PER_CHUNK // logits_NC.shape[1])
    for i in range(0, logits_NC.shape[0], step):
        logits_RC = logits_NC[i : i + step]
        j = i + logits_RC.shape[0]
        out = grad_NC[i:j] if of_logits else None
        found = _gradients_of(logits_RC, rows.take(i, j), of_logits, of_target, out)[1]
        if found is not None:
            grad_target[i:j] = found
    return grad_NC, grad_target


def _reference(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    return formula(logits, target, class_weights, ignore_index, label_smoothing, z_loss, softcap, reduction)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(3).requires_grad_()

    def classes(*shape: int, ignored: int = 0) -> Tensor:
        target = torch.randint(7, shape, generator=generator)
        target.view(-1)[:ignored] = -100
        return target

    def probabilities(*shape: int) -> Tensor:
        return draw(*shape).detach().softmax(-1).requires_grad_()

    weights = torch.rand(7, generator=generator, dtype=torch.float64) + 0.5
    saturated = draw(4, 7).detach().sign_().mul_(50).requires_grad_()
    everything: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 5.0}
    return {
        "plain": Call((draw(5, 7), classes(5))),
        "ignored": Call((draw(5, 7), classes(5, ignored=2))),
        "all ignored": Call((draw(5, 7), classes(5, ignored=5)), {"label_smoothing": 0.1, "z_loss": 0.1}),
        "ignored class": Call((draw(5, 7), classes(5)), {"ignore_index": 3}),
        "class weights": Call((draw(5, 7), classes(5, ignored=1)), {"class_weights": weights}),
        "smoothing": Call((draw(5, 7), classes(5, ignored=1)), {"label_smoothing": 0.1}),
        "probabilities": Call((draw(5, 7), probabilities(5, 7))),
        "z-loss": Call((draw(5, 7), classes(5, ignored=1)), {"z_loss": 0.1}),
        "softcap": Call((draw(5, 7), classes(5, ignored=1)), {"softcap": 2.0}),
        "everything": Call(
            (draw(5, 7), classes(5, ignored=1)), {"class_weights": weights, "reduction": "mean", **everything}
        ),
        "everything of probabilities": Call(
            (draw(5, 7), probabilities(5, 7)), {"class_weights": weights, **everything}
        ),
        "sum": Call((draw(5, 7), classes(5, ignored=1)), {"reduction": "sum", "class_weights": weights, **everything}),
        "none": Call((draw(5, 7), classes(5, ignored=1)), {"reduction": "none", **everything}),
        "three dimensions": Call((draw(2, 3, 7), classes(2, 3, ignored=1)), {"reduction": "none"}),
        "saturated": Call((saturated, classes(4))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    logits = torch.randn(2048, 1024, generator=generator).requires_grad_()
    return Call((logits, torch.randint(1024, (2048,), generator=generator))), logits.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss of logits (..., C) with class indices (...) or probabilities (..., C): 0-d, or (...) of "none".

    Class indices that are neither classes nor `ignore_index` raise torch's IndexError; whatever else does not fit
    raises ValueError. `class_weights` (C,) get no gradient.
    """
    check_target("cross_entropy", "logits", logits.shape, target, logits.shape[-1:])
    check_options("cross_entropy", label_smoothing, softcap, reduction)
    if class_weights is not None and (class_weights.shape != logits.shape[-1:] or class_weights.requires_grad):
        raise ValueError(
            f"cross_entropy: class_weights must be one constant for each of the {logits.shape[-1]} classes, got shape "
            f"{tuple(class_weights.shape)}{' with requires_grad' if class_weights.requires_grad else ''}."
        )
    rows, row_targets = to_rows(logits), target_rows(target, logits.shape[-1])
    loss: Tensor = CrossEntropy.apply(
        rows, row_targets, class_weights, ignore_index, label_smoothing, z_loss, softcap, reduction
    )[0]
    return to_result(loss, logits)
