"""What cross-entropy is of each row, for functions that take a block of rows at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from framework.functions.reduction import check_reduction


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


def z_scale(
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
