"""Predictions and targets of the usual kinds, small and seeded: what the kit feeds to losses and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Generator, Tensor

from framework.testing.conformance import CheckError, Subject

ROWS = 12
CLASSES = 4

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Example:
    """One kind of (prediction, target), the first dimension of each the rows."""

    name: str
    make: Callable[[Generator], Pair]
    saturated: Callable[[Tensor], list[Tensor]]
    """The same prediction, as extreme as its kind allows."""

    def pair(self, seed: int = 0) -> Pair:
        """Return prediction and target."""
        prediction, target = self.make(Generator().manual_seed(seed))
        return prediction, target


def _logits(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: 2 * torch.randn(*shape, generator=generator)


def _indices(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.randint(CLASSES, shape, generator=generator)


def _pair(
    prediction: Callable[[Generator], Tensor], target: Callable[[Generator], Tensor]
) -> Callable[[Generator], Pair]:
    return lambda generator: (prediction(generator), target(generator))


def _extreme_logits(prediction: Tensor) -> list[Tensor]:
    return [1e4 * prediction.sign(), -1e4 * prediction.sign(), torch.zeros_like(prediction)]


def _extreme_probabilities(prediction: Tensor) -> list[Tensor]:
    sharp = (prediction > 0.5).to(prediction)
    return [sharp, 1 - sharp, torch.full_like(prediction, 0.5)]


def _extreme_log_probabilities(prediction: Tensor) -> list[Tensor]:
    return [(1e4 * side * prediction).log_softmax(-1) for side in (1, -1)]


def _as_they_are(prediction: Any) -> list[Any]:
    return [prediction]


def _log(make: Callable[[Generator], Tensor]) -> Callable[[Generator], Tensor]:
    return lambda generator: make(generator).log_softmax(-1)


def _share(make: Callable[[Generator], Tensor]) -> Callable[[Generator], Tensor]:
    return lambda generator: make(generator).softmax(-1)


def _probabilities(generator: Generator) -> Tensor:
    return 0.05 + 0.9 * torch.rand(ROWS, 1, generator=generator)


def _coin(generator: Generator) -> Tensor:
    return torch.randint(2, (ROWS, 1), generator=generator).float()


_SCORES, _CLASSES = _logits(ROWS, CLASSES), _indices(ROWS)
STANDARD = (
    Example("log-probabilities and class indices", _pair(_log(_SCORES), _CLASSES), _extreme_log_probabilities),
    Example("logits and class indices", _pair(_SCORES, _CLASSES), _extreme_logits),
    Example("token logits and tokens", _pair(_logits(ROWS, 3, CLASSES), _indices(ROWS, 3)), _extreme_logits),
    Example("probabilities and 0 or 1", _pair(_probabilities, _coin), _extreme_probabilities),
    Example("logits and 0 or 1", _pair(_logits(ROWS, 1), _coin), _extreme_logits),
    Example("log-probabilities and distributions", _pair(_log(_SCORES), _share(_SCORES)), _extreme_log_probabilities),
    Example("values", _pair(_logits(ROWS, 2), _logits(ROWS, 2)), _extreme_logits),
)
"""From the narrowest kind to the widest, since what takes logits takes log-probabilities too."""


def examples_of(subject: Subject) -> Iterator[tuple[Example, Any]]:
    """Yield the examples that a loss takes, each with the loss made anew; its own where it has `examples`.

    Raises CheckError where it takes none.
    """
    own = getattr(subject.factory, "examples", None)
    if own is not None:
        yield Example("its own examples", own, _as_they_are), subject.build()
        return
    reasons = []
    for example in STANDARD:
        loss = subject.build()
        try:
            value = loss(*example.pair())
        except Exception as error:
            reasons.append(
                f"{example.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            continue
        if isinstance(value, Tensor) and torch.isfinite(value).all():
            yield example, loss
    if len(reasons) == len(STANDARD):
        raise CheckError(
            f"it takes none of the standard examples ({reasons[0]}): give it a static method examples(generator) that "
            f"returns (prediction, target)"
        )


def floats(thing: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return any nesting with its floating-point tensors converted."""
    return apply_to_collection(thing, Tensor, lambda t: convert(t) if t.is_floating_point() else t)


def rows(thing: Any, index: Tensor) -> Any:
    """Return these rows of every tensor of a nesting."""
    return apply_to_collection(thing, Tensor, lambda t: t[index])


def leaves(thing: Any) -> list[Tensor]:
    """Return the floating-point tensors of a nesting."""
    found: list[Tensor] = []
    apply_to_collection(thing, Tensor, lambda t: found.append(t) if t.is_floating_point() else None)
    return found
