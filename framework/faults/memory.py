"""Memory that runs out: what was allocated, what to try, and smaller micro-batches."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from framework.batching import Window
from framework.distributed import Ranks

T = TypeVar("T")

GIB = 2**30
CPU_ALLOCATOR = "DefaultCPUAllocator"
"""What a RuntimeError names that the host's memory was not enough for."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, of a device or of the host."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
    )


def explain_memory(error: BaseException, device: torch.device) -> torch.OutOfMemoryError:
    """Return the error to raise instead: one line with what was allocated, the peak, and what to try."""
    if device.type == "cuda":
        allocated, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        figures = f"{allocated / GIB:.2f} of {total / GIB:.2f} GiB allocated, {peak / GIB:.2f} GiB at the peak"
    else:
        # kilobytes, but on macOS bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        figures = f"{peak / GIB:.2f} GiB at this process's peak"
    asked = (str(error).strip() or "no message").splitlines()[0].partition(". GPU ")[0].rstrip(".")
    return torch.OutOfMemoryError(
        f"out of memory on {device} ({figures}; {asked}): try a smaller data.batch_size, trainer.accumulate=2 or "
        f"trainer.auto_micro_batch=true, or trainer.precision=bf16 or trainer.gradient_checkpointing=true."
    )


class MicroBatches:
    """Cuts micro-batches into halves, for good, whenever memory does not suffice for one; down to one example.

    The ranks do it together: each tells the others how a window went, which waits for the device, and gradients are
    averaged when all have theirs.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.pieces = 1

    def run(self, window: Window, work: Callable[[Window], T], undo: Callable[[], None]) -> T:
        """Return `work(window)`, called again after `undo` on smaller micro-batches while memory runs out."""
        while True:
            done, lacking = None, ""
            try:
                done = work(self._cut(window))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                lacking = str(error)
            # here the traceback, which holds the activations, is gone
            if not self.ranks.any(bool(lacking))[0]:
                return done  # type: ignore[return-value]  # `work` returned it
            undo()
            if self.pieces >= window.rows:
                raise torch.OutOfMemoryError(lacking or "another rank lacked memory")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.pieces *= 2
            self._announce()

    def _cut(self, window: Window) -> Window:
        return window if self.pieces == 1 else replace(window, pieces=self.pieces, whole=False)

    def _announce(self) -> None:
        from framework import reporting

        if self.ranks.is_main:
            reporting.note(
                f"memory ran out: from here on each micro-batch is cut into {self.pieces}, with the same gradient."
            )
