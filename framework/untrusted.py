"""Files that a stranger may have made: regular, of bounded size and depth, and read without running anything."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from framework.errors import ConfigError

BYTES = 16 * 2**20
"""That a file of settings or of a run's state may have."""
HEADER_BYTES = 16 * 2**20
"""That the header of a safetensors file may have: a hundred thousand tensors and more."""
SCALAR = 2**16
"""Characters of one YAML value; more make quadratic work of a number."""
DEPTH = 64
"""Mappings and lists inside one another."""
NODES = 1_000_000
"""Values of a YAML file with its aliases written out."""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read; a pipe, a device or a folder in its place raises ConfigError before it is read."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123  # of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path} must be a regular file, not a folder, a pipe or a device.")
        yield file


def read_text(path: Path, limit: int = BYTES) -> str:
    """Return the UTF-8 text of a regular file of no more than `limit` bytes, else raise ConfigError or OSError."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ConfigError(f"{path} must have at most {limit:,} bytes, and has more.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8, and is not from byte {error.start} on.") from None


def read_json(path: Path, limit: int = BYTES) -> dict[str, Any]:
    """Return the mapping that a JSON file holds, as `read_json_value` reads it."""
    content = read_json_value(path, limit)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got a {type(content).__name__}.")
    return content


def read_json_value(path: Path, limit: int = BYTES) -> Any:
    """Return what a JSON file holds.

    Raises ConfigError for what JSON lacks (nan, infinities, a key twice), for numbers beyond a float's, and for nesting
    beyond Python's; OSError where the file cannot be opened.
    """
    try:
        return json.loads(read_text(path, limit), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep to be read.") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice in one mapping")
    return content


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, to which a key that stands twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if len(set(keys)) < len(keys):
            raise ValueError("a key stands twice in one mapping")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file; raises ConfigError for tags, bombs and repeated keys, or OSError."""
    text = read_text(path)
    check_yaml(text, path)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} is not YAML of plain values: {_line(error)}.") from None


def check_yaml(text: str, path: Path) -> None:
    """Raise ConfigError where YAML is no YAML, is nested too deep, or grows too large by its aliases.

    It is parsed into events, without recursion, and nothing is built of them.
    """
    sizes: dict[str, int] = {}
    collections: list[tuple[str | None, int]] = []
    total = 0  # of the innermost collection that is open, so far
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                collections.append((event.anchor, total))
                total = 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = collections.pop()
                if anchor is not None:
                    sizes[anchor] = total
                total += before
            elif isinstance(event, yaml.AliasEvent):
                total += sizes.get(str(event.anchor), NODES + 1)  # one that is not closed yet holds itself
            elif isinstance(event, yaml.ScalarEvent):
                total += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
                if len(event.value) > SCALAR:
                    raise ConfigError(f"{path}: a value may have {SCALAR:,} characters, and one has more.")
            if len(collections) > DEPTH:
                raise ConfigError(f"{path} is nested deeper than {DEPTH}.")
            if total > NODES:
                raise ConfigError(f"{path} is too large: its aliases written out, it has more than {NODES:,} values.")
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_line(error)}.") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def read_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape of each tensor of a safetensors file, from its header alone.

    Raises ConfigError where it is no regular file with a header of bounded size, and for what its tensors say that
    cannot be: the bytes that they would take are those of the file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_BYTES, size - 8):
            raise ConfigError(f"{path} cannot be read as safetensors: its header cannot have {length:,} bytes.")
        header = file.read(length)
    try:
        content = json.loads(header, object_pairs_hook=_once)
        shapes = {
            name: (str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in content.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise ConfigError(f"{path} cannot be read as safetensors: its header is damaged.") from None
    return shapes


def inside(folder: Path, path: Path) -> Path:
    """Return the real place of a path, or raise ConfigError where links or `..` lead it out of a folder."""
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ConfigError(f"{path} leads out of {folder}: a link may point at what is in it only.")
    return real
