"""Which plugins a run used, and whether they are here when it is loaded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from framework import registry, untrusted
from framework.errors import ConfigError
from framework.registry import KINDS, Component, Origin

ENVIRONMENT = "environment.json"
FIELDS = ("distribution", "version", "place")


def used(names: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return the distribution, version, place and the source's hash of each (kind, name) that is a plugin's."""
    found = [(f"{kind}={name}", registry.find(kind, name)) for kind, name in names]
    return {choice: _record(component, component.origin) for choice, component in found if component.origin}


def _record(component: Component, origin: Origin) -> dict[str, str]:
    about = {"distribution": origin.distribution, "version": origin.version, "place": origin.place}
    return {**about, "sha256": hashlib.sha256(component.path.read_bytes()).hexdigest()}


def settle(directory: Path, content: dict[str, Any]) -> None:
    """Have a run's configuration name the plugins' components that it was trained with, whatever else has come since.

    Says where a plugin is older than it was. Raises ConfigError where one is not here.
    """
    for choice, record in _recorded(directory).items():
        kind, _, name = choice.partition("=")
        was = Origin(record["distribution"], record["version"], record["place"])  # type: ignore[arg-type]  # only printed
        qualified = f"{was.distribution}.{name.rpartition('.')[2]}"
        if kind not in KINDS or not registry.exists(kind, qualified):
            raise ConfigError(f"{directory} was trained with {kind} '{name}' of {was}, which is not here: {_fix(was)}")
        component = registry.find(kind, qualified)
        assert component.origin is not None
        if _is_older(component.origin.version, was.version):
            _say(f"{directory} was trained with {kind} '{name}' of {was}; {component.origin}, which is older, is here")
        known = registry.components(kind).get(name)
        if name != qualified and known is not component:
            _rename(content, kind, name, qualified)


def _recorded(directory: Path) -> dict[str, dict[str, str]]:
    path = directory / ENVIRONMENT
    if not path.exists():
        return {}
    try:
        found = untrusted.read_json(path).get("plugins", {})
        return {str(c): {key: _text(record[key]) for key in FIELDS} for c, record in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} must say of each plugin its distribution, version and place: {error!r}.") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _fix(was: Origin) -> str:
    if was.place == "file":
        return f"put plugins/{was.distribution}.py back."
    install = f"pip install {was.distribution}"
    return f"{install}, or put its folder into ./plugins." if was.place == "folder" else f"{install}."


def _is_older(present: str, recorded: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(present) < Version(recorded)
    except InvalidVersion:
        return False


def _rename(content: dict[str, Any], kind: str, name: str, qualified: str) -> None:
    chosen = content.get(kind)
    if not KINDS[kind].plural and isinstance(chosen, dict) and chosen.get("name") == name:
        chosen["name"] = qualified
    elif KINDS[kind].plural and isinstance(chosen, dict) and name in chosen:
        chosen[qualified] = chosen.pop(name)


@functools.cache
def _say(text: str) -> None:
    """Print a note, once a process."""
    from framework import reporting

    reporting.note(text)
