"""The weights that a run began with, to go back to where a bad step has spoilt the model's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

import torch
from torch import Tensor, nn

from framework.checkpoint import copy_into, model_tensors
from framework.parameters import named_tensors


class FirstWeights:
    """A copy of a model's tensors: in a file without a name in the run's folder, which takes no memory while it trains.

    Without a folder, or where it takes no such file, the copy is in memory. It is gone with `close`, or the process.
    """

    def __init__(self, model: nn.Module, directory: Path | None) -> None:
        self.model = model
        self.forms = {name: (tensor.shape, tensor.dtype) for name, tensor in named_tensors(model).items()}
        self.file = None if directory is None else _written(model, directory)
        self.held = model_tensors(model) if self.file is None else {}

    def restore(self) -> None:
        """Give the model its first weights back."""
        copy_into(self.model, self.held if self.file is None else dict(self._read(self.file)))

    def close(self) -> None:
        """Forget them."""
        if self.file is not None:
            self.file.close()

    def _read(self, file: BufferedRandom) -> Iterator[tuple[str, Tensor]]:
        file.seek(0)
        for name, (shape, dtype) in self.forms.items():
            tensor = torch.empty(shape, dtype=dtype)
            file.readinto(_bytes_of(tensor))
            yield name, tensor


def _written(model: nn.Module, directory: Path) -> BufferedRandom | None:
    """Return a file of the model's tensors one after the other, or None where the disk takes none."""
    try:
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # closed with the run
    except OSError:
        return None
    try:
        for tensor in named_tensors(model).values():
            file.write(_bytes_of(tensor.detach().cpu().contiguous()))
        file.flush()
    except OSError:
        file.close()
        return None
    return file


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return a contiguous tensor's memory."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
