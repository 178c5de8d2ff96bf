"""Which components a name stands for: a distribution's, a folder's or file's of ./plugins, or one by its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from framework import plugins, registry
from framework.errors import ConfigError, nearest
from framework.plugins.entries import normalised
from framework.registry import Component
from framework.testing.conformance import Subject

Named = Subject | tuple[str, str] | str
"""A subject; (kind, name); or a name: of a distribution, a folder or file of ./plugins, or a component."""


def subjects_of(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Subject]:
    """Return the components that a name stands for, each with its `options[kind]`, or `options[kind.name]`.

    A component's name may be `kind.name`, or `distribution.name`. Raises ConfigError, with the nearest name, where it
    stands for none, and where options are for a kind of which there is none.
    """
    found = _found(name)
    given = options or {}
    for key in given:
        if key not in {word for c in found for word in (c.kind, _full(c))}:
            raise ConfigError(f"'{name}' has no {key}: give options of one of {', '.join(map(_full, found))}.")
    return [Subject(c, _checked(c, {**given.get(c.kind, {}), **given.get(_full(c), {})})) for c in found]


def _checked(component: Component, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in their types, without defaults; raises ConfigError for one that does not exist or fit."""
    known = {option.name: option.annotation for option in component.signature.options}
    for key in given:
        if key not in known:
            raise ConfigError(f"{_full(component)}.{key} is not a setting: {nearest(key, known)}")
    return {key: registry.convert(value, known[key], f"{_full(component)}.{key}") for key, value in given.items()}


def as_subjects(named: Sequence[Named]) -> Iterator[Subject]:
    """Yield the components of subjects, (kind, name) pairs and names; raises ConfigError for what does not exist."""
    for one in named:
        if isinstance(one, Subject):
            yield one
        elif isinstance(one, str):
            yield from subjects_of(one)
        else:
            plugins.discover()
            yield Subject(registry.find(*one))


def _found(name: str) -> list[Component]:
    brought = [c for c in plugins.discover().components if c.kind in ("", *registry.KINDS)]
    if found := [c for c in brought if normalised(name) in _homes(c)]:
        return found
    named = {(c.kind, c.qualified): c for kind in registry.KINDS for c in registry.components(kind).values()}
    named |= {(c.kind, c.qualified): c for c in brought}
    if found := [c for c in named.values() if name in (c.name, c.qualified, _full(c))]:
        return found
    known = {word for c in named.values() for word in (*_homes(c), c.name)} - {""}
    reasons = "".join(f" ({reason})" for reason in plugins.unread())
    raise ConfigError(f"there is no plugin '{name}', nor a component: {nearest(name, known)}{reasons}")


def _full(component: Component) -> str:
    return f"{component.kind}.{component.name}"


def _homes(component: Component) -> set[str]:
    """Return the normalised names of what a component came with: nothing for a built-in one."""
    origin = component.origin
    if origin is None:
        return set()
    names = {origin.distribution}
    if origin.place == "folder":
        home = origin.root or component.path.parent
        names.add((home.parent if home.name == "src" else home).name)
    return {normalised(name) for name in names}
