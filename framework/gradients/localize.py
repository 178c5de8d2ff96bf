"""Where a fault is: the first module, in the order in which calls end, whose own gradients disagree."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Generator, Tensor, nn

from framework.gradients.contexts import Setting, run_contexts
from framework.gradients.numerical import RELATIVE
from framework.gradients.problem import Problem
from framework.gradients.rows import direction, probe, tolerance_of


@dataclass(frozen=True)
class Place:
    """A part with a fault of its own: what to call it, and its problem alone."""

    name: str
    problem: Problem


def locate(problem: Problem, values_disagree: bool, contexts: Collection[str]) -> Place | None:
    """Return the first part that disagrees by itself: with values, or in one of the contexts that failed as a whole.

    A module ends its call after those inside it. So where one disagrees and none inside it did, the fault is in its
    own code: a detach, or a write between their calls.
    """
    if problem.module is None:
        return None
    for name, part in _parts(problem):
        if part.tensors and _disagrees(part, values_disagree, contexts):
            return Place(name, part)
    return None


def _disagrees(part: Problem, values_disagree: bool, contexts: Collection[str]) -> bool:
    try:
        part.leave_out_constants()
        gradients = part.gradients()
        tolerance = tolerance_of(part, RELATIVE)
    except Exception:  # a part that cannot be called alone says nothing
        return False
    if values_disagree:
        generator = Generator().manual_seed(0)
        along = {name: direction(t, generator) for name, t in part.tensors.items()}
        if any(g is not None and not bool(torch.isfinite(g).all()) for g in gradients.values()):
            return True
        if probe(part, along, gradients, tolerance).verdict == "wrong":
            return True
    if not contexts:
        return False
    return any(c.verdict == "wrong" for c in run_contexts(Setting(part, gradients, tolerance), contexts))


def _parts(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """Yield every call of a module, the loss and the penalties, each alone with the arguments that it was given."""
    module = problem.module
    assert module is not None
    paths = {inside: path for path, inside in module.named_modules()}
    calls, outputs = _record(problem, module)
    for inside, args, kwargs in calls:
        name = type(inside).__name__
        place = f"{paths[inside]} ({name})" if paths[inside] else f"the {name} itself"
        if any(True for _ in inside.children()):
            place += ", in its own code: the modules inside it are right"
        yield place, Problem(name, inside, args, kwargs, {"": inside})
    if problem.loss is not None:
        args = (_leaves(outputs),) if problem.target is None else (_leaves(outputs), problem.target)
        modules = {"": problem.loss} if isinstance(problem.loss, nn.Module) else {}
        name = getattr(problem.loss, "__name__", type(problem.loss).__name__)
        yield f"the loss ({name})", Problem(name, problem.loss, args, {}, modules)
    for name, penalty in problem.penalties.items():
        yield f"the penalty ({name})", Problem(name, _Bound(penalty, module), (), {}, {"model.": module})


@dataclass(frozen=True)
class _Bound:
    """A penalty of one module."""

    penalty: Any
    module: nn.Module

    def __call__(self) -> Tensor:
        value: Tensor = self.penalty(self.module)
        return value


Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def _record(problem: Problem, module: nn.Module) -> tuple[list[Call], Any]:
    """Return the calls of all modules in the order in which they end, their arguments copied, and the output."""
    begun: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    ended: list[Call] = []

    def before(inside: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begun.append((_leaves(args), _leaves(kwargs)))

    def after(inside: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        ended.append((inside, *begun.pop()))

    handles = []
    for inside in module.modules():
        handles.append(inside.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(inside.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.enable_grad():
            outputs = problem.call()
    finally:
        for handle in handles:
            handle.remove()
    return ended, outputs


def _leaves(values: Any) -> Any:
    return apply_to_collection(values, Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad))
