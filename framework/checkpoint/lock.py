"""A folder for one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from framework.errors import ConfigError

LOCK = ".lock"

_held: set[int] = set()
"""The descriptors of the locks that this process holds."""


def _forget() -> None:
    """Give a forked child, such as a loader's worker, no part in the locks of its parent, whose death frees them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


class FolderLock:
    """Holds a folder until `release`, or the end of the process, however it ends.

    Raises ConfigError where another process holds it, or where the folder cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self._descriptor = self._take(directory)
        _held.add(self._descriptor)

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        if self._descriptor in _held:
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                pass  # the lock is on what is open, not on the name
            finally:
                _held.discard(self._descriptor)
                os.close(self._descriptor)

    def _take(self, directory: Path) -> int:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise ConfigError(f"{directory} cannot be written to: {error.strerror}.") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # the holder of before may have removed the file between the two calls
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):  # noqa: PTH116  # fstat's counterpart
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(descriptor)
                taken = isinstance(error, BlockingIOError)
                reason = (
                    "another process trains in it: wait for its end, or choose another" if taken else error.strerror
                )
                raise ConfigError(f"{directory} cannot be locked: {reason}.") from None
            os.close(descriptor)
