"""The shape of a run: what is chosen, with every option checked and every default filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from framework import registry, untrusted
from framework.errors import ConfigError, nearest
from framework.plugins import records
from framework.registry import KINDS, MISSING, Size, convert

SECTIONS = {
    "trainer": "framework.trainer.settings:Settings",
    "checkpoint": "framework.checkpoint.options:CheckpointOptions",
}
"""The settings that no component has, by their first word, and the class whose options they are."""

SINGLE = tuple(kind for kind in KINDS if not KINDS[kind].plural)
PLURAL = tuple(kind for kind in KINDS if KINDS[kind].plural)


@dataclass(frozen=True)
class Choice:
    """A component by name: its own options, and those that every component of its kind has."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return the choice in the shape of the YAML."""
        return {"name": self.name, **self.options, **self.common}


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is configured with, as plain values."""

    name: str
    seed: int
    overwrite: bool
    model: Choice
    data: Choice
    loss: Choice
    optimizer: Choice
    scheduler: Choice
    initializer: Choice | None
    regularizer: dict[str, dict[str, Any]]
    metric: dict[str, dict[str, Any]]
    callback: dict[str, dict[str, Any]]
    trainer: dict[str, Any]
    checkpoint: dict[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        """Return the complete configuration in the shape of the YAML; `parse` takes it back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {kind: _nested(values[kind]) for kind in PLURAL}
        return {key: _plain(v.to_mapping() if isinstance(v, Choice) else v) for key, v in values.items()}

    def names(self) -> list[tuple[str, str]]:
        """Return the kind and the name of each component that is chosen."""
        chosen = {kind: getattr(self, kind) for kind in KINDS}
        return [(k, n) for k, c in chosen.items() for n in (c if isinstance(c, dict) else [c.name] if c else [])]


def parse(mapping: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration: every key, type and range.

    Raises ConfigError naming the key, the rule and the value received, or the nearest key that exists.
    """
    known = {f.name for f in fields(RunConfig)}
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{key} is not a setting: {nearest(str(key), known)}")
    chosen: dict[str, Any] = {kind: _choice(kind, mapping.get(kind)) for kind in SINGLE}
    chosen |= {kind: _choices(kind, mapping.get(kind)) for kind in PLURAL}
    chosen |= {section: _section(section, mapping.get(section, {})) for section in SECTIONS}
    return RunConfig(
        name=convert(mapping.get("name", ""), str, "name"),
        seed=convert(mapping.get("seed", 0), Size, "seed"),
        overwrite=convert(mapping.get("overwrite", False), bool, "overwrite"),
        **chosen,
    )


def read(directory: Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read the configuration of a run's folder, with values changed by dotted key."""
    path = directory / "config.yaml"
    try:
        content = untrusted.read_yaml(path)
    except OSError as error:
        raise ConfigError(f"run={directory} is not the folder of a run: {path.name}: {error.strerror}.") from None
    content = _mapping(content, str(path))
    for key, value in {**accepted(directory), **(changes or {})}.items():
        node: Any = content
        *parents, last = key.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            node = node if isinstance(node, dict) else content
            raise ConfigError(f"{key} is not a setting of this run: {nearest(last, node)}")
        node[last] = value
    records.settle(directory, content)
    return parse(content)


def accepted(directory: Path) -> dict[str, Any]:
    """Return what was changed when a run was resumed, by dotted key; ConfigError where resumed.json is none."""
    path = directory / "resumed.json"
    if not path.exists():
        return {}
    try:
        resumes = untrusted.read_json_value(path)
        return {key: value for resumed in resumes for key, value in resumed["changes"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no list of the run's resumes: {error}.") from None


def differences(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return each setting that differs between two configurations of the same components, by dotted key."""
    old, new = (dict(_leaves(config.to_mapping())) for config in (before, after))
    return {key: (old.get(key), value) for key, value in new.items() if old.get(key) != value}


def settings_of(config: RunConfig) -> list[str]:
    """Return the dotted keys of a configuration's settings."""
    return [key for key, _ in _leaves(config.to_mapping())]


def _leaves(mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings by dotted key; an option that is a mapping itself is one setting."""
    for key, value in mapping.items():
        if key in PLURAL:
            chosen = _unnested(key, value)
            yield from ((f"{key}.{name}.{o}", v) for name, options in chosen for o, v in options.items())
        elif isinstance(value, dict):
            yield from ((f"{key}.{option}", v) for option, v in value.items())
        else:
            yield key, value


def default_values(kind: str, name: str) -> dict[str, Any]:
    """Return the options of a component with their defaults, as the node that Hydra composes; ??? has none."""
    options = registry.find(kind, name).signature.options + registry.common_options(kind)
    return _defaults(options)


def section_defaults(section: str) -> dict[str, Any]:
    """Return the settings of a section, such as `trainer`, with their defaults."""
    return _defaults(registry.read_signature(SECTIONS[section]).options)


def _defaults(options: tuple[registry.Option, ...]) -> dict[str, Any]:
    return {o.name: "???" if o.default is MISSING else _plain(o.default) for o in options}


def _section(name: str, value: Any) -> dict[str, Any]:
    return registry.check_options(registry.read_signature(SECTIONS[name]).options, _mapping(value, name), name)


def _choice(kind: str, value: Any) -> Choice | None:
    if value is None and kind == "initializer":
        return None
    given = dict(_mapping(value, kind))
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{kind} is required: {kind}=... {nearest('', registry.components(kind))}")
    own = registry.find(kind, name).signature.options
    common = registry.common_options(kind)
    checked = registry.check_options(own + common, given, kind)
    return Choice(name, {o.name: checked[o.name] for o in own}, {o.name: checked[o.name] for o in common})


def _choices(kind: str, value: Any) -> dict[str, dict[str, Any]]:
    checked = {}
    for name, given in _unnested(kind, _mapping({} if value is None else value, kind)):
        options = registry.find(kind, name).signature.options
        where = f"{kind}.{name}"
        checked[name] = registry.check_options(options, _mapping({} if given is None else given, where), where)
    return checked


def _nested(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by name as YAML has them: those of `distribution.name` under two keys."""
    nested: dict[str, Any] = {}
    for name, options in chosen.items():
        distribution, _, rest = name.partition(".")
        if rest:
            nested[distribution] = {**nested.get(distribution, {}), rest: options}
        else:
            nested[name] = {**nested.get(name, {}), **options}
    return nested


def _unnested(kind: str, chosen: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names that YAML has under one key or two, and their options."""
    for name, given in chosen.items():
        inner = {
            key: options
            for key, options in (given.items() if isinstance(given, Mapping) else ())
            if isinstance(options, Mapping | None) and registry.exists(kind, f"{name}.{key}")
        }
        yield from ((f"{name}.{key}", options) for key, options in inner.items())
        rest = {key: option for key, option in given.items() if key not in inner} if inner else given
        if rest or not inner:
            yield name, rest


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping of settings, got {value!r}.")
    return dict(value)


def _plain(value: Any) -> Any:
    """Return a value made of what YAML and JSON have."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
