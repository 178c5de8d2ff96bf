"""Plugins in folders of ./plugins, each read from its own pyproject.toml: publishing one changes nothing in it."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from framework.errors import ConfigError
from framework.plugins import entries
from framework.registry import Component, Origin
from framework.registry.places import NOWHERE, Places, places_of

FILE = "pyproject.toml"


def read(folder: Path, wanted: Container[str]) -> Iterator[Component]:
    """Yield the components of the plugins wanted, by the names of their distributions."""
    for file in sorted(folder.glob(f"*/{FILE}")):
        origin = Origin(entries.normalised(file.parent.name), "", "folder")
        try:
            project = _project(file)
            origin = _origin(project)
            found = list(_read(project, origin, file.absolute()))
        except Exception as error:  # whatever is in a folder, the others are listed
            found = [entries.broken("", "", file, origin, error)]
        if origin.distribution in wanted:
            yield from found


def _project(file: Path) -> dict[str, Any]:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    if not isinstance(project, dict) or not isinstance(project.get("name"), str):
        raise ConfigError(f"{file} has no name under [project]")
    return project


def _origin(project: dict[str, Any]) -> Origin:
    version = project.get("version")
    return Origin(entries.normalised(project["name"]), version if isinstance(version, str) else "0+folder", "folder")


def _read(project: dict[str, Any], origin: Origin, file: Path) -> Iterator[Component]:
    roots = [(places_of(f), f.resolve()) for f in (file.parent, file.parent / "src") if f.is_dir()]

    def find(top: str) -> tuple[Places, Path | None]:
        return next(((places, root) for places, root in roots if top in dict(places.tops)), (NOWHERE, None))

    groups = project.get("entry-points", {})
    if not isinstance(groups, dict) or not all(isinstance(points, dict) for points in groups.values()):
        raise ConfigError(f'{file}: write entry points as [project.entry-points."framework.v1.KIND"]')
    found = [
        component
        for group, points in groups.items()
        for name, value in points.items()
        if (component := entries.read(group, name, value, origin, file, find)) is not None
    ]
    if not found:
        raise ConfigError(f'{file} offers nothing: it has no [project.entry-points."framework.v1.KIND"]')
    yield from found
