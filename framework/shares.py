"""What a run's time went to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from framework.batching import Window


class Shares:
    """Adds up a run's seconds by what they went to: data, step, evaluation, and the rest, which is overhead.

    `data` is the wait for windows, `step` each optimizer step with its listeners, `evaluation` the scoring of sets;
    overhead is logging, saving, and all between. Seconds are the host's: on a device, where a step is only queued, the
    wait for it is in whatever reads from it next, such as the log point.
    """

    def __init__(self) -> None:
        self.data = self.step = self.evaluation = 0.0
        self.started = perf_counter()
        self.taken = self.started
        """When the running step began."""
        self.marked = (self.started, 0.0, 0.0, 0.0)
        """The clock and the sums when the last interval ended."""

    def windows(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Yield the windows, each wait for one counted."""
        iterator = iter(windows)
        while True:
            began = perf_counter()
            window = next(iterator, None)
            self.taken = perf_counter()
            self.data += self.taken - began
            if window is None:
                return
            yield window

    def end_step(self) -> None:
        """Count the step on the window that was yielded last."""
        self.step += perf_counter() - self.taken

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what is done inside as evaluation."""
        began = perf_counter()
        try:
            yield
        finally:
            self.evaluation += perf_counter() - began

    def since_mark(self) -> dict[str, float]:
        """Return the shares of the time since the last call, by name; they add up to 1."""
        before, self.marked = self.marked, (perf_counter(), self.data, self.step, self.evaluation)
        return _shares(*(now - then for now, then in zip(self.marked, before, strict=True)))

    def in_all(self) -> dict[str, float]:
        """Return the shares of all the time, by name; they add up to 1."""
        return _shares(perf_counter() - self.started, self.data, self.step, self.evaluation)


def _shares(seconds: float, data: float, step: float, evaluation: float) -> dict[str, float]:
    counted = {"data": data, "step": step, "evaluation": evaluation}
    counted["overhead"] = max(0.0, seconds - data - step - evaluation)
    whole = sum(counted.values()) or 1.0
    return {name: value / whole for name, value in counted.items()}
