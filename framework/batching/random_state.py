"""The state of the global generators of Python, NumPy and torch, as tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state(device: torch.device | None = None) -> dict[str, Tensor]:
    """Return the state of the generators of Python, NumPy, torch and, where it is no CPU, the device."""
    _, words, gauss = random.getstate()
    numpy: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy
    assert kind == "MT19937", kind
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_position": torch.tensor([position, has_gauss]),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.random.get_rng_state(),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device is not None and device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def load_random_state(state: Mapping[str, Tensor], device: torch.device | None = None) -> None:
    """Give the generators the state that `random_state` returned; a device that it lacks keeps its own."""
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, state["numpy_gauss"].item()))
    torch.random.set_rng_state(state["torch"])
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device is not None and device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
