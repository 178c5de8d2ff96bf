"""How often checkpoints are taken, and how many stay."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from framework import registry
from framework.registry import Count, Positive


@dataclass(frozen=True)
class CheckpointOptions:
    """When a run saves besides its evaluations, and what it keeps.

    `every_n_steps` counts optimizer steps, `every_minutes` goes by a clock that nobody sets back. The newest
    `keep_last` checkpoints stay, and of those that an evaluation scored the best `keep_best`. `in_background` writes
    while training goes on.
    """

    _: KW_ONLY
    every_n_steps: Count | None = None
    every_minutes: Positive | None = None
    keep_last: Count = 1
    keep_best: Count = 1
    in_background: bool = True

    def __post_init__(self) -> None:
        options = registry.read_signature("framework.checkpoint.options:CheckpointOptions").options
        given = {option.name: getattr(self, option.name) for option in options}
        for name, value in registry.check_options(options, given, "checkpoint").items():
            object.__setattr__(self, name, value)
