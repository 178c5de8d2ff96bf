"""What Hydra, OmegaConf and torch raise, as one short message: the rule, the value received, the fix."""

from __future__ import annotations

import re
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from framework import plugins, registry
from framework.errors import ConfigError, is_mistake, nearest

LONGEST = 1000
"""Characters of a message, whatever the value that it quotes."""


def explain(error: BaseException) -> str:
    """Return the message for a user's mistake, one short line, or nothing where the error is none."""
    message = " ".join(_explain(error).split("\n"))
    return message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} … {message[-LONGEST // 4 :]}"


def _explain(error: BaseException) -> str:
    if isinstance(error, ConfigError):
        return str(error) + (_broken() if "does not exist" in str(error) else "")
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read: write key=value, lists as [a,b], texts with spaces in quotes."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        kind, _, name = str(error.missing_cfg_file).rpartition("/")
        if kind in registry.KINDS:
            return _explain(_unknown_name(kind, name))
        return f"{kind or 'configuration'} '{name}' does not exist: {nearest(name, error.options or ())}{_broken()}"
    if is_mistake(error):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return ""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        asked = re.match(r"Could not override '([^']+)'", str(error))
        full = str(cause.full_key or cause.key)
        if asked and (missing := _not_chosen(asked[1], full)):
            return missing
        return _unknown_key(full, str(cause.key), dict(cause.parent_node))
    if "Ambiguous value for argument" in str(error):
        word = str(error).splitlines()[0].split()[-1]
        return f"{word} has several values: add -m to run each, or write a list as [a,b]."
    return str(error).splitlines()[0]


def _not_chosen(key: str, absent: str) -> str:
    """Return the message for a setting of a component that is not among those chosen, or nothing.

    `absent` is the key, or the first of those above it, that is not there.
    """
    kind, *words = key.split(".")
    for name in (words[:1], words[:2]):
        named = ".".join(name)
        missing = f"{kind}.{named}.".startswith(f"{absent}.")
        if missing and kind in registry.KINDS and registry.KINDS[kind].plural and registry.exists(kind, named):
            return f"{key}: {kind} '{named}' is not chosen: add {kind}=[{named}]."
    return ""


def _unknown_key(full: str, key: str, siblings: dict[str, Any]) -> str:
    kind = full.partition(".")[0]
    if key in registry.KINDS:
        choice = "[NAME]" if registry.KINDS[key].plural else "NAME"
        return f"no {key} is chosen: add {key}={choice}; {nearest('', registry.components(key))}"
    valid = [k for k in siblings if k not in ("hydra", "name")]
    if full == key:
        valid += [k for k in registry.KINDS if k not in valid]
    owner = f" of {siblings['name']}" if kind in registry.KINDS and "name" in siblings else ""
    return f"{full} is not a setting{owner}: {nearest(key, valid)}"


def _broken() -> str:
    off = [f"{plugins.SWITCH}=off leaves plugins out"] if plugins.is_off() else []
    return "".join(f" ({reason})" for reason in (*off, *plugins.unread()))


def _unknown_name(kind: str, name: str) -> ConfigError:
    try:
        found = registry.find(kind, name)
    except ConfigError as error:
        return error
    return ConfigError(f"{kind} '{name}' is {found.qualified}, which is not on offer here.")
