"""One checkpoint's folder: its files, and the manifest, written last, that says what they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework.checkpoint.files import sync, write_json
from framework.checkpoint.nested import flatten, unflatten
from framework.checkpoint.snapshot import MODEL, OPTIMIZER, RUN, STATE, Snapshot
from framework.errors import ConfigError
from framework.untrusted import open_regular, read_json, read_shapes

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST = 2**20
"""The bytes that a manifest may have."""

FILES = (MODEL, OPTIMIZER, RUN, STATE)


class CorruptError(ConfigError):
    """A checkpoint is not what its manifest says."""


def write(folder: Path, snapshot: Snapshot, *, score: float | None, best: bool) -> None:
    """Write a checkpoint into a new folder and return when it is on disk, the manifest after all other files."""
    folder.mkdir()
    for name, tensors in snapshot.tensors.items():
        save_file(tensors, folder / name)
        sync(folder / name)
    tensors, state = flatten({"step": snapshot.step, **snapshot.state})
    assert not tensors, "a snapshot's tensors are in its other parts"
    write_json(folder / STATE, state)
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in FILES}
    content = {"format": FORMAT, "step": snapshot.step, "score": score, "best": best, "files": files}
    write_json(folder / MANIFEST, content)
    sync(folder)


def read(folder: Path) -> Snapshot:
    """Return a checkpoint whose every file has the size and SHA-256 of its manifest; `best` and `last` are folders too.

    Raises ConfigError, naming the file and what is wrong.
    """
    manifest = verify(folder)
    tensors = {name: _parsed(folder / name, _load) for name in (MODEL, OPTIMIZER, RUN)}
    state = _parsed(folder / STATE, lambda path: unflatten({}, read_json(path)))
    if not isinstance(state, dict) or state.pop("step", None) != manifest["step"]:
        raise CorruptError(f"{folder / STATE} is of another step than {MANIFEST}.")
    return Snapshot(manifest["step"], tensors[MODEL], tensors[OPTIMIZER], tensors[RUN], state)


def read_model(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, verified; raises ConfigError as `read` does."""
    verify(folder, (MODEL,))
    return _parsed(folder / MODEL, _load)  # type: ignore[no-any-return]  # of a parser of anything


def verify(folder: Path, names: tuple[str, ...] = FILES) -> dict[str, Any]:
    """Return the manifest of a checkpoint, these of whose files are what it says; else raise CorruptError."""
    manifest = read_manifest(folder)
    for name in names:
        path, said = folder / name, manifest["files"][name]
        size = _of_disk(path, lambda p: p.stat().st_size)
        if size != said["bytes"]:
            raise CorruptError(f"{path} has {size:,} bytes where {MANIFEST} says {said['bytes']:,}.")
        if _of_disk(path, _digest) != said["sha256"]:
            raise CorruptError(f"{path} has another SHA-256 than {MANIFEST} says: its content has changed.")
    return manifest


def check_step(folder: Path, step: int) -> None:
    """Raise CorruptError where a checkpoint's manifest is of another step than its folder's name."""
    if read_manifest(folder)["step"] != step:
        raise CorruptError(f"{folder / MANIFEST} is of another step.")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, its form checked.

    Raises CorruptError where there is none or it is not one, and ConfigError for a format of the future.
    """
    path = folder / MANIFEST
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise CorruptError(f"{folder} has no {MANIFEST}: it is half-written, or no checkpoint.")
    manifest = _parsed(path, read_json)
    if isinstance(manifest, dict) and type(manifest.get("format")) is int and manifest["format"] > FORMAT:
        raise ConfigError(f"{path} has format {manifest['format']}, this version reads {FORMAT}: install a newer one.")
    if not _well_formed(manifest):
        raise CorruptError(f"{path} is not the manifest of a checkpoint.")
    return manifest  # type: ignore[no-any-return]  # of a parser of anything


def _well_formed(manifest: Any) -> bool:
    if not isinstance(manifest, dict) or manifest.keys() != {"format", "step", "score", "best", "files"}:
        return False
    files, score = manifest["files"], manifest["score"]
    return (
        manifest["format"] == FORMAT
        and type(manifest["step"]) is int
        and (score is None or (type(score) is float and math.isfinite(score)))
        and type(manifest["best"]) is bool
        and isinstance(files, dict)
        and files.keys() == set(FILES)
        and all(isinstance(said, dict) and said.keys() == {"bytes", "sha256"} for said in files.values())
        and all(type(said["bytes"]) is int and isinstance(said["sha256"], str) for said in files.values())
    )


def _load(path: Path) -> dict[str, Tensor]:
    read_shapes(path)
    return load_file(path)


def _parsed(path: Path, parse: Callable[[Path], Any]) -> Any:
    try:
        return _of_disk(path, parse)
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = str(error).rstrip(".").replace(f"{path} ", "it ", 1)
        raise CorruptError(f"{path} cannot be read: {reason}.") from None


def _of_disk(path: Path, work: Callable[[Path], Any]) -> Any:
    """Do something with a file; one that is not there, or not readable by its disk, is corrupt."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CorruptError(f"{path} is no file.")  # a link leads out, a pipe or a device would be read for ever
        return work(path)
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except OSError as error:
        raise CorruptError(f"{path} cannot be read: {error.strerror or error}.") from None


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
