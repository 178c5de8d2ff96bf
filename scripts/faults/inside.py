"""Faults inside this process: the end of a process is an exception that nothing catches, after which no call works."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import training
from faults.calls import AtCall, KilledError, watched
from framework import Callback, Trainer
from framework.checkpoint import lock
from framework.errors import ConfigError
from framework.history import Result

NEVER = 10**9


class At(Callback):
    """Does something once, after a step or when an evaluation has been logged."""

    def __init__(self, step: int, action: Callable[[], None], hook: str = "on_step_end") -> None:
        self.step, self.action, self.hook = step, action, hook

    def _hear(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook and trainer.progress.step >= self.step:
            self.step = NEVER
            self.action()

    def on_step_end(self, trainer: Trainer) -> None:
        """Listen to steps."""
        self._hear("on_step_end", trainer)

    def on_evaluated(self, trainer: Trainer, scores: Any) -> None:
        """Listen to evaluations."""
        self._hear("on_evaluated", trainer)


class Ground:
    """Where one fault strikes: a folder, a seed, and draws of its own."""

    def __init__(self, directory: Path, seed: int, draws: random.Random) -> None:
        self.directory = directory
        self.seed = seed
        self.draws = draws

    def train(self, *callbacks: Callback) -> Result:
        """Train in this process, or go on."""
        return training.train(self.directory, self.seed, callbacks, in_background=False)

    def step(self, first: int = 1) -> int:
        """Draw a step before the last."""
        return self.draws.randrange(first, training.STEPS)

    def killed(self, layer: AtCall, *callbacks: Callback) -> None:
        """Train until the layer, or a callback, ends the process."""
        trainer = training.trainer_for(self.directory, self.seed, callbacks, in_background=False)
        with watched(layer, self.directory), contextlib.suppress(KilledError):
            training.fit(trainer)
        self._bury(trainer)

    def _bury(self, trainer: Trainer) -> None:
        """Do to what is open what the end of a process does: locks are free, events reach the disk in part."""
        lock._forget()
        board = getattr(getattr(trainer, "record", None), "board", None)
        if board is None:
            return
        events = max(self.directory.glob("events.*"), key=lambda path: path.stat().st_mtime_ns)
        on_disk = events.stat().st_size
        with contextlib.suppress(OSError):
            board.close()
        if self.draws.random() < 0.7:
            os.truncate(events, self.draws.randint(on_disk, events.stat().st_size))


def _raise_killed() -> None:
    raise KilledError


def _die(layer: AtCall) -> Callable[[], None]:
    def die() -> None:
        layer.dead = True
        raise KilledError

    return die


def killed_in_save(ground: Ground, call: int) -> None:
    """End the process at the n-th call that changes the folder."""
    ground.killed(AtCall(call, _raise_killed))


def killed_twice(ground: Ground, call: int) -> None:
    """End it, and end the one that resumes while it takes up the folder or soon after."""
    ground.killed(AtCall(call, _raise_killed))
    ground.killed(AtCall(ground.draws.randint(1, 60), _raise_killed))


def killed_at_step(ground: Ground, call: int) -> None:
    """End it after a step."""
    layer = AtCall(NEVER, _raise_killed)
    ground.killed(layer, At(ground.step(), _die(layer)))


def killed_in_evaluation(ground: Ground, call: int) -> None:
    """End it when an evaluation has been logged and not saved."""
    layer = AtCall(NEVER, _raise_killed)
    ground.killed(layer, At(ground.step(), _die(layer), "on_evaluated"))


def _signalled(number: int, status: str, twice: bool = False) -> Callable[[Ground, int], None]:
    def strike(ground: Ground, call: int) -> None:
        def send() -> None:
            os.kill(os.getpid(), number)
            if twice:
                os.kill(os.getpid(), number)

        try:
            result = ground.train(At(ground.step(), send))
        except KeyboardInterrupt:
            assert twice, "one signal left at once"
        else:
            assert result.status == status, f"{result.status}, not {status}"

    return strike


class Failing:
    """Raises an error of the disk at the n-th call and some after it."""

    def __init__(self, number: int, code: int, first: int, count: int) -> None:
        self.seen, self.code, self.first, self.last = number, code, first, first + count

    def __call__(self, name: str) -> None:
        """Count a call; what frees space works on a full disk."""
        self.seen += 1
        frees = name in ("unlink", "rmdir", "rename") and self.code == errno.ENOSPC
        if self.first <= self.seen < self.last and not frees:
            raise OSError(self.code, os.strerror(self.code))


def _disk(code: int, longest: int) -> Callable[[Ground, int], None]:
    def strike(ground: Ground, call: int) -> None:
        fault = Failing(0, code, call, ground.draws.randint(1, longest))
        with watched(fault, ground.directory), contextlib.suppress(OSError, ConfigError), _quiet():
            ground.train()

    return strike


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def clock_set_back(ground: Ground, call: int) -> None:
    """Set the clock back by an hour and end the process; the one that resumes lives in that hour."""
    real, layer = time.time, AtCall(NEVER, _raise_killed)

    def set_back() -> None:
        time.time = lambda: real() - 3600

    try:
        step = ground.step()
        ground.killed(layer, At(step, set_back), At(min(step + 2, training.STEPS - 1), _die(layer)))
        ground.train()
    finally:
        time.time = real


def _damaged(damage: Callable[[Path, random.Random], None]) -> Callable[[Ground, int], None]:
    def strike(ground: Ground, call: int) -> None:
        layer = AtCall(NEVER, _raise_killed)
        ground.killed(layer, At(ground.step(2 * training.EVERY + 1), _die(layer)))
        folders = (ground.directory / "checkpoints").glob("step-*")
        newest = max(folders, key=lambda path: int(path.name.removeprefix("step-")))
        file = ground.draws.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
        damage(file, ground.draws)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ground.train()
        told = [str(warning.message) for warning in caught]
        assert any(file.name in message for message in told), f"no warning names {file.name}: {told}"
        assert list((ground.directory / "checkpoints").glob("corrupt-*")), "the damaged one is not set aside"

    return strike


def _truncate(file: Path, draws: random.Random) -> None:
    os.truncate(file, draws.randrange(file.stat().st_size))


def _flip(file: Path, draws: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = draws.randrange(len(content))
    content[place] ^= 1 << draws.randrange(8)
    file.write_bytes(content)


def _remove(file: Path, draws: random.Random) -> None:
    file.unlink()


def second_process(ground: Ground, call: int) -> None:
    """Start another process in the folder while the first trains: it is refused and disturbs nothing."""
    refused: list[int] = []

    def start() -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                training.train(ground.directory, ground.seed)
            except ConfigError:
                code = 0
            finally:
                os._exit(code)
        refused.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    ground.train(At(ground.step(), start))
    assert refused == [0], "the second process was not refused"


FAULTS: dict[str, Callable[[Ground, int], None]] = {
    "kill between two calls": killed_in_save,
    "kill, and kill again while resuming": killed_twice,
    "kill after a step": killed_at_step,
    "kill in an evaluation": killed_in_evaluation,
    "SIGTERM": _signalled(signal.SIGTERM, "preempted"),
    "SIGUSR1": _signalled(signal.SIGUSR1, "preempted"),
    "Ctrl-C": _signalled(signal.SIGINT, "interrupted"),
    "Ctrl-C twice": _signalled(signal.SIGINT, "interrupted", twice=True),
    "disk full for a while": _disk(errno.ENOSPC, 40),
    "disk fails for a while": _disk(errno.EIO, 10),
    "folder read-only": _disk(errno.EROFS, NEVER),
    "clock set back an hour": clock_set_back,
    "newest checkpoint cut off": _damaged(_truncate),
    "a bit of the newest flipped": _damaged(_flip),
    "a file of the newest missing": _damaged(_remove),
    "a second process": second_process,
}
"""By name; each leaves a folder that a last run finishes. The number is that of a call that changes files."""
