"""Contexts that the autograd engine makes: what arrives at a backward, in what memory, how often, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from framework.gradients.contexts import Setting, Skipped, context, copies, differ, gapped, rolled, scaled, transposed
from framework.gradients.outputs import differentiable
from framework.gradients.problem import Problem
from framework.gradients.rows import direction, probe

FEW = 8
"""How many tensors are looked at one by one where there may be hundreds."""


@context("repeated", "seed what is drawn from torch's generator, and keep no state between calls")
def _repeated(setting: Setting) -> str:
    problem = setting.problem
    first, second = problem.scalar(problem.call()), problem.scalar(problem.call())
    if not torch.equal(first.detach(), second.detach()) and not torch.allclose(first, second, rtol=1e-12):
        return f"the value is {float(first.detach()):.9g}, and {float(second.detach()):.9g} the next time"
    return differ(problem.gradients(), setting.plain)


@context("without a graph", "return the same value under torch.no_grad() as with a graph")
def _without_graph(setting: Setting) -> str:
    problem = setting.problem
    with torch.no_grad():
        without = problem.scalar(problem.call())
    value = problem.scalar(problem.call()).detach()
    if torch.allclose(without, value, rtol=1e-9, atol=1e-12, equal_nan=True):
        return ""
    return f"the value is {float(without):.6g} under no_grad, {float(value):.6g} with a graph"


@context("scaled loss", "multiply by the incoming gradient in backward")
def _scaled_loss(setting: Setting) -> str:
    problem = setting.problem
    return differ(problem.pull(-2.5 * problem.scalar(problem.call())), scaled(setting.plain, -2.5))


@context("random cotangents", "derive backward for any incoming gradient, not for that of one loss")
def _random_cotangents(setting: Setting) -> str:
    """Let values prove the gradients at the outputs too, where a loss stands between."""
    if setting.problem.loss is None:
        raise Skipped("checked by the table: there is no loss")
    setting.need_values()
    projected = setting.problem.remade(lambda t: t, loss=None, target=None, penalties={})
    gradients = projected.gradients()
    generator = torch.Generator().manual_seed(3)
    along = {name: direction(t, generator) for name, t in projected.tensors.items()}
    found = probe(projected, along, gradients, setting.tolerance)
    if found.verdict != "wrong":
        return ""
    return f"backpropagation gives {found.analytic:.6g}, values say {found.numeric:.6g}"


@context("strided cotangents", "read the incoming gradient by its strides, or call contiguous() on it")
def _strided(setting: Setting) -> str:
    for layout in (gapped, transposed):
        found = setting.pulled([layout(c) for c in setting.cotangents])
        if what := differ(found, setting.at_outputs):
            return what
    with _at_boundaries(setting.problem, gapped):
        what = differ(setting.problem.gradients(), setting.plain)
    return what and f"between its modules: {what}"


@context("expanded cotangents", "read the incoming gradient by its strides, 0 included, and never write to it")
def _expanded(setting: Setting) -> str:
    """Compare what .sum() sends, one number with strides of 0, with the same in memory of its own."""
    ones = [torch.full_like(c, 0.7) for c in setting.cotangents]
    broadcast: list[Tensor | None] = [torch.full((), 0.7, dtype=c.dtype, device=c.device).expand(c.shape) for c in ones]
    return differ(setting.pulled(broadcast), setting.pulled(list(ones)))


@context("shared cotangents", "never write to incoming gradients: the engine hands one tensor to several functions")
def _shared(setting: Setting) -> str:
    given = setting.cotangents
    found = setting.pulled(list(given))
    if any(not torch.equal(g, c) for g, c in zip(given, setting.cotangents, strict=True)):
        return "backward writes to the gradient that it is given"
    if what := differ(found, setting.at_outputs):
        return what
    kept: list[tuple[Tensor, Tensor]] = []
    with _at_boundaries(setting.problem, lambda g: kept.append((g, g.clone()))):
        setting.problem.gradients()
    if any(not torch.equal(g, before) for g, before in kept):
        return "a backward inside writes to the gradient that it is given"
    shapes = [c.shape for c in given]
    if len(shapes) < 2 or len(set(shapes)) > 1:
        return ""
    same: list[Tensor | None] = [given[0]] * len(given)
    apart: list[Tensor | None] = [given[0].clone() for _ in given]
    return differ(setting.pulled(same), setting.pulled(apart))


@context("one output unused", "take None or zeros as the gradient of an output that nobody used")
def _one_unused(setting: Setting) -> str:
    count = len(setting.cotangents)
    if count < 2:
        raise Skipped("one output")
    for i, cotangent in enumerate(setting.cotangents):
        alone = setting.problem.pull(differentiable(setting.problem.call())[i], [cotangent])
        zeros: list[Tensor | None] = [torch.zeros_like(c) for c in setting.cotangents]
        zeros[i] = cotangent
        if what := differ(alone, setting.pulled(zeros)):
            return f"output {i} alone: {what}"
    return ""


@context("twice in one graph", "keep what backward needs in ctx, and write to nothing that is saved or given")
def _twice(setting: Setting) -> str:
    problem = setting.problem
    first, second = (differentiable(problem.call()) for _ in range(2))
    sums = [a + b for a, b in zip(first, second, strict=True)]
    return differ(problem.pull(sums, list(setting.cotangents)), scaled(setting.at_outputs, 2))


@context("another forward before the backward", "keep what backward needs in ctx, not on the class or the module")
def _another_forward(setting: Setting) -> str:
    outputs = differentiable(setting.problem.call())
    try:
        other = setting.problem.remade(rolled)
        later = differentiable(other.call())
    except ValueError as error:
        raise Skipped(f"other inputs were refused: {error}") from None
    found = setting.problem.pull(outputs, list(setting.cotangents))
    del later
    return differ(found, setting.at_outputs)


@context("backward twice", "write to no saved tensor in backward, and do not free what it needs (retain_graph=True)")
def _backward_twice(setting: Setting) -> str:
    problem = setting.problem
    outputs = differentiable(problem.call())
    first = copies(problem.pull(outputs, list(setting.cotangents), retain_graph=True))
    second = problem.pull(outputs, [-3 * c for c in setting.cotangents])
    if what := differ(first, setting.at_outputs):
        return what
    what = differ(second, scaled(setting.at_outputs, -3))
    return what and f"the second backward on one graph: {what}"


@context("random numbers drawn in between", "draw in forward, and save the mask or its seed for backward")
def _drawn_between(setting: Setting) -> str:
    outputs = differentiable(setting.problem.call())
    torch.manual_seed(99)
    return differ(setting.problem.pull(outputs, list(setting.cotangents)), setting.at_outputs)


@context("one gradient at a time", "give each gradient where ctx.needs_input_grad asks for it, in its own place")
def _one_at_a_time(setting: Setting) -> str:
    problem = replace(setting.problem, penalties={})  # they are of the weights that are trained
    tensors = problem.tensors
    if len(tensors) < 2:
        raise Skipped("one tensor")
    together = problem.gradients()
    for name in list(tensors)[:: -(-len(tensors) // FEW)]:
        for other, tensor in tensors.items():
            tensor.requires_grad_(other == name)
        try:
            found = problem.pull(problem.scalar(problem.call()), names=[name])
        finally:
            for tensor in tensors.values():
                tensor.requires_grad_()
        if what := differ(found, {name: together[name]}):
            return what
    return ""


@context("inputs in other memory", "read inputs by their strides, or call contiguous() on them")
def _other_memory(setting: Setting) -> str:
    if not setting.problem.inputs:
        raise Skipped("no floating input")
    if setting.problem.draws():
        raise Skipped("what is drawn depends on the order in memory")
    for layout in (gapped, transposed):
        other = setting.problem.remade(layout)
        if what := differ(other.gradients(), setting.plain):
            return what
    return ""


@context("inputs left alone", "write to no input, unless mark_dirty says so")
def _left_alone(setting: Setting) -> str:
    before = {name: t.detach().clone() for name, t in setting.problem.tensors.items()}
    setting.problem.gradients()
    changed = [name for name, t in setting.problem.tensors.items() if not torch.equal(t, before[name])]
    return f"{changed[0]} is not what it was before" if changed else ""


@context("inputs overwritten before the backward", "save tensors by ctx.save_for_backward, which sees such writes")
def _overwritten(setting: Setting) -> str:
    """Let an optimizer step come in between: right gradients or an exception are both fine, wrong ones are not."""
    problem = setting.problem
    if problem.module is not None or not problem.inputs:
        raise Skipped("for functions only")
    for name, tensor in problem.inputs.items():
        before = tensor.detach().clone()
        outputs = differentiable(problem.call())
        with torch.no_grad():
            tensor.mul_(1.5).add_(0.1)
        try:
            what = differ(problem.pull(outputs, list(setting.cotangents)), setting.at_outputs)
        except RuntimeError:
            what = ""
        finally:
            with torch.no_grad():
                tensor.copy_(before)
        if what:
            return f"after a write to {name} no exception, and {what}"
    return ""


@contextmanager
def _at_boundaries(problem: Problem, seen: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show each gradient that arrives at a module inside; what `seen` returns takes its place."""

    def hook(module: Any, args: Any, outputs: Any) -> None:
        for output in differentiable(outputs):
            output.register_hook(seen)

    modules = [] if problem.module is None else list(problem.module.modules())
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
