"""Checks of a function and of a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.errors import ConfigError, nearest
from framework.functions import FUNCTIONS, HandWritten
from framework.gradients import engine, transforms, values  # noqa: F401  # importing them files their contexts
from framework.gradients.causes import usual_cause
from framework.gradients.contexts import Setting, run_contexts
from framework.gradients.every import check_every
from framework.gradients.localize import locate
from framework.gradients.numerical import RELATIVE, Tolerance
from framework.gradients.problem import Cost, Gradients, Problem
from framework.gradients.report import FAILED, Context, Report, Row
from framework.gradients.rows import check_rows, tolerance_of
from framework.gradients.subjects import name_of, of_function, of_module
from framework.gradients.surrogates import declared

LOSSY = 2**-7
"""The relative error that a lossy gradient may have: that of two roundings to bfloat16."""


def check_function(
    function: Callable[..., Any] | HandWritten,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[..., Tensor] | None = None,
    target: Any = None,
    contexts: Collection[str] | None = None,
    full: bool = False,
) -> Report:
    """Check the gradients of a function at these inputs, and that they stay right in every hostile context.

    Floating tensors among the inputs that require a gradient are differentiated by; where none does, all of them are.
    A hand-written function that states a surrogate is held to that; one that is lossy, to its own precision.
    `loss` and `target` are as for a module. `contexts` names those to run, None all that apply; `full` checks every
    single number.
    """
    if isinstance(function, HandWritten):
        entry, name, call = function, function.name, function.call
    else:
        entry, name, call = None, name_of(function), function
    problem = of_function(name, call, inputs, kwargs or {}, loss, target)
    relative = RELATIVE
    if entry is not None and entry.nature == "surrogate":
        problem.stated = entry.surrogate
    if entry is not None and entry.nature == "lossy":
        problem.stated, relative = entry.reference, LOSSY
    return check(problem, relative, contexts, full, twice=entry is None or entry.twice)


def check_named(name: str, *, full: bool = False) -> list[Report]:
    """Check a hand-written function, or with `all` every one, by its own examples: a report for each."""
    if name != "all" and name not in FUNCTIONS:
        raise ConfigError(f"there is no function '{name}': {nearest(name, [*FUNCTIONS, 'all'])}")
    reports = []
    for entry in FUNCTIONS.values() if name == "all" else [FUNCTIONS[name]]:
        for example, call in entry.examples(Generator().manual_seed(0)).items():
            report = check_function(entry, *call.args, kwargs=call.kwargs, full=full)
            reports.append(replace(report, subject=f"{entry.name}: {example}"))
    return reports


def check_module(
    module: nn.Module,
    *inputs: Any,
    loss: Callable[..., Tensor] | None = None,
    target: Any = None,
    penalties: Mapping[str, Callable[[nn.Module], Tensor]] | None = None,
    contexts: Collection[str] | None = None,
    full: bool = False,
) -> Report:
    """Check the gradients of a module by its parameters and floating inputs, on a copy of it in float64.

    `loss` is a callable of the outputs that returns a scalar, or with a `target` of (outputs, target); without one, the
    outputs are weighed by fixed random numbers. `penalties` are callables of the module that are added to the loss.
    """
    return check(of_module(module, inputs, loss, target, penalties or {}), RELATIVE, contexts, full)


def check(
    problem: Problem, relative: float, contexts: Collection[str] | None, full: bool, *, twice: bool = True
) -> Report:
    """Check a problem: values, contexts, and where a fault is found its place and cause."""
    if not problem.tensors:
        raise ValueError(
            f"{problem.name} has nothing to differentiate by: give it a floating-point input, or a parameter."
        )
    report = Report(problem.name)
    with torch.random.fork_rng():
        problem.leave_out_constants()
        if problem.constant and problem.loss is None:
            left = ", ".join(map(str, sorted(problem.constant)))
            report.note = f"not checked, since it has no gradient: output {left}"
        problem.values_need_grad = _is_another_without_graph(problem)
        tolerance = tolerance_of(problem, relative)
        if not math.isfinite(tolerance.value):
            what = f"it is {tolerance.value} at these inputs, so there is nothing to differentiate"
            report.contexts = [Context("value", "wrong", what)]
            return report
        problem.forward_cost, problem.backward_cost = Cost(), Cost()
        gradients = problem.gradients()
        if full:
            report.rows = check_every(problem, tolerance, gradients)
        else:
            report.rows = check_rows(problem, tolerance, gradients, directions=1 if problem.module is not None else 2)
        report.numerical_passes, report.numerical_seconds = problem.forward_cost.passes, problem.forward_cost.seconds
        report.backprop_passes, report.backprop_seconds = problem.backward_cost.passes, problem.backward_cost.seconds
        surrogates = declared(problem)
        report.rows = [_excused(row, surrogates) for row in report.rows]
        named = {name for names in surrogates.values() for name in names}
        setting = Setting(problem, gradients, tolerance, twice, named, refuted=not report.ok)
        report.contexts = run_contexts(setting, contexts)
        if not report.ok:
            _explain(report, problem, gradients, tolerance)
    return report


def _excused(row: Row, surrogates: Mapping[str, Collection[str]]) -> Row:
    """Return a row that need not agree with values as such."""
    names = surrogates.get(row.name, ())
    if row.verdict not in ("wrong", "missing") or not names:
        return row
    return replace(row, verdict="surrogate", note=f"through {', '.join(sorted(names))}")


def _explain(report: Report, problem: Problem, gradients: Gradients, tolerance: Tolerance) -> None:
    """Find where the fault is, and its usual cause."""
    disagree = any(row.verdict in FAILED for row in report.rows)
    failed = [c.name for c in report.contexts if c.verdict == "wrong"]
    place = locate(problem, disagree, failed)
    if place is None:
        report.where = problem.name if problem.module is None else f"the {problem.name} and its loss as a whole"
        report.cause = usual_cause(problem, report.rows, gradients, tolerance)
        return
    report.where = place.name
    local = place.problem.gradients()
    near = tolerance_of(place.problem, tolerance.relative)
    rows = check_rows(place.problem, near, local) if disagree else []
    report.cause = usual_cause(place.problem, rows, local, near)


def _is_another_without_graph(problem: Problem) -> bool:
    """Tell whether values without a graph are not those that are differentiated."""
    with torch.no_grad():
        without = problem.scalar(problem.call())
    value = problem.scalar(problem.call()).detach()
    return not torch.allclose(without, value, rtol=1e-9, atol=1e-12, equal_nan=True)
