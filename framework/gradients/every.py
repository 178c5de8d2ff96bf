"""Every single weight against values: N + 1 passes for N weights, where backpropagation needs one each way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from framework.gradients.numerical import Tolerance
from framework.gradients.problem import Gradients, Problem
from framework.gradients.report import Row, Verdict
from framework.gradients.rows import probe

STEP = 1e-6
"""How far each weight is moved: half of it times the curvature is the error of the quotient."""
LOOK_AGAIN = 1e-5
"""The relative difference beyond which the finer stencil decides."""
CANDIDATES = 20
"""How many weights of a tensor, the worst, the stencil looks at."""


def check_every(problem: Problem, tolerance: Tolerance, gradients: Gradients) -> list[Row]:
    """Return a row for each tensor with its worst weight, by (f(w + h) − f(w)) / h for each weight alone."""
    base = problem.value()
    return [_check(problem, name, gradients[name], base, tolerance) for name in problem.tensors]


def _check(problem: Problem, name: str, gradient: Tensor | None, base: float, tolerance: Tolerance) -> Row:
    tensor = problem.tensors[name]
    shape = tuple(tensor.shape)
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        return Row(name, shape, "not finite", math.nan, math.nan, math.nan)
    numeric = _quotients(problem, tensor, base)
    analytic = torch.zeros_like(numeric) if gradient is None else gradient.double().cpu()
    difference = (analytic - numeric).abs()
    limit = LOOK_AGAIN * (analytic.abs() + numeric.abs() + max(1.0, abs(base)))
    worst = int((difference / limit).argmax()) if difference.numel() else 0
    suspects = [int(i) for i in (difference / limit).flatten().topk(min(CANDIDATES, numeric.numel())).indices]
    row = _row(name, shape, analytic, numeric, worst)
    for place in suspects:
        if float(difference.flatten()[place]) <= float(limit.flatten()[place]):
            break
        along = torch.zeros_like(tensor, dtype=torch.float64)
        along[_index(place, shape)] = 1.0
        found = probe(problem, {name: along}, {name: gradient}, tolerance)
        if found.verdict == "wrong":
            nothing = gradient is None or not bool(gradient.any())
            verdict: Verdict = "missing" if nothing else "wrong"
            exact = replace(row, worst=_index(place, shape), analytic=found.analytic, numeric=found.numeric)
            return replace(exact, verdict=verdict, error=found.error, step=found.step)
        row = replace(row, note="kinks near some weights" if found.verdict == "kink" or found.tried else row.note)
    return replace(row, verdict="unused") if gradient is None else row


def _quotients(problem: Problem, tensor: Tensor, base: float) -> Tensor:
    found = torch.zeros(tensor.shape, dtype=torch.float64)
    flat, weights = found.view(-1), tensor.detach()
    for i in range(tensor.numel()):
        index = _index(i, tuple(tensor.shape))
        before = weights[index].clone()
        weights[index] = before + STEP
        flat[i] = (problem.value() - base) / STEP
        weights[index] = before
    return found


def _row(name: str, shape: tuple[int, ...], analytic: Tensor, numeric: Tensor, worst: int) -> Row:
    a, n = (float(t.flatten()[worst]) if t.numel() else 0.0 for t in (analytic, numeric))
    scale = max(float(analytic.abs().max()), float(numeric.abs().max())) if numeric.numel() else 0.0
    return Row(name, shape, "ok", a, n, abs(a - n) / scale if scale else 0.0, STEP, _index(worst, shape))


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, shape)) if shape else ()
