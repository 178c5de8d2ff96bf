"""The usual cause of a fault, by its signature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from framework.gradients.numerical import Tolerance
from framework.gradients.outputs import floating, sum_of
from framework.gradients.problem import Gradients, Problem
from framework.gradients.report import Row
from framework.gradients.rows import direction, probe, ratio

DETACHED = (
    "the gradient is cut: .detach(), .data, .item(), torch.no_grad() or a round trip through NumPy in forward, "
    "or None from backward"
)
IGNORED = "the incoming gradient is ignored: backward must multiply by it"
ONE_ELEMENT = "one element of the incoming gradient stands for all of it, such as grad_output[0]"
NOT_FINITE = "a division by 0, the logarithm or root of 0, or 0 · ∞ in backward"
FLOAT32 = "float32 somewhere inside: a .float(), a constant of that type, or a buffer that .double() does not reach"
SLIGHT = "a dropped ε, a constant slightly off, or bfloat16 somewhere in backward"
MISSING_TERM = (
    "a term of the derivative is missing or has a wrong factor: an ε dropped or moved, or an in-place "
    "write to what backward needs: differentiate the forward anew, term by term"
)


def usual_cause(problem: Problem, rows: Sequence[Row], gradients: Gradients, tolerance: Tolerance) -> str:
    """Return what usually makes gradients wrong in this way, or nothing where values agree with them."""
    bad = [row for row in rows if row.verdict in ("wrong", "missing", "not finite")]
    if not bad:
        return ""
    if any(row.verdict == "not finite" for row in bad):
        return NOT_FINITE
    wrong = [row for row in bad if row.verdict == "wrong"]
    if not wrong:
        return DETACHED
    factor = _factor(problem, wrong[0], gradients)
    if factor is not None:
        return _of_factor(problem, factor)
    if problem.loss is None and (of_cotangent := _of_cotangent(problem, tolerance)):
        return of_cotangent
    largest = max(row.error for row in wrong)
    if largest < 3e-6:
        return FLOAT32
    return SLIGHT if largest < 2e-2 else MISSING_TERM


def _factor(problem: Problem, row: Row, gradients: Gradients) -> float | None:
    """Return the one number that the gradient is off by, where it is one."""
    gradient = gradients[row.name]
    assert gradient is not None
    found = [ratio(problem, row.name, gradient, seed) for seed in (11, 12, 13)]
    if gradient.numel() == 1 or not all(map(math.isfinite, found)):
        return None
    return found[0] if max(found) - min(found) <= 1e-5 * abs(found[0]) else None


def _of_factor(problem: Problem, factor: float) -> str:
    said = f"the gradient is {factor:.6g} times what it should be"
    if abs(factor + 1) < 1e-5:
        return f"{said}: a wrong sign"
    for number, meaning in _sizes(problem):
        for value, text in ((number, meaning), (1 / number, f"1 / {meaning}")):
            if number > 1 and abs(factor / value - 1) < 1e-5:
                return f"{said}, which is {text}: a sum for a mean, or a mean for a sum (wrong reduction)"
    if abs(factor - 1) < 2e-2:
        return f"{said}: a constant slightly off"
    return f"{said}: a wrong scale or reduction, such as dividing by all rows where only some count"


def _sizes(problem: Problem) -> Iterator[tuple[float, str]]:
    for name, tensor in problem.tensors.items():
        for size in tensor.shape:
            yield float(size), f"{size}, a size of {name}"
        yield float(tensor.numel()), f"{tensor.numel()}, the elements of {name}"
    with torch.no_grad():
        for output in floating(problem.call()):
            yield float(output.numel()), f"{output.numel()}, the elements of the output"
    yield 2.0, "2"


def _of_cotangent(problem: Problem, tolerance: Tolerance) -> str:
    """Tell whether gradients are right where every element of the incoming gradient is 1, or where all are 3."""
    right = [_right_for_constant(problem, number, tolerance) for number in (1.0, 3.0)]
    if right == [True, True]:
        return ONE_ELEMENT
    return IGNORED if right == [True, False] else ""


def _right_for_constant(problem: Problem, number: float, tolerance: Tolerance) -> bool:
    def loss(outputs: Any) -> Tensor:
        return number * sum_of([o.double() for o in floating(outputs)])

    summed = replace(problem, loss=loss)
    generator = Generator().manual_seed(6)
    along = {name: direction(t, generator) for name, t in summed.tensors.items()}
    return probe(summed, along, summed.gradients(), replace(tolerance, value=summed.value())).verdict == "ok"
