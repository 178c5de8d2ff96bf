"""Each tensor's gradient against values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor

from framework.gradients.numerical import STEPS, Judgement, Tolerance, derivative, judge
from framework.gradients.problem import Gradients, Problem
from framework.gradients.report import Row

SPIKES = 4
"""How many numbers of a tensor a direction stresses, so that a fault in few places shows."""
DIRECTIONS = 3
"""How many directions are tried where the function is not smooth along the first."""
JITTER = 3e-2
"""How far from a kink every number goes to be checked beside it."""


def check_rows(problem: Problem, tolerance: Tolerance, gradients: Gradients, directions: int = 1) -> list[Row]:
    """Return a row for each tensor, along so many random directions; the worst one is kept.

    A tensor that sits on a kink, such as a bias of zero before a ReLU on blank pixels, is checked beside it.
    """
    generator = Generator().manual_seed(0)
    rows: list[Row] = []
    steps: tuple[float, ...] = STEPS
    for name in problem.tensors:
        found: list[Row] = []
        for _ in range(directions):
            row = _check(problem, name, gradients[name], tolerance, generator, steps)
            # where one tensor needs small steps the next will too: it passes the same kinks
            steps = tuple(s for s in STEPS if s <= 10 * row.step) or STEPS
            found.append(row)
            if row.verdict != "ok":
                break
        rows.append(max(found, key=lambda r: (r.verdict != "ok", r.error)))
    kinks = [row.name for row in rows if row.verdict == "kink"]
    if not kinks:
        return rows
    beside = {row.name: row for row in _beside(problem, kinks, tolerance, generator)}
    return [beside.get(row.name, row) for row in rows]


def _beside(problem: Problem, names: Iterable[str], tolerance: Tolerance, generator: Generator) -> list[Row]:
    """Check tensors at a point near by, where kinks are at a distance again."""
    tensors = problem.tensors
    shift = {n: _draw(t, generator) * JITTER for n, t in tensors.items()}
    before = {n: t.detach().clone() for n, t in tensors.items()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.add_(shift[name])
    try:
        gradients = problem.gradients()
        tolerance = replace(tolerance, value=problem.value())
        rows = [_check(problem, n, gradients[n], tolerance, generator, STEPS[2:]) for n in names]
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])
    notes = {"ok": "on a kink; checked beside it", "kink": "the function is not smooth here"}
    return [replace(row, note=notes.get(row.verdict, row.note)) for row in rows]


def _check(
    problem: Problem,
    name: str,
    gradient: Tensor | None,
    tolerance: Tolerance,
    generator: Generator,
    steps: tuple[float, ...],
) -> Row:
    tensor = problem.tensors[name]
    shape = tuple(tensor.shape)
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        return Row(name, shape, "not finite", math.nan, math.nan, math.nan)
    for _ in range(DIRECTIONS):
        found = probe(problem, {name: direction(tensor, generator)}, {name: gradient}, tolerance, steps)
        if found.verdict != "kink":
            break
    row = Row(name, shape, found.verdict, found.analytic, found.numeric, found.error, found.step)
    if found.tried and found.verdict == "ok":
        row = replace(row, note=f"kinks within {found.tried[-1]:.0e}")
    nothing = gradient is None or not bool(gradient.any())
    if found.verdict == "wrong" and nothing:
        return replace(row, verdict="missing")
    if found.verdict == "ok" and gradient is None:
        return replace(row, verdict="unused")
    return row


def probe(
    problem: Problem,
    directions: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    tolerance: Tolerance,
    steps: tuple[float, ...] = STEPS,
) -> Judgement:
    """Compare the derivative along directions of some tensors at once with the values there."""
    analytic = sum(float((g.double() * d).sum()) for d, g in _pairs(directions, gradients))
    with problem.moved(directions) as value_at:
        return judge(value_at, analytic, tolerance, steps)


def direction(tensor: Tensor, generator: Generator) -> Tensor:
    """Draw a direction of length 1: half of its square on all numbers, half on a few that are drawn too."""
    dense = _draw(tensor, generator)
    if tensor.numel() <= SPIKES:
        return _unit(dense)
    spikes = torch.zeros_like(dense)
    places = torch.randint(tensor.numel(), (SPIKES,), generator=generator).to(tensor.device)
    spikes.view(-1)[places] = torch.randn(SPIKES, generator=generator, dtype=torch.float64).to(tensor.device)
    return _unit(_unit(dense) + _unit(spikes))


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm().clamp(min=1e-30)
    return unit


def tolerance_of(problem: Problem, relative: float) -> Tolerance:
    """Return what differences to allow at this point, more where values carry the noise of a lower precision."""
    value = problem.value()
    exact = Tolerance(value, relative)
    noise = _noise(problem) if _narrows(problem) else 0.0
    return replace(exact, rounding=max(exact.rounding, 8 * noise / max(1.0, abs(value))))


def ratio(problem: Problem, name: str, gradient: Tensor, seed: int) -> float:
    """Return backpropagation's derivative over that of the values, along a direction of their own."""
    along = direction(problem.tensors[name], Generator().manual_seed(seed))
    with problem.moved({name: along}) as value_at:
        numeric = derivative(value_at, 1e-4)
    return float((gradient.double() * along).sum()) / numeric if numeric else math.nan


def _draw(tensor: Tensor, generator: Generator) -> Tensor:
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return drawn.to(tensor.device)


def _pairs(directions: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    both = ((d, gradients[name]) for name, d in directions.items())
    return [(d, g) for d, g in both if g is not None]


class _Narrowing(torch.utils._python_dispatch.TorchDispatchMode):
    """Sees whether any operation gives numbers in less than float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                self.seen = True
        return result


def _narrows(problem: Problem) -> bool:
    watch = _Narrowing()
    with watch:
        problem.value()
    return watch.seen


def _noise(problem: Problem) -> float:
    """Return how far values scatter: the median fourth difference along a line, over √70 of a single value's.

    Source: Moré & Wild (2011), Estimating Computational Noise, section 2.
    """
    generator = Generator().manual_seed(1)
    along = {n: direction(t, generator) for n, t in problem.tensors.items()}
    with problem.moved(along) as value_at:
        values = torch.tensor([value_at(1e-4 * k) for k in range(9)], dtype=torch.float64)
    fourth = values.diff(n=4).abs()
    return float(fourth.median()) / math.sqrt(70)
