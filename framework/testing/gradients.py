"""Gradients, as an assertion."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from framework.functions import HandWritten
from framework.gradients import check_function, check_module


def assert_gradients(
    function_or_module: Callable[..., Any] | HandWritten | nn.Module,
    *inputs: Any,
    loss: Callable[..., Tensor] | None = None,
    target: Any = None,
    contexts: Collection[str] | None = None,
) -> None:
    """Raise AssertionError where gradients are not the derivatives of the values, or do not stay so.

    Floating inputs that require a gradient are differentiated by, all floating ones where none does; of a module, its
    parameters too. Everything is a copy in float64. `loss` is a callable of the outputs that returns a scalar, or with
    a `target` of (outputs, target); without one, outputs are weighed by fixed random numbers. `contexts` names the
    hostile contexts to try, None all that apply. The message says where, which tensor, by how much, the usual cause.
    """
    if isinstance(function_or_module, nn.Module):
        report = check_module(function_or_module, *inputs, loss=loss, target=target, contexts=contexts)
    else:
        report = check_function(function_or_module, *inputs, loss=loss, target=target, contexts=contexts)
    if not report.ok:
        raise AssertionError(report.explain())
