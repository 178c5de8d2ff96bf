"""A layer over the system calls that change files: it can stop the process, or fail, at the n-th of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from framework.checkpoint import folder as checkpoint_folder

CHANGES = ("mkdir", "rmdir", "rename", "replace", "symlink", "unlink", "fsync")
"""What of `os` the writer of checkpoints uses, beside the writing of content."""

Fault = Callable[[str], None]
"""Told the name of a call before it is made and, of one that writes content, in its midst; it may raise or kill."""


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it, and no call changes a file after it."""


class AtCall:
    """Does something at the n-th call from now on; from the first call of a save on where `save` is set."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self.left = number
        self.action = action
        self.dead = False
        self.happened = ""

    def __call__(self, name: str) -> None:
        """Count a call."""
        if self.dead:
            raise KilledError
        self.left -= 1
        if self.left == 0:
            self.happened = name
            try:
                self.action()
            except KilledError:
                self.dead = True
                raise


@contextlib.contextmanager
def watched(fault: Fault, under: Path) -> Iterator[None]:
    """Let `fault` see every call inside that changes what lies under a folder."""
    kept: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def concerns(path: Any) -> bool:
        return isinstance(path, int) or str(path).startswith(str(under)) or not os.path.isabs(path)  # noqa: PTH117

    def change(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if concerns(arguments[-1] if name == "symlink" else arguments[0]):
                fault(name)
            return real(*arguments, **keywords)

        return call

    real_text, real_save = Path.write_text, checkpoint_folder.save_file

    def write_text(path: Path, text: str, *arguments: Any, **keywords: Any) -> int:
        if not concerns(path):
            return real_text(path, text, *arguments, **keywords)
        fault("create")
        real_text(path, text[: len(text) // 2], *arguments, **keywords)
        fault("write")
        return real_text(path, text, *arguments, **keywords)

    def save_file(tensors: Any, path: Path) -> None:
        fault("create")
        real_save(tensors, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fault("write")
        path.write_bytes(whole)

    for name in CHANGES:
        put(os, name, change(name))
    put(Path, "write_text", write_text)
    put(checkpoint_folder, "save_file", save_file)
    try:
        yield
    finally:
        for owner, name, value in reversed(kept):
            setattr(owner, name, value)
