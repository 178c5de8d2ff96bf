"""Cross-entropy of logits: softmax and logarithm cancel to p − y."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from framework.functions.contract import Call, Function, hand_written, pull_back
from framework.functions.opaque import opaque
from framework.functions.reduction import check_reduction

SMALL = 2**14
"""Logits up to here cost less than calling an operator for them does: their softmax is kept, as log p."""
LOGITS_PER_CHUNK = 2**20
"""4 MiB of float32: what one core's caches keep between two operations."""

_NLL = torch.ops.aten.nll_loss_forward.default
_NLL_BACKWARD = torch.ops.aten.nll_loss_backward.default
_SUM = 2
"""The number that these operators give the reduction."""


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
    plain mean over few logits, log p and 1/Σ v w_y.
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
            scale = total.masked_fill(total == 0, math.inf).reciprocal_()
            return loss * scale, log_p_NC, scale
        scale_N = row_scale(target, class_weights_C, ignore_index, reduction, dtype)
        z_scale_N = _z_scale(target, scale_N, class_weights_C, ignore_index, z_loss, reduction)
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
            y_NC = _NLL_BACKWARD(scale_N * delta, log_p_NC, target, weights, _SUM, ignore_index, scale_N)  # −s w_y e_y
            plain_NC = y_NC.addcmul(log_p_NC.exp(), y_NC.sum(1, keepdim=True), value=-1)
            return plain_NC.to(logits_NC.dtype), *[None] * 7
        z_scale_N = _z_scale(target, scale_N, class_weights_C, ignore_index, z_loss, reduction)
        z_scale_N = None if z_scale_N is None else z_scale_N * delta
        rows = Rows(target, scale_N * delta, z_scale_N, class_weights_C, ignore_index, label_smoothing, z_loss, softcap)
        if logits_NC.numel() <= SMALL:
            grad_NC, grad_target = _gradients_of(logits_NC, rows, of_logits, of_target)
        else:
            grad_NC, grad_target = _gradients(logits_NC, *rows, of_logits, of_target)
        return grad_NC if of_logits else None, grad_target if of_target else None, *[None] * 6


class Rows(NamedTuple):
    """What is known of N rows besides their logits: targets, what multiplies CE and lse² in the loss, and options."""

    target: Tensor
    scale: Tensor
    z_scale: Tensor | None
    class_weights: Tensor | None
    ignore_index: int
    label_smoothing: float
    z_loss: float
    softcap: float | None

    def take(self, start: int, stop: int) -> Rows:
        """Return what is known of some of them."""
        z_scale_R = None if self.z_scale is None else self.z_scale[start:stop]
        return Rows(self.target[start:stop], self.scale[start:stop], z_scale_R, *self[3:])

    def weights(self, dtype: torch.dtype) -> Tensor | None:
        """Return the class weights in a type."""
        return None if self.class_weights is None else self.class_weights.to(dtype)

    def classes(self) -> Tensor:
        """Return the class indices, 0 where they are ignored."""
        return self.target * (self.target != self.ignore_index)

    def probabilities(self, dtype: torch.dtype) -> Tensor:
        """Return t of probabilities."""
        t_NC, weights_C = self.target.to(dtype), self.weights(dtype)
        if self.label_smoothing:
            t_NC = t_NC * (1 - self.label_smoothing) + self.label_smoothing / t_NC.shape[1]
        return t_NC if weights_C is None else t_NC * weights_C


