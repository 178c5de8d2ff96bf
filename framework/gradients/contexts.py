"""Hostile contexts: what surrounds a function in real training, and must not change its gradients."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from framework.gradients.numerical import Tolerance
from framework.gradients.outputs import differentiable, floating, weights_of
from framework.gradients.problem import Gradients, Problem
from framework.gradients.report import Context

SAME = 1e-9
"""The relative difference up to which two backward passes in float64 agree, whatever the order of their sums."""


class Skipped(Exception):  # noqa: N818  # no error: there is nothing to check
    """Says why a context does not apply."""


@dataclass
class Setting:
    """What a context is given: the problem, the gradients of its scalar that values have proven, and what counts."""

    problem: Problem
    plain: Gradients
    tolerance: Tolerance
    twice: bool = True
    surrogates: Collection[str] = ()
    """Functions inside whose gradients are declared to be no derivatives."""
    refuted: bool = False
    """Whether values have shown already that some gradient is wrong."""

    @property
    def cotangents(self) -> list[Tensor]:
        """Random numbers of the shapes of the outputs that can be differentiated, in memory of their own."""
        return [c.clone() for c in self._cotangents]

    @cached_property
    def _cotangents(self) -> list[Tensor]:
        outputs = self.problem.call()
        pairs = zip(floating(outputs), weights_of(outputs), strict=True)
        found = [w.to(o.dtype) for o, w in pairs if o.requires_grad]
        if not found:
            raise Skipped("no output can be differentiated")
        return found

    @cached_property
    def at_outputs(self) -> Gradients:
        """The gradients for these cotangents."""
        return self.pulled(list(self.cotangents))

    def pulled(self, cotangents: list[Tensor | None]) -> Gradients:
        """Return the gradients of one forward and backward for other cotangents."""
        return self.problem.pull(differentiable(self.problem.call()), cotangents)

    @property
    def is_surrogate(self) -> bool:
        """Whether values of the subject do not have these gradients."""
        return self.problem.stated is not None or bool(self.surrogates)

    def need_values(self) -> None:
        """Raise Skipped where there is no point in comparing with values."""
        if self.surrogates:
            raise Skipped("a surrogate")
        if self.refuted:
            raise Skipped("the table says that it is wrong")


Check = Callable[[Setting], str]
CONTEXTS: dict[str, tuple[Check, str, bool]] = {}
"""Every context by name: its check, which returns what differs; how to mend; whether it may be refused."""


def context(name: str, mend: str, *, may_refuse: bool = False) -> Callable[[Check], Check]:
    """Return a decorator that files a context."""

    def file(check: Check) -> Check:
        CONTEXTS[name] = check, mend, may_refuse
        return check

    return file


def run_contexts(setting: Setting, names: Collection[str] | None) -> list[Context]:
    """Run the contexts of these names, or all; raises ValueError for a name that there is not."""
    unknown = [name for name in names or () if name not in CONTEXTS]
    if unknown:
        raise ValueError(f"there is no context {unknown[0]!r}: choose among {', '.join(CONTEXTS)}.")
    with contextlib.suppress(Exception):  # what the contexts compare with, before any of them is under way
        _ = setting.at_outputs
    return [_run(setting, name) for name in CONTEXTS if names is None or name in names]


def _run(setting: Setting, name: str) -> Context:
    check, mend, may_refuse = CONTEXTS[name]
    before = {name: tensor.detach().clone() for name, tensor in setting.problem.tensors.items()}
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            what = check(setting)
    except Skipped as reason:
        return Context(name, "skipped", str(reason))
    except Exception as error:  # whatever the user's code raises
        first = next(iter(str(error).strip().splitlines()), "")[:150]
        said = f"{type(error).__name__}: {first}"
        return Context(name, "refused", said) if may_refuse else Context(name, "wrong", f"raises {said}", mend)
    finally:
        with torch.no_grad():
            for other, tensor in setting.problem.tensors.items():
                tensor.copy_(before[other])
    return Context(name, "wrong", what, mend) if what else Context(name, "ok")


def differ(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None], relative: float = SAME) -> str:
    """Return which gradient differs most, and by how much, or nothing; none and zero are the same."""
    largest = max((float(g.norm()) for g in expected.values() if g is not None), default=0.0)
    worst, text = 0.0, ""
    for name, due in expected.items():
        got = found[name]
        if got is None and due is None:
            continue
        due = torch.zeros_like(got) if due is None else due  # type: ignore[arg-type]  # one of the two is there
        got = torch.zeros_like(due) if got is None else got
        scale = float(due.norm()) + 1e-4 * largest
        error = float((got - due).norm()) / scale if scale else float(got.norm())
        if not error <= relative and not error <= worst:
            worst, text = error, f"the gradient by {name} is {error:.1e} off (relative)"
    return text


def scaled(gradients: Gradients, factor: float) -> Gradients:
    """Return gradients times a factor."""
    return {name: None if g is None else factor * g for name, g in gradients.items()}


def copies(gradients: Gradients) -> Gradients:
    """Return gradients that nothing else writes to."""
    return {name: None if g is None else g.clone() for name, g in gradients.items()}


def gapped(tensor: Tensor) -> Tensor:
    """Return the same numbers with NaN (or −1) between each two in memory."""
    between = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else -1)
    return torch.stack((tensor, between), -1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    """Return the same numbers in memory order reversed dimension by dimension."""
    dims = list(range(tensor.ndim))[::-1]
    return tensor.permute(dims).contiguous().permute(dims)


def rolled(tensor: Tensor) -> Tensor:
    """Return the same numbers at other places: other arguments from the same range."""
    if tensor.is_floating_point():
        return tensor.flatten().roll(1).view(tensor.shape)
    return tensor.roll(1, 0) if tensor.ndim else tensor
