"""From an entry point to a component, by reading source."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from framework.errors import ConfigError, nearest
from framework.registry import KINDS, Component, Origin, Signature, is_name
from framework.registry.places import Places
from framework.registry.source import decorations, read_module, summary

API = 1
"""The major version of the plugin API, as it stands in the names of entry-point groups."""

GROUP = re.compile(r"framework\.v(\d+)\.(\w+)")
CONF = "conf"
"""The group of folders of YAML: what stands in its place for a kind."""

VALUE = re.compile(r"([\w.]+)\s*:\s*(\w+)\s*(\[.*\])?\s*")
"""The value of an entry point: `module:attribute`."""

Finder = Callable[[str], tuple[Places, Path | None]]
"""Where a top-level module is, and what goes on sys.path to import it."""


def normalised(name: str) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def broken(kind: str, name: str, path: Path, origin: Origin, reason: str | BaseException) -> Component:
    """Return what cannot be used, for the list, with the reason."""
    if isinstance(reason, BaseException):
        text = str(reason) if isinstance(reason, ConfigError) else f"{type(reason).__name__}: {reason}"
        reason = " ".join(text.split())
    return Component(kind, name, "", "", path, "", Signature((), ()), origin, reason.removesuffix("."))


def read(group: str, name: str, value: object, origin: Origin, path: Path, find: Finder) -> Component | None:
    """Return the component of an entry point, broken with the reason where it is none; None for another group.

    `path` is the file that the entry point stands in, `find` says where its modules are.
    """
    matched = GROUP.fullmatch(group)
    if matched is None:
        return None
    api, kind = int(matched[1]), matched[2]
    if api != API:
        origin = Origin(origin.distribution, origin.version, origin.place, api)
        fix = f"install a version of {origin.distribution} for v{API}, or a newer chainrule"
        return broken(kind, name, path, origin, f"it is for plugin API v{api}; this is v{API}: {fix}")
    try:
        if kind == CONF:
            return _folder(name, value, origin, find)
        return _component(kind, name, value, origin, find)
    except Exception as error:  # whatever is in its source, the others are listed
        return broken(kind, name, path, origin, error)


def _component(kind: str, name: str, value: object, origin: Origin, find: Finder) -> Component:
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of component '{kind}': {nearest(kind, (*KINDS, CONF))}")
    if not is_name(name):
        raise ConfigError(f"{kind} {name!r}: a name is a lower-case identifier, such as 'my_{kind}'")
    matched = VALUE.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        raise ConfigError(f"the entry point {name} = {value!r} must be of the form 'module:Class'")
    module, attribute = matched[1], matched[2]
    places, root = find(module.partition(".")[0])
    file = places.source(module)
    if file is None:
        raise ConfigError(f"the module {module} is not there, or has no Python source")
    found = read_module(file.resolve(), places).find(attribute)
    if found is None or found[1] not in found[0].definitions:
        raise ConfigError(f"{file} has no class or function {attribute} that can be read")
    source, definition = found[0], found[0].definitions[found[1]]
    names = decorations(definition, frozenset(KINDS))
    if names and (kind, name) not in names:
        said = ", ".join(f"@{k}({n!r})" for k, n in names)
        where = f"{source.path}:{definition.lineno}"
        raise ConfigError(f"{where}: {attribute} is decorated {said}, and its entry point is {kind} '{name}'")
    origin = Origin(origin.distribution, origin.version, origin.place, root=root)
    return Component(
        kind, name, module, attribute, source.path, summary(definition), source.signature(definition), origin
    )


def _folder(name: str, value: object, origin: Origin, find: Finder) -> Component:
    if not isinstance(value, str) or not re.fullmatch(r"\w+(\.\w+)*", value):
        raise ConfigError(f"the entry point {name} = {value!r} must be a dotted package, such as 'acme.conf'")
    folder = find(value.partition(".")[0])[0].folder(value)
    if folder is None:
        raise ConfigError(f"the folder {value} is not there")
    return Component(CONF, name, value, "", folder.resolve(), "", Signature((), ()), origin)
