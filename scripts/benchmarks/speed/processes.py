"""A process for each contestant, so that what one sets for its process, such as the allocator, helps no other."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from benchmarks.speed.contestants import Block, Clock, Contestant
from benchmarks.speed.works import Work

Make = Callable[[str], tuple[Work, Contestant]]
"""From a contestant's name to its work and itself."""


class Processes:
    """Runs blocks of contestants, each in a process of its own that stays for its next block; one runs at a time."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.connections: dict[str, Connection] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def block(self, contestant: str) -> Block:
        """Run a contestant's next block; raise RuntimeError with what it raised."""
        if contestant not in self.connections:
            self.connections[contestant] = self._begin(contestant)
        connection = self.connections[contestant]
        connection.send(True)
        found = connection.recv()
        if isinstance(found, Block):
            return found
        raise RuntimeError(f"{contestant}: {found}")

    def _begin(self, contestant: str) -> Connection:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(self.make, contestant, torch.get_num_threads(), there))
        process.start()
        there.close()
        self.stack.callback(process.join)
        self.stack.callback(here.close)
        return here


def _work(make: Make, contestant: str, threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    made: tuple[Work, Contestant] | None = None
    found: Any
    try:
        while connection.recv():
            gc.collect()
            try:
                work, run = made = made or make(contestant)
                found = run(work, Clock(work))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            connection.send(found)
    except EOFError:
        pass
