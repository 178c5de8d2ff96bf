"""What is drawn, and which kernels run, as functions of the seed."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from framework.batching.order import seed_for


def seed_step(device: torch.device, *parts: object) -> None:
    """Make what torch draws next a function of these parts: (seed, purpose, step, slot)."""
    seed = seed_for(*parts)
    torch.default_generator.manual_seed(seed)  # 1 µs, where torch.manual_seed takes 100
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, for what happens before the first step."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # users' code may draw from the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def keeping_random_state(device: torch.device) -> Iterator[None]:
    """Give torch's generators the state that they had before."""
    with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Have torch choose reproducible kernels inside, or raise where an operation has none."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # 48 µs for 4 MB, to find reads of uninitialised memory only
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        memory.fill_uninitialized_memory = filled
