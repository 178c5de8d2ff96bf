"""Weights out of checkpoints, ours and others', as a plain state dict in safetensors."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from framework.checkpoint.folder import read_model
from framework.checkpoint.snapshot import on_cpu
from framework.errors import ConfigError
from framework.parameters import canonical_name

INSIDE = ("state_dict", "model", "model_state_dict")
"""The keys under which others' checkpoints have the weights."""


def convert(source: Path, output: Path, *, which: Literal["best", "last"] = "best") -> dict[str, Tensor]:
    """Write the weights of a run's folder, or of a file of torch.save, to `output`, and return them.

    Names are canonical, without the prefixes of DistributedDataParallel and torch.compile. Raises ConfigError for a
    file with anything but tensors and plain values in it: nothing that it names is imported or called.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(f"output={output}: weights are written as safetensors; name it so: output=X.safetensors.")
    tensors = read_model(source / which) if source.is_dir() else _canonical(_weights(_load(source), source))
    temporary = output.with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return tensors


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path} is neither a file nor the folder of a run.")
    _refuse_bomb(path)
    try:
        return _torch_load(path, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise ConfigError(f"{path} cannot be read as a file of torch.save: {_first_line(error)}") from None
        return _torch_load(path, mmap=False)  # the format before PyTorch 1.6


def _refuse_bomb(path: Path) -> None:
    """Raise ConfigError for an archive that unpacks to more than its file: torch.save compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ConfigError(f"{path} is refused: it unpacks to {unpacked:,} bytes, more than its own.")


def _torch_load(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except RuntimeError:
        raise
    except Exception as error:  # a damaged or hostile pickle may raise whatever its opcodes lead to
        raise ConfigError(
            f"{path} is refused: it is no file of torch.save that holds tensors and plain values alone, and anything "
            f"else in one can run code ({type(error).__name__})."
        ) from None


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what was loaded."""
    for _ in INSIDE:  # and no further, as a mapping may hold itself
        inside = [k for k in INSIDE if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)]
        content = content[inside[0]] if inside else content
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path} has no state dict, at its top or under {', '.join(INSIDE)}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConfigError(f"{path}: a state dict holds tensors by name; {name!r} is a {type(value).__name__}.")
        if value.layout is not torch.strided or value.is_quantized:
            raise ConfigError(f"{path}: {name} is sparse or quantized, and safetensors has dense tensors alone.")
        if value.nbytes > value.untyped_storage().nbytes():
            raise ConfigError(f"{path}: {name} says to have {value.nbytes:,} bytes, more than are stored.")
    return dict(content)


def _canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {canonical_name(name): on_cpu(tensor) for name, tensor in tensors.items()}
    parallel = all(name.startswith("module.") for name in named)
    return {name.removeprefix("module."): tensor for name, tensor in named.items()} if parallel else named


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
