"""Knowledge distillation: a student's distribution drawn to a teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import kl_div

from framework.functions.contract import Call, Function, hand_written, pull_back, to_float32_in_autocast
from framework.functions.opaque import opaque
from framework.functions.reduction import Reduction, check_reduction, reduce
from framework.functions.tiles import elements_at_once


class Distillation(Function):
    """l = T² Σ p (log p − log s) over the classes, with s = softmax(x / T) of the student's logits, p of the teacher's.

    With δ = ∂L/∂l, which is 1/N for the mean: ∂L/∂x = δ T (s − p), and by the teacher's logits
    δ T p (log p − log s − l / T²). N rows, C classes: logits (N, C), l (N,). Both logits are kept as they came, and
    their softmax made again in the backward, some rows at a time.
    Source: Hinton et al. (2015), arXiv:1503.02531, section 2.1: equation 2 with the factor T².
    """

    @staticmethod
    def forward(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        losses_N: Tensor = _losses(student_NC, teacher_NC, temperature)
        return losses_N

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student_NC, teacher_NC, ctx.temperature = inputs
        ctx.save_for_backward(student_NC, teacher_NC)

    @staticmethod
    def backward(ctx: Any, delta_N: Tensor) -> tuple[Tensor | None, ...]:
        student_NC, teacher_NC = ctx.saved_tensors
        of_student, of_teacher, _ = ctx.needs_input_grad
        inputs = (student_NC, teacher_NC, ctx.temperature)
        if torch.is_grad_enabled():
            return pull_back(_reference_losses, inputs, ctx.needs_input_grad, delta_N)
        return (
            _of_student(delta_N, *inputs) if of_student else None,
            _of_teacher(delta_N, *inputs) if of_teacher else None,
            None,
        )


def _fake_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return student.new_empty(len(student), dtype=torch.promote_types(student.dtype, torch.float32))


@opaque("distillation_losses(Tensor student, Tensor teacher, float temperature) -> Tensor", fake=_fake_losses)
def _losses(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    losses_N = _fake_losses(student_NC, teacher_NC, temperature)
    for tile, student_RC, teacher_RC in _tiles(losses_N.dtype, temperature, student_NC, teacher_NC):
        log_p_RC = teacher_RC.log_softmax(1)
        losses_N[tile] = log_p_RC.exp().mul_(log_p_RC.sub_(student_RC.log_softmax(1))).sum(1)
    return losses_N.mul_(temperature**2)


def _fake_of_student(delta: Tensor, student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student, memory_format=torch.contiguous_format)


@opaque(
    "distillation_of_student(Tensor delta, Tensor student, Tensor teacher, float temperature) -> Tensor",
    fake=_fake_of_student,
)
def _of_student(delta_N: Tensor, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    gradient_NC = _fake_of_student(delta_N, student_NC)
    for tile, student_RC, teacher_RC in _tiles(delta_N.dtype, temperature, student_NC, teacher_NC):
        difference_RC = student_RC.softmax(1).sub_(teacher_RC.softmax(1))
        torch.mul(difference_RC, delta_N[tile, None] * temperature, out=difference_RC)
        gradient_NC[tile] = difference_RC
    return gradient_NC


def _fake_of_teacher(delta: Tensor, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return torch.empty_like(teacher, memory_format=torch.contiguous_format)


@opaque(
    "distillation_of_teacher(Tensor delta, Tensor student, Tensor teacher, float temperature) -> Tensor",
    fake=_fake_of_teacher,
)
def _of_teacher(delta_N: Tensor, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    gradient_NC = _fake_of_teacher(delta_N, student_NC, teacher_NC, temperature)
    for tile, student_RC, teacher_RC in _tiles(delta_N.dtype, temperature, student_NC, teacher_NC):
        log_p_RC = teacher_RC.log_softmax(1)
        p_RC = log_p_RC.exp()
        ratio_RC = log_p_RC.sub_(student_RC.log_softmax(1))
        ratio_RC.sub_((p_RC * ratio_RC).sum(1, keepdim=True))
        gradient_NC[tile] = p_RC.mul_(ratio_RC).mul_(delta_N[tile, None] * temperature)
    return gradient_NC


def _tiles(
    dtype: torch.dtype, temperature: float, student_NC: Tensor, teacher_NC: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield some rows at a time of the logits, in `dtype` and divided by the temperature."""
    rows, classes = student_NC.shape
    step = max(1, elements_at_once(student_NC.device) // max(1, classes))
    for start in range(0, rows, step):
        tile = slice(start, start + step)
        yield tile, student_NC[tile].to(dtype) / temperature, teacher_NC[tile].to(dtype) / temperature


def _reference_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    dtype = torch.promote_types(student.dtype, torch.float32)
    return _reference(student.to(dtype), teacher.to(dtype), temperature=temperature, reduction="none")


def _reference(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, reduction: str = "mean"
) -> Tensor:
    log_s, log_p = ((logits / temperature).log_softmax(-1) for logits in (student_logits, teacher_logits))
    losses = kl_div(log_s, log_p, log_target=True, reduction="none").sum(-1) * temperature**2
    return reduce(losses, reduction)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "mean": Call((draw(5, 4), draw(5, 4).detach())),
        "hot": Call((draw(5, 4), draw(5, 4).detach()), {"temperature": 3.0, "reduction": "sum"}),
        "a teacher that learns": Call((draw(5, 4), draw(5, 4)), {"temperature": 2.0}),
        "three dimensions": Call((draw(2, 3, 4), draw(2, 3, 4)), {"reduction": "none"}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    student, teacher = (torch.randn(256, 512, generator=generator) for _ in range(2))
    return Call((student.requires_grad_(), teacher)), student.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def distillation(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return T² KL(teacher ‖ student) at temperature T; its mean is over the rows.

    (..., C) and (..., C) -> 0-d, or (...) with reduction="none". A teacher that requires a gradient receives its own.
    ValueError where shapes differ, and for a temperature that is not above 0.
    """
    if not student_logits.ndim or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"distillation: the logits of student and teacher must both be (..., C), got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"distillation: temperature must be above 0 and finite, got {temperature}.")
    check_reduction("distillation", reduction)
    given = student_logits.dtype
    classes = student_logits.shape[-1]
    student_logits, teacher_logits = to_float32_in_autocast(student_logits, teacher_logits)
    losses: Tensor = Distillation.apply(
        student_logits.reshape(-1, classes), teacher_logits.reshape(-1, classes), temperature
    )
    return reduce(losses.view(student_logits.shape[:-1]), reduction).to(given)
