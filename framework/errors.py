"""What a user can get wrong, and how a command ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ConfigError(ValueError):
    """A mistake in a command, a configuration or a file: the rule, the value received, and the fix."""


class DataError(RuntimeError):
    """An example that cannot be had: which one, and why."""


class Exit(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    FAILED = 1
    MISTAKE = 2
    PREEMPTED = 75
    INTERRUPTED = 130


def is_mistake(error: BaseException) -> bool:
    """Tell whether an error is a user's mistake: a ConfigError, or this package's own ValueError or TypeError."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    ours = module.startswith("framework.") and not module.startswith("framework.plugins.files.")
    return isinstance(error, ConfigError) or (ours and isinstance(error, ValueError | TypeError))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the hint that ends a message about an unknown name: the nearest one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.55)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(names) or 'none exist'}."
