"""Examples that cannot be had, and loaders whose workers die."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from framework.errors import DataError

Lost = tuple[int, str]
"""An example's index and why it cannot be had."""


Task = tuple[int, list[int]]
"""The epoch of a batch, and the indices of its examples."""


class GuardedDataset(Dataset[Any]):
    """A dataset that reads a task's examples, and says which of them raise. Every other attribute is the dataset's."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the dataset."""
        if name.startswith("__") or "dataset" not in vars(self):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitems__(self, task: Task) -> tuple[Any, list[Lost]]:
        """Return the examples of a batch; where the dataset fetches them together and fails, one by one."""
        _, indices = task
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is not None:
            with contextlib.suppress(Exception):  # the example that raised is found below
                return fetch(indices), []
        dataset, examples, lost = self.dataset, [], []
        for index in indices:
            try:
                examples.append(dataset[index])
            except Exception as error:
                lost.append((index, cause_of(error)))
        return examples, lost


class GuardedCollate:
    """Collates the examples that are there, and passes on the list of those that are not."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, read: tuple[Any, list[Lost]]) -> tuple[Any, list[Lost]]:
        """Return the batch, None without any example, and what was lost."""
        examples, lost = read
        return None if lost and not examples else self.collate(examples), lost


def load(
    make: Callable[[list[list[int]], bool], DataLoader[Any]], batches: list[list[int]], ahead: int
) -> Iterator[Any]:
    """Yield what a loader made for these batches does; after the death of a worker one made for the rest goes on.

    A worker may have died at any of the `ahead` batches that are read ahead. So these are read by a careful loader, one
    at a time, and a second death there has a place: it raises DataError.
    """
    taken, died_at, careful_until = 0, -1, 0
    while taken < len(batches):
        careful = taken < careful_until
        try:
            for item in in_the_loop(make(batches[taken : careful_until if careful else None], careful)):
                taken += 1
                yield item
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not is_death(error):
                raise
            if careful and died_at == taken:
                raise DataError(dead(f"twice at the examples {_short(batches[taken])}", error)) from error
            died_at, careful_until = taken, taken + ahead + 1


def in_the_loop(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return a loader's iterator, whose dead workers show there, and not by a signal in the midst of a step."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return iterator


def is_death(error: BaseException) -> bool:
    """Tell whether an error says that a worker of a DataLoader is gone."""
    return isinstance(error, ConnectionError | EOFError) or str(error).startswith("DataLoader worker")


def dead(where: str, error: BaseException) -> str:
    """Return the message about a worker that died."""
    return (
        f"a worker of the DataLoader died {where} ({cause_of(error)}): it may have run out of memory; try fewer "
        f"workers, or num_workers=0, where the error itself shows."
    )


def cause_of(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _short(indices: list[int]) -> str:
    return str(indices) if len(indices) <= 8 else f"{indices[:8]} and {len(indices) - 8} more"
