"""No schedule."""

from __future__ import annotations

from dataclasses import dataclass

from framework.registry import scheduler


@scheduler("constant")
@dataclass(frozen=True)
class Constant:
    """The base learning rate throughout: 1."""

    def __call__(self, step: int) -> float:
        """Return 1."""
        return 1.0
