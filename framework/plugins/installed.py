"""Plugins of installed distributions, one pass over them, each on its own: what is wrong with one stops no other."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Container, Iterator
from pathlib import Path

from framework.plugins import entries
from framework.registry import Component, Origin
from framework.registry.places import Places, installed

FILE = "entry_points.txt"


def read(wanted: Container[str]) -> Iterator[Component]:
    """Yield the components of the distributions wanted; of one found twice on `sys.path` those of the first."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        folder = _folder(distribution)
        name = entries.normalised(folder.stem.partition("-")[0])
        if name in seen:
            continue
        seen.add(name)
        found = list(_read(distribution, folder, name))
        if found and name in wanted:
            yield from found


def _read(distribution: importlib.metadata.Distribution, folder: Path, name: str) -> Iterator[Component]:
    origin = Origin(name, "", "installed")
    try:
        text = distribution.read_text(FILE)
        if text is None or "framework.v" not in text:
            return
        origin = Origin(name, _version(distribution, folder), "installed")
        points = list(distribution.entry_points)
    except Exception as error:  # not UTF-8, no INI, a disk's error
        yield entries.broken("", "", folder / FILE, origin, error)
        return
    half = _half_installed(distribution)
    for point in points:
        found = entries.read(point.group, point.name, point.value, origin, folder / FILE, _find)
        if found is not None and half and not found.broken:
            found = entries.broken(point.group.rpartition(".")[2], point.name, folder / FILE, origin, half)
        if found is not None:
            yield found


def _version(distribution: importlib.metadata.Distribution, folder: Path) -> str:
    """Return the version in the folder's name, `acme-1.0.dist-info`, or else in the metadata."""
    named = folder.stem.split("-")[1:2]
    return named[0] if named else str(distribution.metadata["Version"])


def _half_installed(distribution: importlib.metadata.Distribution) -> str:
    """Return what a distribution lacks, or nothing."""
    try:
        whole = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    except Exception as error:  # as above
        return f"its METADATA cannot be read: {error}"
    return "" if whole else "it is half-installed, without METADATA: install it again"


def _find(top: str) -> tuple[Places, Path | None]:
    return installed(top), None


def _folder(distribution: importlib.metadata.Distribution) -> Path:
    # the name of the folder is there however little is in it; reading METADATA of every distribution takes long
    return Path(str(getattr(distribution, "_path", "unknown")))
