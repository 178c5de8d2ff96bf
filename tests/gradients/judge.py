"""What framework check and torch's gradcheck say of a mutant."""

import warnings

import torch
from mutants import Case
from torch import nn

from framework.gradients import Report, check_function, check_module


def check(case: Case, contexts=None) -> Report:
    if isinstance(case.subject, nn.Module):
        return check_module(case.subject, *case.inputs, loss=case.loss, target=case.target, contexts=contexts)
    return check_function(
        case.subject, *case.inputs, kwargs=case.kwargs, loss=case.loss, target=case.target, contexts=contexts
    )


def found_by(report: Report) -> str:
    """Return what caught it: values, or the contexts."""
    if report.ok:
        return ""
    if any(row.verdict in ("wrong", "missing", "not finite") for row in report.rows):
        return "values"
    return ", ".join(c.name for c in report.contexts if c.verdict == "wrong")


def gradcheck_finds(case: Case) -> bool:
    """Tell whether torch.autograd.gradcheck fails with its default settings, on inputs and parameters in float64."""
    leaves = [x.detach().clone().requires_grad_() for x in case.inputs if x.is_floating_point()]
    module = case.subject.double() if isinstance(case.subject, nn.Module) else None
    names = [] if module is None else [n for n, _ in module.named_parameters()]
    parameters = [] if module is None else [p.detach().clone().requires_grad_() for p in module.parameters()]

    def function(*values):
        rest = iter(values)
        inputs = [next(rest) if x.is_floating_point() else x for x in case.inputs]
        if module is None:
            outputs = case.subject(*inputs, **case.kwargs)
        else:
            outputs = torch.func.functional_call(module, dict(zip(names, rest, strict=True)), tuple(inputs))
        if case.loss is None:
            return outputs
        return case.loss(outputs) if case.target is None else case.loss(outputs, case.target)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            torch.autograd.gradcheck(function, [*leaves, *parameters])
        except Exception:  # whatever stops it has been found
            return True
    return False
