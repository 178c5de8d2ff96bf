"""Contexts that transform a program: checkpointing, autocast, torch.compile, torch.func, a second derivative."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from framework.gradients.contexts import Setting, Skipped, context, differ, rolled
from framework.gradients.numerical import STEPS, Tolerance, judge
from framework.gradients.outputs import differentiable
from framework.gradients.problem import Problem
from framework.gradients.rows import direction

COMPILED = 1e-7
"""The relative difference allowed between eager and compiled float64, whose kernels may sum in another order."""
MIXED = 0.5
"""The relative error of a gradient in bfloat16 that is no fault: terms cancel, and a margin or a ReLU may switch."""


@context("checkpointed", "give the same outputs when forward is run again", may_refuse=True)
def _checkpointed(setting: Setting) -> str:
    problem = setting.problem
    anchor = torch.zeros((), requires_grad=True)  # so that there is a graph where only parameters have one
    outputs = checkpoint(lambda _: problem.call(), anchor, use_reentrant=False)
    return differ(problem.pull(differentiable(outputs), list(setting.cotangents)), setting.at_outputs)


@context("autocast to bfloat16", "cast by hand in the function what autocast would cast in torch's own operations")
def _autocast(setting: Setting) -> str:
    if setting.is_surrogate:
        raise Skipped("a surrogate rounds")
    problem = setting.problem.in_float32()
    plain = problem.gradients()
    device = next(iter(problem.tensors.values())).device.type
    with torch.autocast(device, torch.bfloat16):
        value = problem.scalar(problem.call())
    found = problem.pull(value)
    for name, gradient in found.items():
        if gradient is not None and gradient.dtype != problem.tensors[name].dtype:
            return f"the gradient by {name} is {gradient.dtype}, {name} itself {problem.tensors[name].dtype}"
    norms = [float(g.norm()) for g in plain.values() if g is not None]
    for name, due in plain.items():
        got = found[name]
        due = torch.zeros_like(problem.tensors[name]) if due is None else due
        got = torch.zeros_like(due) if got is None else got
        error = float((got - due).norm())
        if not error <= MIXED * float(due.norm()) + 0.05 * max(norms, default=0.0):
            return f"the gradient by {name} is {error / max(float(due.norm()), 1e-30):.1e} off (relative)"
    return ""


@context("torch.compile", "use setup_context, save_for_backward and no side effects", may_refuse=True)
def _compiled(setting: Setting) -> str:
    problem = setting.problem
    torch.compiler.reset()
    try:
        outputs = problem.call(torch.compile(problem.subject, backend="aot_eager"))
        for a, b in zip(differentiable(outputs), differentiable(problem.call()), strict=True):
            if not torch.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True):
                raise Skipped("compiled, it draws other random numbers, or rounds otherwise")
        found = problem.pull(differentiable(outputs), list(setting.cotangents))
    finally:
        torch.compiler.reset()
    return differ(found, setting.at_outputs, COMPILED)


@context("vmap(grad)", "use forward without ctx, setup_context, and generate_vmap_rule = True", may_refuse=True)
def _vmapped(setting: Setting) -> str:
    """Compare the values and gradients of three examples at once with those of each."""
    problem = setting.problem
    if problem.module is not None or not problem.inputs:
        raise Skipped("for functions only")
    names = {id(t): name for name, t in problem.inputs.items()}
    rows = {n: torch.stack([t.detach(), 0.5 * t.detach(), rolled(t.detach())]) for n, t in problem.inputs.items()}

    def value(examples: dict[str, Tensor]) -> Tensor:
        def exchanged(given: Tensor) -> Tensor:
            return examples[names[id(given)]] if id(given) in names else given

        args, kwargs = apply_to_collection((problem.args, dict(problem.kwargs)), Tensor, exchanged)
        torch.manual_seed(0)
        return problem.scalar(problem.subject(*args, **kwargs))

    together, values = torch.func.vmap(torch.func.grad_and_value(value), randomness="same")(rows)
    for i in range(3):
        leaves = {n: r[i].clone().requires_grad_() for n, r in rows.items()}
        due = value(leaves)
        if not torch.allclose(values[i], due, rtol=1e-9, atol=1e-12, equal_nan=True):
            return f"example {i}: the value is {float(values[i]):.6g} under vmap, {float(due):.6g} alone"
        alone = torch.autograd.grad(due, list(leaves.values()), allow_unused=True)
        found = {n: g[i] for n, g in together.items()}
        if what := differ(found, dict(zip(leaves, alone, strict=True))):
            return f"example {i}: {what}"
    return ""


@context(
    "double backward",
    "make backward of differentiable operations where torch.is_grad_enabled(), and save no detached result; "
    "once_differentiable goes silently wrong under create_graph=True",
    may_refuse=True,
)
def _double(setting: Setting) -> str:
    """Compare the derivative of ½ Σ g² by the second backward with values of ½ Σ g²."""
    problem = setting.problem
    if not setting.twice:
        raise Skipped("it states that it cannot be differentiated twice")
    if setting.is_surrogate:
        raise Skipped("a surrogate")
    setting.need_values()
    generator = Generator().manual_seed(5)
    along = {n: direction(t, generator) for n, t in problem.tensors.items()}
    # the fused kernels of attention have no second derivative, its plain formula has
    with sdpa_kernel(SDPBackend.MATH):
        size = _half_square(problem, create_graph=True)
        second = problem.pull(size) if size.requires_grad else dict.fromkeys(problem.tensors)
        analytic = sum(float((g * along[n]).sum()) for n, g in second.items() if g is not None)
        with problem.moved(along) as value_at:

            def size_at(distance: float) -> float:
                value_at(distance)
                return float(_half_square(problem))

            found = judge(size_at, analytic, Tolerance(float(size.detach()), 1e-7, 1e-12), STEPS[1:])
    if found.verdict != "wrong":
        return ""
    return f"the derivative of ½ Σ g² is {found.analytic:.6g} by create_graph=True, {found.numeric:.6g} by values"


def _half_square(problem: Problem, **options: Any) -> Tensor:
    found = problem.pull(problem.scalar(problem.call()), **options)
    parts = [g.square().sum() for g in found.values() if g is not None]
    return torch.stack(parts).sum() / 2 if parts else torch.zeros(())
