"""Ctrl-C, SIGTERM and SIGUSR1 as flags, so that a run ends at a step's boundary with everything saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

CAUGHT = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminate"}
"""The signals that end a run in good order, and the reason each one gives."""
if hasattr(signal, "SIGUSR1"):
    CAUGHT[signal.SIGUSR1] = "terminate"  # Slurm's warning before a time limit, sbatch --signal=USR1@60


class Signals:
    """What was received: `reason` is empty until the first signal. A second Ctrl-C leaves at once.

    Under torch's elastic agent a rank receives one signal from the terminal and one from the agent, so there
    a second one means nothing.
    """

    def __init__(self) -> None:
        self.reason = ""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; installed as its handler."""
        if self.reason and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.reason = self.reason or CAUGHT[signal.Signals(number)]

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C raise KeyboardInterrupt inside, for work that has nothing to save yet."""
        if signal.getsignal(signal.SIGINT) != self.receive:
            yield
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self.receive)


_current: Signals | None = None


@contextlib.contextmanager
def listen() -> Iterator[Signals]:
    """Catch signals inside; the handlers of before return afterwards. Nested calls share one `Signals`.

    Outside the main thread, where Python delivers no signals, nothing is installed.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Signals()
        return
    _current = Signals()
    before = {number: signal.signal(number, _current.receive) for number in CAUGHT}
    try:
        yield _current
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)