def _is_plain(
    logits_NC: Tensor, target: Tensor, label_smoothing: float, z_loss: float, softcap: float | None, reduction: str
) -> bool:
    """Whether the call is the usual one, on a batch so small that each operation's own cost is what counts."""
    usual = reduction == "mean" and softcap is None and not (label_smoothing or z_loss)
    return usual and logits_NC.numel() <= SMALL and not target.is_floating_point()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Return k tanh(x/k)."""
    return logits if softcap is None else (logits / softcap).tanh_().mul_(softcap)


def row_scale(
    target: Tensor, class_weights_C: Tensor | None, ignore_index: int, reduction: str, dtype: torch.dtype
) -> Tensor:
    """Return what multiplies each row's cross-entropy in the loss: 0 where it is ignored."""
    if target.is_floating_point():
        rows = target.shape[0]
        return target.new_full((rows,), 1 / max(rows, 1) if reduction == "mean" else 1.0, dtype=dtype)
    valid = target != ignore_index
    valid_N = valid.to(dtype)
    if reduction != "mean":
        return valid_N
    weights_N = valid_N if class_weights_C is None else class_weights_C.to(dtype)[target * valid] * valid_N
    total = weights_N.sum()
    return valid_N / total.masked_fill(total == 0, math.inf)


def _z_scale(
    target: Tensor,
    scale_N: Tensor,
    class_weights_C: Tensor | None,
    ignore_index: int,
    z_loss: float,
    reduction: str,
) -> Tensor | None:
    """Return what multiplies each row's lse² in the loss: the mean is over the rows that count, whatever they weigh."""
    if not z_loss:
        return None
    return scale_N if class_weights_C is None else row_scale(target, None, ignore_index, reduction, scale_N.dtype)


