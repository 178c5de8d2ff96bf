"""What is checked: a function or module with its arguments in float64, as a value of the tensors it is made of."""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from framework.gradients.outputs import SEED, floating, sum_of, weights_of

Gradients = dict[str, Tensor | None]


@dataclass
class Cost:
    """How many passes were made, and the seconds that they took."""

    passes: int = 0
    seconds: float = 0.0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count one pass and its time."""
        started = time.perf_counter()
        yield
        self.passes += 1
        self.seconds += time.perf_counter() - started


@dataclass(eq=False)
class Problem:
    """A scalar of some tensors: those among the arguments that require a gradient, and the modules' parameters.

    Without a loss, the scalar is the sum of all floating outputs, each number weighed by a fixed random one.
    `stated` gives the values that a surrogate gradient is the derivative of. What is drawn is seeded before each
    evaluation, and buffers, such as running statistics, are as they were after it.
    """

    name: str
    subject: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    loss: Callable[..., Tensor] | None = None
    target: Any = None
    penalties: Mapping[str, Callable[[nn.Module], Tensor]] = field(default_factory=dict)
    stated: Callable[..., Any] | None = None
    constant: frozenset[int] = frozenset()
    """Which floating outputs have no gradient, beside others that have one: masks, counts, figures to be logged."""
    values_need_grad: bool = False
    """Whether values are taken with a graph too, since those without one are not the same."""
    forward_cost: Cost = field(default_factory=Cost)
    backward_cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.inputs = {name: value for name, value in self._named_arguments() if _is_leaf(value)}
        self.parameters = {
            f"{prefix}{name}": parameter
            for prefix, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is differentiated by, by name."""
        return {**self.inputs, **self.parameters}

    @property
    def module(self) -> nn.Module | None:
        """The module that is checked, where it is one."""
        return self.modules.get("")

    def _named_arguments(self) -> Iterator[tuple[str, Any]]:
        names = _parameter_names(self.module.forward if self.module is not None else self.subject)
        for i, value in enumerate(self.args):
            yield from _flat(names[i] if i < len(names) else f"input {i}", value)
        for name, value in self.kwargs.items():
            yield from _flat(name, value)

    def call(self, subject: Callable[..., Any] | None = None) -> Any:
        """Return what the subject returns for the arguments."""
        torch.manual_seed(SEED)
        args, kwargs = self.args, self.kwargs
        if self.module is not None and torch.is_grad_enabled():
            # a module may write to its inputs, where they are another's outputs: to leaves it may not
            args, kwargs = apply_to_collection((args, dict(kwargs)), Tensor, Tensor.clone)
        with self._buffers_set_aside():
            return (self.subject if subject is None else subject)(*args, **kwargs)

    def leave_out_constants(self) -> None:
        """Find the outputs that are constant by intention: those without a gradient, where others have one."""
        found = floating(self.call())
        without = frozenset(i for i, output in enumerate(found) if not output.requires_grad)
        self.constant = without if len(without) < len(found) else frozenset()

    def draws(self) -> bool:
        """Tell whether a call draws random numbers."""
        states = []
        for work in (lambda: None, self.call):
            torch.manual_seed(SEED)
            work()
            on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
            states.append([torch.get_rng_state(), *on_cuda])
        return any(not torch.equal(a, b) for a, b in zip(*states, strict=True))

    def scalar(self, outputs: Any) -> Tensor:
        """Return the scalar that these outputs give."""
        if self.loss is None:
            pairs = enumerate(zip(floating(outputs), weights_of(outputs), strict=True))
            value = sum_of([o.double() * w for i, (o, w) in pairs if i not in self.constant])
        else:
            with self._buffers_set_aside():
                value = self.loss(outputs) if self.target is None else self.loss(outputs, self.target)
        for penalty in self.penalties.values():
            assert self.module is not None
            value = value + penalty(self.module)
        return value

    def value(self) -> float:
        """Return the scalar alone."""
        with self.forward_cost.counting(), torch.set_grad_enabled(self.values_need_grad):
            return float(self.scalar(self.call(self.stated)).detach())

    def gradients(self, names: Sequence[str] | None = None) -> Gradients:
        """Return the gradient by each tensor, None where none arrives."""
        with self.backward_cost.counting(), torch.enable_grad():
            return self.pull(self.scalar(self.call()), names=names)

    def pull(
        self,
        outputs: Tensor | Sequence[Tensor],
        cotangents: Sequence[Tensor | None] | None = None,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Gradients:
        """Return the gradients that backward gives for these outputs."""
        chosen = self.tensors if names is None else {n: self.tensors[n] for n in names}
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if not any(o.requires_grad for o in outputs):
            return dict.fromkeys(chosen)
        found = torch.autograd.grad(outputs, list(chosen.values()), cotangents, allow_unused=True, **options)
        if not options.get("create_graph"):
            found = tuple(None if g is None else g.detach() for g in found)
        return dict(zip(chosen, found, strict=True))

    @contextlib.contextmanager
    def moved(self, directions: Mapping[str, Tensor]) -> Iterator[Callable[[float], float]]:
        """Yield the value at a distance along directions of some of the tensors, which return to where they were."""
        tensors = self.tensors
        before = {name: tensors[name].detach().clone() for name in directions}

        def value_at(distance: float) -> float:
            with torch.no_grad():
                for name, direction in directions.items():
                    tensors[name].copy_(before[name].add(direction, alpha=distance))
            return self.value()

        try:
            yield value_at
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    tensors[name].copy_(value)

    def remade(self, change: Callable[[Tensor], Tensor], everything: bool = True, **fields: Any) -> Problem:
        """Return the problem with each of its inputs changed, or only those differentiated by, and fields as given."""

        def exchanged(value: Tensor) -> Tensor:
            if not everything and not value.requires_grad:
                return value
            return change(value.detach()).requires_grad_(value.requires_grad)

        args, kwargs = apply_to_collection((self.args, dict(self.kwargs)), Tensor, exchanged)
        return replace(self, **{"args": args, "kwargs": kwargs, **fields})

    def in_float32(self) -> Problem:
        """Return a copy of the problem in float32."""

        def narrowed(part: Any) -> Any:
            return copy.deepcopy(part).float() if isinstance(part, nn.Module) else part

        def change(value: Tensor) -> Tensor:
            return value.float() if value.dtype == torch.float64 else value

        subject, loss = narrowed(self.subject), narrowed(self.loss)
        modules = {name: part for name, part in (("", subject), ("loss.", loss)) if isinstance(part, nn.Module)}
        target = apply_to_collection(self.target, Tensor, change)
        return self.remade(change, subject=subject, loss=loss, modules=modules, target=target)

    @contextlib.contextmanager
    def _buffers_set_aside(self) -> Iterator[None]:
        """Let a forward change copies of the buffers."""
        owners = [m for root in self.modules.values() for m in root.modules() if m._buffers]
        kept = [(m, dict(m._buffers)) for m in owners]
        for module, buffers in kept:
            module._buffers.update({k: None if b is None else b.clone() for k, b in buffers.items()})
        try:
            yield
        finally:
            for module, buffers in kept:
                module._buffers.update(buffers)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the members of nested arguments under names of their own."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _flat(f"{name}.{key}", member)
    elif isinstance(value, tuple | list):
        for i, member in enumerate(value):
            yield from _flat(f"{name}.{i}", member)
    else:
        yield name, value


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        new_style = owner.setup_context is not torch.autograd.Function.setup_context
        return _parameter_names(owner.forward)[0 if new_style else 1 :]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
