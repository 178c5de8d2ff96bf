"""What a checkpoint holds, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
RUN = "run.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Snapshot:
    """A run at the end of an optimizer step: tensors of its own on the CPU, by name, and plain values.

    `model` has the weights by canonical name, `optimizer` its state by `<parameter's place>.<key>`, `run` every other
    tensor by dotted path, and `state` the values: nested mappings and lists, nan and infinities included.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    run: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each file."""
        return {MODEL: self.model, OPTIMIZER: self.optimizer, RUN: self.run}


def on_cpu(tensor: Tensor) -> Tensor:
    """Return a contiguous copy of a tensor on the CPU, with storage of its own."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
