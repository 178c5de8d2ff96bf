"""Which gradients pass through a function that declares its own to be no derivative."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from framework.functions import FUNCTIONS
from framework.gradients.problem import Problem


def declared(problem: Problem) -> dict[str, set[str]]:
    """Return the names of surrogates by the name of each tensor whose gradient passes through them.

    A function of ours says so where it is registered, anybody's by `nature = "surrogate"` on its class. Where a problem
    states what its gradient is the derivative of, there is nothing to excuse.
    """
    found: dict[str, set[str]] = defaultdict(set)
    value = problem.scalar(problem.call())
    if problem.stated is not None or value.grad_fn is None:
        return found
    names = {id(t): name for name, t in problem.tensors.items()}
    for node in _above(value.grad_fn):
        if (surrogate := _surrogate(node)) is None:
            continue
        for below in _above(node):
            variable = getattr(below, "variable", None)
            if id(variable) in names:
                found[names[id(variable)]].add(surrogate)
    return found


def _above(start: Any) -> list[Any]:
    """Return the nodes that a gradient reaches from here, in no order."""
    seen, left = {start}, [start]
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return list(seen)


def _surrogate(node: Any) -> str | None:
    made = getattr(type(node), "_forward_cls", None)
    if made is None or not issubclass(made, torch.autograd.Function):
        return None
    if getattr(made, "nature", "exact") == "surrogate":
        return str(made.__name__)
    ours = (e for e in FUNCTIONS.values() if e.nature == "surrogate" and e.call.__module__ == made.__module__)
    return next((e.name for e in ours), None)
