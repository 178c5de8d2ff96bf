"""Checkpoints: a folder each, safetensors and JSON, written under another name and renamed when whole."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.parameters import bare_model, canonical_name

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors by canonical name; a tensor that has several names (tied weights) comes once."""
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in bare_model(model).state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[canonical_name(name)] = tensor.detach().contiguous()
    return tensors


def load_model(model: nn.Module, path: Path) -> None:
    """Load weights saved by `model_tensors` into a model.

    Raises ConfigError where the file is damaged or belongs to another model.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read as safetensors: {error}.") from None
    try:
        copy_into(model, tensors)
    except ConfigError as error:
        raise ConfigError(f"{path} belongs to another model: {error}") from None


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors by canonical name into a model; raises ConfigError, naming a difference, where they don't fit."""
    own = {canonical_name(name): tensor for name, tensor in bare_model(model).state_dict().items()}
    held = {own[name].data_ptr() for name in tensors if name in own}
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape) if name in own else 'absent'}."
        for name, tensor in tensors.items()
        if name not in own or own[name].shape != tensor.shape
    ]
    # a tied weight is saved under one of its names
    wrong += [f"{n} is missing." for n, t in own.items() if n not in tensors and t.data_ptr() not in held]
    if wrong:
        raise ConfigError(f"{wrong[0]} ({len(wrong)} differences)")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def optimizer_parts(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named `<parameter's place in the groups>.<key>`, and JSON values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value.detach().contiguous()
            else:
                values[f"{index}.{key}"] = value
    groups = [
        {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in state["param_groups"]
    ]
    return tensors, {"values": values, "param_groups": groups}


class Checkpoints:
    """The checkpoints of a run's folder: `checkpoints/step-N`, and the links `best` and `last` to them.

    The folder `checkpoints` is made here, and by one run only: ConfigError where it is there already.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        try:
            (directory / "checkpoints").mkdir()
        except FileExistsError:
            raise ConfigError(
                f"{directory} has a run already: choose another folder (hydra.run.dir), or set overwrite=true."
            ) from None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        *,
        best: bool,
    ) -> None:
        """Write the checkpoint of a step, point `last` (and `best`) at it, and drop those nothing points at."""
        folder = self.directory / "checkpoints" / f"step-{step}"
        if not folder.exists():
            temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
            temporary.mkdir()
            tensors, rest = optimizer_parts(optimizer)
            save_file(model_tensors(model), temporary / MODEL)
            save_file(tensors, temporary / OPTIMIZER)
            write_json(temporary / STATE, {"step": step, **state, "optimizer": rest})
            for name in (MODEL, OPTIMIZER, STATE, ""):
                _sync(temporary / name)
            temporary.rename(folder)
            _sync(folder.parent)
        self._link("last", folder)
        if best or not (self.directory / "best").exists():
            self._link("best", folder)
        self._drop_unlinked()

    def _link(self, name: str, folder: Path) -> None:
        temporary = self.directory / f".{name}-{uuid.uuid4().hex}"
        temporary.symlink_to(folder.relative_to(self.directory), target_is_directory=True)
        temporary.replace(self.directory / name)

    def _drop_unlinked(self) -> None:
        linked = {(self.directory / name).resolve() for name in ("best", "last")}
        for folder in (self.directory / "checkpoints").iterdir():
            if folder.resolve() not in linked:
                shutil.rmtree(folder)


def clear(directory: Path) -> None:
    """Remove what a run wrote, and nothing else, from its folder; one without a run is left as it is."""
    if not (directory / "checkpoints").is_dir():
        return
    for name in ("config.yaml", "overrides.yaml", "environment.json", "result.json", "best", "last"):
        (directory / name).unlink(missing_ok=True)
    for events in directory.glob("events.out.tfevents.*"):
        events.unlink()
    for folder in (directory / "checkpoints").glob("*step-*"):
        shutil.rmtree(folder)
    if not any((directory / "checkpoints").iterdir()):
        (directory / "checkpoints").rmdir()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; numbers that JSON lacks (nan, inf) become null."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    text = json.dumps(_only_finite(content), indent=2, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def _only_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _only_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_only_finite(v) for v in value]
    if isinstance(value, Tensor):
        return _only_finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
