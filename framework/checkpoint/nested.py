"""Nested mappings and lists as tensors by dotted path and plain JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from framework.errors import ConfigError

TENSOR, FLOAT = "$tensor", "$float"
"""The keys of a mapping that stands for a tensor, by its path, and for a number that JSON lacks."""

NUMBERS = ("nan", "inf", "-inf")


def flatten(nested: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested mappings and lists into tensors by dotted path, and values that strict JSON holds.

    Tuples become lists. nan, infinities and whole numbers as keys survive. Raises TypeError, with the path, for what is
    neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flat(nested, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], values: Any) -> Any:
    """Put together what `flatten` split; raises ConfigError where a tensor or the form of a value is missing."""
    if isinstance(values, list):
        return [unflatten(tensors, value) for value in values]
    if not isinstance(values, dict):
        return values
    if values.keys() == {TENSOR} or values.keys() == {FLOAT}:
        ((kind, name),) = values.items()
        known = tensors if kind == TENSOR else NUMBERS
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{kind} {name!r} is not among the tensors and numbers saved.")
        return tensors[name] if kind == TENSOR else float(name)
    return {_unescaped(key): unflatten(tensors, value) for key, value in values.items()}


def _flat(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = path
        while name in tensors:  # {"a.b": …} beside {"a": {"b": …}}
            name += "'"
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {_escaped(k, path): _flat(v, f"{path}.{k}" if path else str(k), tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_flat(v, f"{path}.{i}" if path else str(i), tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(float(value))}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bool | int | float | str):  # such as an Enum or numpy's float64: by value
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    raise TypeError(f"a checkpoint holds tensors and plain values; {path or 'the value'} is a {type(value).__name__}.")


def _escaped(key: Any, path: str) -> str:
    """Return a key as JSON has it: whole numbers behind a $, and texts that begin with one behind another."""
    if type(key) is int:
        return f"${key}"
    if not isinstance(key, str):
        raise TypeError(f"a checkpoint's keys are texts and whole numbers; {path} has {key!r}.")
    return f"${key}" if key.startswith("$") else key


def _unescaped(key: str) -> str | int:
    if key.startswith("$$"):
        return key[1:]
    if not key.startswith("$"):
        return key
    try:
        return int(key[1:])
    except ValueError:
        raise ConfigError(f"{key!r} is no key of a checkpoint.") from None
