"""Batches on their way to a device while the one before is worked on. Its CUDA part has not been run on CUDA yet."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from framework.batching.batches import Window
from framework.batching.sets import Batch

T = TypeVar("T")

Copy = tuple[Batch, Batch, Any]
"""A batch as it was given, its copy, and the event at which the copy is there, where it is on a stream of its own."""


class Prefetch:
    """Copies the batches of one iteration to a device, the next of them while one is worked on.

    A batch's copy is begun when the one before it is taken, on `stream` where there is one; the stream of whoever takes
    a batch waits for its copy, and no other. One that was not next, such as one taken again, is copied when it is
    taken. From pinned memory a copy is asynchronous.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self.device = device
        self.stream = stream
        self.expected: deque[Batch] = deque()
        """The batches known to be taken next, in order."""
        self.begun: Copy | None = None

    def windows(self, windows: Iterator[Window], *, ahead: bool) -> Iterator[Window]:
        """Yield windows whose parts are loaded so; `ahead` says to have the next window before one is worked on.

        What getting a window raises is raised when its turn comes.
        """

        def expect(window: Window) -> None:
            window.load = self.take
            self.expected.extend(window.parts)

        return one_ahead(windows, expect) if ahead else _seen(windows, expect)

    def batches(self, batches: Iterator[Batch], *, ahead: bool) -> Iterator[Batch]:
        """Yield batches on the device; `ahead` says to have the next before one is worked on."""
        seen = one_ahead(batches, self.expected.append) if ahead else batches
        return map(self.take, seen)

    def take(self, batch: Batch) -> Batch:
        """Return a batch on the device, ready for the current stream, and begin with the next."""
        begun, self.begun = self.begun, None
        taken = begun if begun is not None and begun[0] is batch else self._begin(batch)
        if any(one is batch for one in self.expected):
            while self.expected.popleft() is not batch:  # of a step that was left out
                pass
        following = self.expected[0] if self.expected else None
        if begun is not None and begun[0] is following:
            self.begun = begun
        elif self.expected:
            self.begun = self._begin(following)
        return self._ready(*taken[1:])

    def _begin(self, batch: Batch) -> Copy:
        if self.stream is None:
            return batch, self._copy(batch), None
        with torch.cuda.stream(self.stream):
            return batch, self._copy(batch), self.stream.record_event()

    def _copy(self, batch: Batch) -> Batch:
        return apply_to_collection(batch, Tensor, lambda t: t.to(self.device, non_blocking=True))

    def _ready(self, copy: Batch, there: Any) -> Batch:
        """Have the current stream wait for a copy; its memory is not given to another before that stream is done."""
        if there is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(there)
            apply_to_collection(copy, Tensor, lambda t: t.record_stream(current))
        return copy


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for copies to a CUDA device: always the same, since memory is kept by stream."""
    return torch.cuda.Stream(device)


def one_ahead(items: Iterator[T], see: Callable[[T], None]) -> Iterator[T]:
    """Yield items, each when the next one has been had and shown to `see`; an error is raised in its item's turn."""
    behind: list[T] = []
    failure: Exception | None = None
    while failure is None:
        try:
            item = next(items)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        see(item)
        behind.append(item)
        if len(behind) == 2:
            yield behind.pop(0)
    yield from behind
    if failure is not None:
        raise failure


def _seen(items: Iterator[T], see: Callable[[T], None]) -> Iterator[T]:
    for item in items:
        see(item)
        yield item
