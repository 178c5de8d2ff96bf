"""The types an option can have, and the check of a value against one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from framework.errors import ConfigError, nearest


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `bounds` says which ends belong to it, in interval notation."""

    low: float = -math.inf
    high: float = math.inf
    bounds: Literal["[]", "[)", "(]", "()"] = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.bounds[0] == "[" else value > self.low
        below = value <= self.high if self.bounds[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        above = f"{'>=' if self.bounds[0] == '[' else '>'} {self.low:g}" if self.low > -math.inf else ""
        below = f"{'<=' if self.bounds[1] == ']' else '<'} {self.high:g}" if self.high < math.inf else ""
        return " and ".join(filter(None, (above, below)))


WHOLE = range(-(2**63), 2**63)
"""The whole numbers that a tensor, and so an option, can hold."""

Positive = Annotated[float, Range(0, bounds="()")]
NonNegative = Annotated[float, Range(0, bounds="[)")]
Fraction = Annotated[float, Range(0, 1)]
Probability = Annotated[float, Range(0, 1, "[)")]
Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(0)]

NAMED = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "Any": Any,
    "Sequence": Sequence,
    "Literal": Literal,
    "Annotated": Annotated,
    "Range": Range,
    "Positive": Positive,
    "NonNegative": NonNegative,
    "Fraction": Fraction,
    "Probability": Probability,
    "Count": Count,
    "Size": Size,
}
"""What an annotation in source may be made of, beside constants and the module's own aliases."""


def ranges(annotation: Any) -> tuple[Range, ...]:
    """Return the ranges that an `Annotated` type carries."""
    return tuple(note for note in getattr(annotation, "__metadata__", ()) if isinstance(note, Range))


def check_ranges(value: Any, annotation: Any, where: str) -> None:
    """Raise ConfigError where a number, or one of a tuple, lies outside its annotation's range; other values pass."""
    if get_origin(annotation) is tuple and isinstance(value, tuple | list) and Ellipsis not in get_args(annotation):
        for i, (item, part) in enumerate(zip(value, get_args(annotation), strict=False)):
            check_ranges(item, part, f"{where}[{i}]")
        return
    if get_origin(annotation) in (Union, UnionType):
        numbers = [a for a in get_args(annotation) if ranges(a)]
        annotation = numbers[0] if len(numbers) == 1 else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        for range_ in ranges(annotation):
            if value not in range_:
                raise ConfigError(f"{where} must be {range_}, got {value:g}.")


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Return `value` as the annotation's type, or raise ConfigError: where, the rule and the value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        result = convert(value, arguments[0], where)
        check_ranges(result, annotation, where)
        return result
    if origin in (Union, UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal:
        word = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML 1.1's off
        for choice in arguments:
            if word is not None and str(choice) == str(word):
                return choice
        raise ConfigError(f"{where} cannot be {value!r}: {nearest(str(value), map(str, arguments))}")
    if origin in (list, tuple, Sequence) or annotation in (list, tuple, Sequence):
        return _convert_sequence(value, origin or annotation, arguments, where)
    if origin is dict or annotation is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a mapping, such as {{key: value}}, got {value!r}.")
        keys, values = arguments or (Any, Any)
        return {convert(k, keys, f"{where}'s key"): convert(v, values, f"{where}.{k}") for k, v in value.items()}
    return _convert_scalar(value, annotation, where)


def _convert_scalar(value: Any, kind: type, where: str) -> Any:
    if kind in (NoneType, None):
        if value is None:
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value in WHOLE:
            return value
    elif kind is float:
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value in WHOLE):
            return float(value)
    elif kind is str:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    else:
        return value
    raise ConfigError(f"{where} must be {describe(kind)}, got {value!r}.")


def _convert_sequence(value: Any, kind: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, such as [a,b], got {value!r}.")
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{where} must have {len(arguments)} values, got {len(value)}: {list(value)!r}.")
        return tuple(convert(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))
    element = arguments[0] if arguments else Any
    items = [convert(v, element, f"{where}[{i}]") for i, v in enumerate(value)]
    return items if kind is list else tuple(items)


def _convert_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if value is None and NoneType in members:
        return None
    rest = [m for m in members if m is not NoneType]
    if len(rest) == 1:
        return convert(value, rest[0], where)
    exact = [m for m in rest if m is type(value)]
    for member in exact + rest:
        try:
            return convert(value, member, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} must be {' or '.join(map(describe, members))}, got {value!r}.")


def describe(annotation: Any) -> str:
    """Say in words what an annotation admits."""
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "a text",
        None: "null",
        NoneType: "null",
    }
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in names:
        return names[annotation]
    if origin is Annotated:
        return f"{describe(arguments[0])} {' '.join(map(str, ranges(annotation)))}".strip()
    if origin in (Union, UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is dict or annotation is dict:
        return "a mapping"
    if annotation is Any:
        return "anything"
    return f"a list of {describe(arguments[0])}" if arguments else "a list"
