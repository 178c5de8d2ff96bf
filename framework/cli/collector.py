"""Python's collector of garbage, put off while a command starts."""

from __future__ import annotations

import gc


def put_off() -> None:
    """Collect nothing until `take_up`: importing makes no garbage, and a look at all that it makes takes 0.1 s."""
    gc.disable()


def take_up() -> None:
    """Collect again, but never look at what there is by now: it stays as long as the process."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
