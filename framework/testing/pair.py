"""Two ranks that stay: processes joined by gloo, started once, for as many checks as need them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from framework import distributed
from framework.testing.conformance import CheckError

PATIENCE = 60
"""Seconds that a piece of work may take, the start of both processes with it."""


class Pair:
    """Two processes of this machine, each of which runs whatever `run` is given."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        with distributed.meeting():
            for rank in range(2):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(rank, theirs), daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(ours)
                self.processes.append(process)
            self._answers()
        atexit.register(self.close)

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what `work(*arguments)` returns on each rank; it is importable, and all of it can be pickled.

        Raises CheckError where it fails on one, or never ends.
        """
        for pipe in self.pipes:
            pipe.send((work, arguments))
        return self._answers()

    def close(self) -> None:
        """End both processes."""
        for process in self.processes:
            process.kill()
            process.join()

    def _answers(self) -> list[Any]:
        answers: dict[Any, Any] = {}
        while len(answers) < len(self.pipes):
            ready = wait([pipe for pipe in self.pipes if pipe not in answers], PATIENCE)
            if not ready:
                self._give_up(f"two ranks did not end within {PATIENCE} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    failure, answers[pipe] = pipe.recv()
                except EOFError:
                    failure = "its process died"
                if failure:
                    self._give_up(f"on rank {self.pipes.index(pipe)} of two: {failure}")
        return [answers[pipe] for pipe in self.pipes]

    def _give_up(self, reason: str) -> None:
        """End both, since the other may wait for the one that failed."""
        self.close()
        pair.cache_clear()
        raise CheckError(reason)


@functools.cache
def pair() -> Pair:
    """Return the two ranks, started at the first call."""
    return Pair()


def _serve(rank: int, pipe: Connection) -> None:
    """Do what arrives, until nobody sends any more."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # as long as the process
    torch.set_num_threads(1)
    distributed.join(torch.device("cpu"))
    pipe.send(("", None))
    with contextlib.suppress(EOFError):
        while True:
            work, arguments = pipe.recv()
            try:
                pipe.send(("", work(*arguments)))
            except BaseException as failure:
                pipe.send((f"{type(failure).__name__}: {failure}", None))
