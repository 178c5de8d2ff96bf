"""What a hand-written function states of itself, so that anybody can check it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

import torch
from torch import Generator, Tensor

Nature = Literal["exact", "surrogate", "lossy"]
"""A gradient is the derivative, stands in for one by declaration, or is one in less precision than its inputs have."""

F = TypeVar("F", bound=Callable[..., Any])
Tensors = TypeVarTuple("Tensors")
"""Tensors, or None in the place of some."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call; the tensors that require a gradient are the ones to differentiate by."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HandWritten:
    """A function with a backward pass of its own, and what is needed to hold it to its word.

    `reference` is the same mathematics, with the same signature, in torch's own operations. `examples` are calls in
    float64, by name, from seeded draws: they are what every check runs over. `large` is a call in float32 whose terms
    per row are negligible, with a number of elements: the backward keeps `saved_bytes` per element of them, weights
    (`nn.Parameter`) not counted. A surrogate's `surrogate`, with the signature of the function, is what its gradient
    is the derivative of.
    """

    name: str
    call: Callable[..., Any]
    reference: Callable[..., Any]
    examples: Callable[[Generator], Mapping[str, Call]]
    large: Callable[[Generator], tuple[Call, int]]
    saved_bytes: float
    nature: Nature = "exact"
    surrogate: Callable[..., Any] | None = None
    twice: bool = True
    """Whether it can be differentiated twice."""


FUNCTIONS: dict[str, HandWritten] = {}
"""Every hand-written function by its public name."""


def hand_written(
    *,
    reference: Callable[..., Any],
    examples: Callable[[Generator], Mapping[str, Call]],
    large: Callable[[Generator], tuple[Call, int]],
    saved_bytes: float,
    nature: Nature = "exact",
    surrogate: Callable[..., Any] | None = None,
    twice: bool = True,
) -> Callable[[F], F]:
    """Return a decorator that files a public function in FUNCTIONS under its name; see HandWritten."""

    def file(call: F) -> F:
        name = call.__name__
        FUNCTIONS[name] = HandWritten(name, call, reference, examples, large, saved_bytes, nature, surrogate, twice)
        return call

    return file


class Function(torch.autograd.Function):
    """A forward and its backward, side by side.

    forward(...) takes no context; setup_context saves by `save_for_backward` alone; backward(ctx, *gradients)
    respects `ctx.needs_input_grad` and writes to nothing that it was given.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls) -> None:
        # torch binds the arguments of every call to forward's signature: built once, it costs 10 µs less each time
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]  # a function's own

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *arguments: Any) -> Any:
            """Return the outputs, for autograd to call `backward` on."""


def pull_back(
    formula: Callable[..., Any],
    inputs: Sequence[Any],
    needed: Sequence[bool],
    cotangents: Tensor | tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `formula(*inputs)` by those inputs that are needed, None for the others.

    They can be differentiated again: it is what a fused backward does where grad mode is on, that is under
    create_graph=True and inside torch.func.
    """
    chosen = [i for i, (value, need) in enumerate(zip(inputs, needed, strict=True)) if need and value is not None]

    def of_chosen(*values: Tensor) -> Any:
        arguments = list(inputs)
        for i, value in zip(chosen, values, strict=True):
            arguments[i] = value
        return formula(*arguments)

    pull = torch.func.vjp(of_chosen, *(inputs[i] for i in chosen))[1]
    found = dict(zip(chosen, pull(cotangents), strict=True))
    return tuple(found.get(i) for i in range(len(inputs)))


def to_autocast_dtype(*tensors: *Tensors) -> tuple[*Tensors]:
    """Return floating tensors in the type that autocast wants matrix products in, where autocast is on.

    A hand-written backward sees the types that its forward was given, which autocast would change inside.
    """
    device = _device_of(tensors)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return _each(lambda t: t.to(dtype) if t.is_floating_point() else t, tensors)


def to_float32_in_autocast(*tensors: *Tensors) -> tuple[*Tensors]:
    """Return floating tensors in at least float32 where autocast is on, as torch does for losses and norms."""
    if not torch.is_autocast_enabled(_device_of(tensors)):
        return tensors
    return _each(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, tensors)


def _device_of(tensors: tuple[*Tensors]) -> str:
    device: str = next(t.device.type for t in tensors if isinstance(t, Tensor))
    return device


def _each(change: Callable[[Tensor], Tensor], tensors: tuple[*Tensors]) -> tuple[*Tensors]:
    """Return the tensors changed; what is None stays None."""
    return tuple(change(t) if isinstance(t, Tensor) else t for t in tensors)  # type: ignore[return-value]  # one each