def losses(z_NC: Tensor, rows: Rows, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return s CE + a r lse², lse, and p; p is written to `out`, which may be z."""
    smoothing, weights_C = rows.label_smoothing, rows.weights(z_NC.dtype)
    peak_N = z_NC.amax(1)
    total: Tensor | float = 1.0
    if rows.target.is_floating_point():
        t_NC = rows.probabilities(z_NC.dtype)
        total, dot_N = t_NC.sum(1), (t_NC * z_NC).sum(1)
    else:
        dot_N = -functional.nll_loss(z_NC, rows.target, ignore_index=rows.ignore_index, reduction="none")
        if weights_C is not None:
            total = weights_C[rows.classes()]
            dot_N = total * dot_N
        if smoothing:
            even_N = z_NC.mean(1) if weights_C is None else z_NC.mv(weights_C) / z_NC.shape[1]
            dot_N = (1 - smoothing) * dot_N + smoothing * even_N
            if weights_C is not None:
                total = (1 - smoothing) * total + smoothing * weights_C.mean()
    p_NC = z_NC.softmax(1) if out is None else torch.softmax(z_NC, 1, out=out)
    log_sum_N = -p_NC.amax(1).log()  # lse − peak, as p is 1/Σ exp(z − peak) where z is the peak
    loss_N = rows.scale * ((total * peak_N - dot_N) + total * log_sum_N)
    lse_N = peak_N + log_sum_N
    if rows.z_scale is not None:
        loss_N = loss_N + rows.z_loss * rows.z_scale * lse_N.square()
    return loss_N, lse_N, p_NC


def logit_gradient(z_NC: Tensor, lse_N: Tensor | None, p_NC: Tensor, rows: Rows) -> Tensor:
    """Return ∂L/∂x, written over p; z is read under a soft-cap alone, lse under a z-loss."""
    scale_N, smoothing, weights_C = rows.scale, rows.label_smoothing, rows.weights(p_NC.dtype)
    of_lse_N = 0 if rows.z_scale is None or lse_N is None else 2 * rows.z_loss * rows.z_scale * lse_N
    if rows.target.is_floating_point():
        t_NC = rows.probabilities(p_NC.dtype)
        p_NC.mul_((scale_N * t_NC.sum(1) + of_lse_N).unsqueeze(1))
        p_NC.addcmul_(t_NC, scale_N.unsqueeze(1), value=-1)
    else:
        index_N = rows.classes()
        of_y_N = scale_N if weights_C is None else scale_N * weights_C[index_N]
        of_p_N = of_y_N
        if smoothing:
            of_y_N = (1 - smoothing) * of_y_N
            of_p_N = of_y_N + smoothing * scale_N * (1 if weights_C is None else weights_C.mean())
        p_NC.mul_((of_p_N + of_lse_N).unsqueeze(1))
        if smoothing:
            even_N1 = scale_N.unsqueeze(1) * (smoothing / p_NC.shape[1])
            p_NC.sub_(even_N1 if weights_C is None else even_N1 * weights_C)
        p_NC.scatter_add_(1, index_N.unsqueeze(1), -of_y_N.unsqueeze(1))
    if rows.softcap is not None:
        p_NC.addcmul_(p_NC * z_NC, z_NC, value=-1 / rows.softcap**2)
    return p_NC


def target_gradient(z_NC: Tensor, lse_N: Tensor, rows: Rows) -> Tensor:
    """Return ∂L/∂q."""
    weights_C = rows.weights(z_NC.dtype)
    grad_NC = (lse_N.unsqueeze(1) - z_NC).mul_((1 - rows.label_smoothing) * rows.scale.unsqueeze(1))
    return grad_NC if weights_C is None else grad_NC.mul_(weights_C)


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


def formula(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    reduction: str,
) -> Tensor:
    """Return the loss by torch's operations, 0 where nothing counts."""
    z = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    z_NC = z.reshape(-1, z.shape[-1])
    soft = target.is_floating_point()
    class_weights = None if class_weights is None else class_weights.to(z.dtype)
    rows = target.reshape(z_NC.shape if soft else (-1,))
    loss = functional.cross_entropy(
        z_NC,
        rows,
        class_weights,
        ignore_index=-100 if soft else ignore_index,
        label_smoothing=label_smoothing,
        reduction="none" if reduction == "none" else "sum",
    )
    valid_N = torch.ones_like(z_NC[:, 0], dtype=torch.bool) if soft else rows != ignore_index
    count = valid_N.sum()
    total = count if soft or class_weights is None else (class_weights[rows * valid_N] * valid_N).sum()
    if reduction == "mean":
        loss = loss / torch.where(total == 0, math.inf, total)
    if z_loss:
        squares_N = z_NC.logsumexp(1).square() * valid_N
        if reduction == "none":
            loss = loss + z_loss * squares_N
        else:
            loss = loss + z_loss * squares_N.sum() / (count.clamp_min(1) if reduction == "mean" else 1)
    return loss.view(logits.shape[:-1]) if reduction == "none" else loss


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


def to_rows(values: Tensor) -> Tensor:
    """Return (..., D) as (N, D)."""
    return values if values.ndim == 2 else values.reshape(-1, values.shape[-1])


def target_rows(target: Tensor, classes: int) -> Tensor:
    """Return probabilities as (N, C), class indices as int64 (N,)."""
    if target.is_floating_point():
        return target if target.ndim == 2 else target.reshape(-1, classes)
    return target.long() if target.ndim == 1 else target.long().reshape(-1)


def to_result(loss: Tensor, values: Tensor) -> Tensor:
    """Return the loss with the rows' shape (...) of values (..., D), in their type, or at least float32 in autocast."""
    if loss.ndim and values.ndim != 2:
        loss = loss.view(values.shape[:-1])
    if loss.dtype == values.dtype or torch.is_autocast_enabled(values.device.type):
        return loss
    return loss.to(values.dtype)


def check_target(name: str, what: str, shape: torch.Size, target: Tensor, classes: torch.Size) -> None:
    """Raise ValueError unless target is indices (...) or probabilities (..., C) for the rows of shape (..., D)."""
    expected = shape[:-1] + classes if target.is_floating_point() else shape[:-1]
    if not shape or target.shape != expected:
        raise ValueError(
            f"{name}: for {what} of shape {tuple(shape)} and {classes[0] if classes else 'no'} classes, target must be "
            f"class indices {tuple(shape[:-1])} or probabilities {(*shape[:-1], *classes)}, got {target.dtype} "
            f"{tuple(target.shape)}."
        )


def check_options(name: str, label_smoothing: float, softcap: float | None, reduction: str) -> None:
    """Raise ValueError for an option out of its range."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing must be from 0 to 1, got {label_smoothing}.")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{name}: softcap must be positive, or None for none, got {softcap}.")
    check_reduction(name, reduction)
