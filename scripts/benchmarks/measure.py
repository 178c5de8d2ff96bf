"""Memory and time of a step, whatever it is."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._profiler import _EventType, _ProfilerEvent
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile


class PeakTrace:
    """Traces every allocation from start to stop: the most memory that torch held at any moment between.

    What was held before does not count. On CUDA it is the allocator's own figure.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.cuda = device is not None and device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def start(self) -> None:
        """Begin."""
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.profiler.start()

    def stop(self) -> int:
        """End, and return the bytes."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        self.profiler.stop()
        events: list[tuple[int, int]] = []

        def collect(nodes: Iterable[_ProfilerEvent]) -> None:
            for node in nodes:
                kind, fields = node.typed
                if kind == _EventType.Allocation:
                    events.append((node.start_time_ns, fields.alloc_size))
                collect(node.children)

        assert self.profiler.profiler is not None
        collect(self.profiler.profiler.kineto_results.experimental_event_tree())
        held = peak = 0
        for _, change in sorted(events, key=lambda event: event[0]):
            held += change
            peak = max(peak, held)
        return peak


def peak_bytes(step: Callable[[], Any]) -> int:
    """Return the most memory that torch held on the CPU at any moment of a step, of what was allocated in it.

    Temporaries inside torch's own kernels count too.
    """
    trace = PeakTrace()
    trace.start()
    step()
    return trace.stop()


def saved_bytes(forward: Callable[[], Any], uncounted: Iterable[Tensor] = ()) -> int:
    """Return the bytes of the storages that a forward pass keeps for its backward, each counted once."""
    skipped = {tensor.untyped_storage().data_ptr() for tensor in uncounted}
    found: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skipped:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(found.values())


def interleaved(steps: Mapping[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each step in each round, all steps in every round, each round begun by the next one.

    There are `rounds` of them, or fewer, but five or more where so many are asked for, once `seconds` have passed.
    """
    names = list(steps)
    found: dict[str, list[float]] = {name: [] for name in names}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= 5 and time.perf_counter() - begun > seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            steps[name]()
            found[name].append(time.perf_counter() - start)
    return found


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of two steps' times in the same rounds, and its confidence interval of 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio(times: list[float], others: list[float]) -> Ratio:
    """Return what share of the others' times these are; the interval is from 2000 resamples of the rounds."""
    ratios = np.array(times) / np.array(others)
    resampled = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    return Ratio(statistics.median(ratios.tolist()), float(low), float(high))


def machine() -> dict[str, str]:
    """Return what the numbers depend on: processor, cores, threads and versions."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
