"""Components outside the package: installed distributions, folders and single files, read without being imported."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from framework import registry
from framework.errors import ConfigError, nearest
from framework.plugins import files, folders, installed
from framework.plugins.entries import API, CONF, normalised
from framework.registry import Component

__all__ = ["API", "SWITCH", "Found", "conf_folders", "discover", "found", "is_off", "leave_out", "remarks", "unread"]

SWITCH = "FRAMEWORK_PLUGINS"
"""`off`, or the distributions and stems of files that are wanted, by commas; all without it."""


@dataclass
class Found:
    """What the last search has found."""

    components: list[Component] = field(default_factory=list)
    """Of every plugin, broken ones included; one whose plugin cannot be read at all has no kind and no name."""
    replaced: list[Component] = field(default_factory=list)
    """Those of installed distributions that are in ./plugins, too."""
    notes: list[str] = field(default_factory=list)
    """What a run says once."""


found = Found()


class _Wanted:
    """The names that FRAMEWORK_PLUGINS lets through, and those that it was asked about."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self.names = names
        self.seen: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.seen.add(str(name))
        return self.names is None or name in self.names


def discover(folder: Path = Path("plugins")) -> Found:
    """Offer the components of all plugins, in place of those offered before, and return what was found.

    Raises ConfigError where FRAMEWORK_PLUGINS names one that is not there.
    """
    if is_off():
        return _offer([], [])
    said = os.environ.get(SWITCH, "").strip()
    names = frozenset(normalised(n) for n in said.split(",") if n.strip()) if said else None
    wanted = _Wanted(names)
    local: list[Component] = []
    if folder.is_dir():
        local += folders.read(folder, wanted)
        local += files.read(folder, wanted)
    others = list(installed.read(wanted))
    for name in sorted((names or frozenset()) - wanted.seen):
        raise ConfigError(f"{SWITCH}={said}: there is no plugin '{name}': {nearest(name, wanted.seen)}")
    mine = {c.origin.distribution for c in local if c.origin and c.origin.place == "folder" and c.kind}
    replaced = [c for c in others if c.origin and c.origin.distribution in mine]
    return _offer([*local, *(c for c in others if c not in replaced)], replaced)


def is_off() -> bool:
    """Tell whether plugins are left out."""
    return os.environ.get(SWITCH, "").strip() == "off"


def _offer(components: Iterable[Component], replaced: list[Component]) -> Found:
    found.components, found.replaced = list(components), replaced
    twice = sorted({str(c.origin) for c in replaced})
    found.notes = [f"{name} is installed and in ./plugins: the folder is used" for name in twice]
    found.notes += unread()
    registry.offer(found.components)
    return found


def unread() -> list[str]:
    """Return what is said of each plugin that cannot be read at all."""
    whole = [c for c in found.components if c.broken and not c.name]
    return [c.broken if str(c.path) in c.broken else f"{c.path} cannot be read: {c.broken}" for c in whole]


def remarks(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return what a run of these (kind, name) says of plugins, and has not said before."""
    said = found.notes + [
        f"{kind} '{name}' is the built-in one; that of {c.origin} is {c.qualified}"
        for kind, name in names
        if registry.find(kind, name).origin is None
        for c in found.components
        if (c.kind, c.name) == (kind, name) and not c.broken
    ]
    found.notes = []
    return said


def conf_folders() -> list[Component]:
    """Return the folders of YAML that plugins bring; each one's `path` is the folder."""
    return [c for c in found.components if c.kind == CONF and not c.broken]


def leave_out(component: Component, reason: str) -> None:
    """Mark a component as broken."""
    found.components = [replace(c, broken=reason) if c is component else c for c in found.components]
    found.notes.append(f"{component.path} is left out: {reason}")
    registry.offer(found.components)
