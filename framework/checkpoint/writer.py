"""Work in another thread, one piece at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Writer:
    """Does one piece of work at a time, beside the caller where `in_background` is on."""

    def __init__(self, *, in_background: bool) -> None:
        self._in_background = in_background
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin a piece of work, after the one before has ended."""
        self.wait()
        if not self._in_background:
            work()
            return
        # a process that is left at once does not wait for it: what it writes has a temporary name until it is whole
        self._thread = threading.Thread(target=self._do, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being done, and raise what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            self._failure = failure
