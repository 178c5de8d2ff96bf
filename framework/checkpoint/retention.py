"""Which checkpoints stay, as a pure function of what their manifests say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from framework.checkpoint.options import CheckpointOptions

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Entry:
    """A checkpoint: its step, its score where an evaluation gave one, and whether it was the best when it was saved."""

    step: int
    score: float | None = None
    best: bool = False


def last(entries: Collection[Entry]) -> int:
    """Return the step that `last` points at."""
    return max(entry.step for entry in entries)


def best(entries: Collection[Entry], mode: Mode) -> int:
    """Return the step that `best` points at: the latest that was the best; else the best score; else the last."""
    were = [entry.step for entry in entries if entry.best]
    return max(were) if were else next(iter(_ranked(entries, mode)), last(entries))


def kept(entries: Collection[Entry], options: CheckpointOptions, mode: Mode) -> set[int]:
    """Return the steps to keep: the last, the best by score, and what `last` and `best` point at."""
    if not entries:
        return set()
    newest = sorted(entry.step for entry in entries)[-options.keep_last :]
    return {*newest, *_ranked(entries, mode)[: options.keep_best], last(entries), best(entries, mode)}


def _ranked(entries: Collection[Entry], mode: Mode) -> list[int]:
    """Return the steps that have a score, the best first, of equals the earlier."""
    sign = 1 if mode == "min" else -1
    return [step for _, step in sorted((sign * e.score, e.step) for e in entries if e.score is not None)]
