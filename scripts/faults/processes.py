"""Faults that a process of its own suffers: SIGKILL at any instant, signals, a disk that is full."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import training
from faults.calls import AtCall, watched
from faults.inside import Ground

CODES = {"finished": 0, "stopped_early": 0, "preempted": 75, "interrupted": 130}
"""The exit codes of the command, by status."""


def start(ground: Ground, call: int = 0) -> int:
    """Train in a child process, killed at the n-th call that changes the folder if there is one; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _silence()
        layer = AtCall(call, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with watched(layer, ground.directory) if call else contextlib.nullcontext():
            code = CODES[training.train(ground.directory, ground.seed).status]
    finally:
        os._exit(code)


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def end(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(ground: Ground, seconds: float) -> None:
    """SIGKILL at a random instant of the run."""
    child = start(ground)
    time.sleep(ground.draws.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    assert end(child) in (-signal.SIGKILL, 0)


def killed_at_call(ground: Ground, seconds: float) -> None:
    """SIGKILL before a call of a save."""
    assert end(start(ground, ground.draws.randint(1, 300))) in (-signal.SIGKILL, 0)


def _signalled(number: int, code: int) -> Callable[[Ground, float], None]:
    def strike(ground: Ground, seconds: float) -> None:
        child = start(ground)
        while not list(ground.directory.glob("events.*")):  # from there on it listens
            time.sleep(0.001)
        time.sleep(ground.draws.uniform(0, seconds / 2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        found = end(child)
        assert found in (code, 0, -number), f"exit code {found}, not {code}"
        if found == -number:  # it had ended, and no longer listened
            assert (ground.directory / "result.json").exists()

    return strike


@contextlib.contextmanager
def small_disk(place: Path, kibibytes: int) -> Iterator[Path]:
    """Mount a file system of this size; needs root. Raises OSError where that is not allowed."""
    place.mkdir()
    size = f"size={kibibytes}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], capture_output=True)
    if mounted.returncode:
        place.rmdir()
        raise OSError(mounted.stderr.decode().strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def disk_full(ground: Ground, seconds: float) -> None:
    """Train on a disk that fills up after a few checkpoints, make room, and let the run of before move on."""
    elsewhere = ground.directory.with_name(f"{ground.directory.name}-disk")
    with small_disk(elsewhere, ground.draws.randrange(60, 200, 4)) as disk:
        there = Ground(disk / "run", ground.seed, ground.draws)
        end(start(there))
        if there.directory.exists():
            ground.directory.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", there.directory, ground.directory], check=True)
        if training.order_file(there.directory).exists():
            taken = training.order_file(there.directory).read_text()
            whole = taken[: taken.rfind("\n") + 1]
            training.order_file(ground.directory).write_text(whole)


FAULTS: dict[str, Callable[[Ground, float], None]] = {
    "process: SIGKILL at any instant": killed,
    "process: SIGKILL between two calls": killed_at_call,
    "process: SIGTERM": _signalled(signal.SIGTERM, 75),
    "process: SIGUSR1": _signalled(signal.SIGUSR1, 75),
    "process: Ctrl-C": _signalled(signal.SIGINT, 130),
    "process: disk full": disk_full,
}
"""By name. The number is the seconds that a whole run takes."""
