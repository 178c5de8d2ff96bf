"""Work in fresh processes: one spawned server that has torch and this package loaded, and a fork of it for each job."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from framework.plugins import files
from framework.registry import Component

IMPORT_SECONDS = 5.0
"""How long a component's module may take to import, torch and this package aside."""
PATIENCE = 60.0
"""Seconds after which a job is given up."""
LOADED = ("numpy", "torch", "torchmetrics", "framework.trainer", "framework.testing.trials")

Job = Callable[..., list[str]]
"""What is run; it returns lines, and an empty list where all is well."""


class PlainPickler(ForkingPickler):
    """Pickles tensors as bytes, without the shared memory that torch sends them by."""

    _extra_reducers: ClassVar[dict[Any, Any]] = {}


def pickled(thing: Any) -> bytes:
    """Return an object as it goes to another process."""
    buffer = io.BytesIO()
    PlainPickler(buffer).dump(thing)
    return buffer.getvalue()


def run_fresh(job: Job, *arguments: Any) -> list[str]:
    """Run a module's function in a fresh process, in an empty folder, and return its lines.

    Raises RuntimeError where it raises or ends, TimeoutError where it takes longer than PATIENCE, SkipTest where this
    platform cannot fork.
    """
    if not hasattr(os, "fork"):
        raise SkipTest("this platform has no fork")
    try:
        connection = _server()
        connection.send((job, arguments))
        kind, lines = connection.recv()
    except (EOFError, OSError) as error:
        _server.cache_clear()
        raise RuntimeError(
            "the process that checks fresh imports has ended: a script calls run_checks under if __name__ == '__main__'"
        ) from error
    if kind == "late":
        raise TimeoutError(f"not done in {PATIENCE:g} s")
    if kind == "raised":
        raise RuntimeError("\n".join(lines))
    return list(lines)


@functools.cache
def _server() -> Any:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process.start()
    theirs.close()

    def stop() -> None:
        ours.close()
        process.join(5)

    atexit.register(stop)
    return ours


def _serve(connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    for module in LOADED:
        importlib.import_module(module)
    with contextlib.suppress(EOFError):
        while True:
            job, arguments = connection.recv()
            connection.send(_forked(job, arguments))


def _forked(job: Job, arguments: tuple[Any, ...]) -> tuple[str, list[str]]:
    """Run a job in a fork of this process and return how it ended, and its lines."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_and_exit(job, arguments, writing)
    os.close(writing)
    content, ended = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(ended - time.monotonic(), 0))[0]:
        piece = os.read(reading, 65536)
        content += piece
        if not piece:
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    if not content:
        return ("late", []) if time.monotonic() >= ended else ("raised", ["its process died"])
    kind, *lines = content.decode().split("\0")
    return kind, lines


def _run_and_exit(job: Job, arguments: tuple[Any, ...], writing: int) -> None:
    kind, lines = "ok", []
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            lines = job(*arguments)
    except BaseException as error:
        kind, lines = "raised", [f"{type(error).__name__}: {error}"]
    with contextlib.suppress(OSError):
        os.write(writing, "\0".join([kind, *lines]).encode()[:65000])
    os._exit(0)


def import_effects(component: Component) -> list[str]:
    """Import a component's module anew and return what it changed in the process, or left in the folder."""
    sys.modules.pop(component.module, None)
    written = os.open("output", os.O_RDWR | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(written, stream)
    _find(component)
    folder, before = Path.cwd(), _state()
    component.load()
    sys.stdout.flush()
    sys.stderr.flush()
    after = _state()
    changed = [f"{name}{_change(before[name], after[name])}" for name in before if before[name] != after[name]]
    size = os.fstat(written).st_size
    if size:
        changed.append(f"what is printed: {os.pread(written, 80, 0).decode(errors='replace').strip()!r}")
    made = sorted({path.name for path in folder.iterdir()} - {"output"})
    return changed + [f"the folder: it made {name}" for name in made]


def import_seconds(component: Component, limit: float) -> list[str]:
    """Import a component's module anew; return how long that took where it is more than `limit` seconds."""
    sys.modules.pop(component.module, None)
    _find(component)
    started = time.perf_counter()
    component.load()
    taken = time.perf_counter() - started
    return [f"{taken:.1f} s"] if taken > limit else []


def received(component: Component, content: bytes, examine: Callable[..., list[str]] | None = None) -> list[str]:
    """Take a pickled object where only the component's module can be found; return `examine(object)`."""
    _find(component)
    thing = ForkingPickler.loads(content)
    return examine(thing) if examine else []


def _find(component: Component) -> None:
    """Have a plugin's module found here as it is in the process that asks."""
    origin = component.origin
    if origin is not None and origin.place == "file" and origin.root is None:
        files.__path__[:] = [str(component.path.parent)]
    elif origin is not None and origin.root is not None:
        sys.path.insert(0, str(origin.root))


def _change(before: Any, after: Any) -> str:
    """Say what became of a value, where that is short enough to be read."""
    text = f" from {before!r} to {after!r}"
    if isinstance(before, dict):
        text = f": {', '.join(str(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key))}"
    return text if len(text) <= 200 else ""


def _state() -> dict[str, Any]:
    """Return what a module has no business to change as it is imported."""
    import numpy as np
    import torch

    handlers = {}
    for number in signal.valid_signals():
        with contextlib.suppress(ValueError, OSError):
            handlers[number] = signal.getsignal(number)
    return {
        "Python's random state": repr(random.getstate()),
        "NumPy's random state": repr(np.random.get_state()),
        "torch's random state": torch.get_rng_state().tolist(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "the working directory": Path.cwd(),
        "os.environ": dict(os.environ),
        "the filters of warnings": list(warnings.filters),
        "the handlers of signals": handlers,
        "the running threads": [thread.name for thread in threading.enumerate()],
    }
