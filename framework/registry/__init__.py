"""Name -> factory -> schema: everything that can be chosen by name, and the decorators that name it.

Components are found by reading source, so that listing them, completing them and checking their options
imports neither them nor torch. The signature is the schema: parameters before `*` are handed over at run
time, keyword-only parameters after it are the configuration.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from framework.errors import ConfigError, nearest
from framework.registry.component import KINDS, Component, Kind, Origin
from framework.registry.places import own
from framework.registry.source import MISSING, Option, Signature, decorations, read_module, summary
from framework.registry.values import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    Range,
    Size,
    check_ranges,
    convert,
)

__all__ = [
    "KINDS",
    "MISSING",
    "Component",
    "Count",
    "Fraction",
    "Kind",
    "NonNegative",
    "Option",
    "Origin",
    "Positive",
    "Probability",
    "Range",
    "Signature",
    "Size",
    "build",
    "callback",
    "check_options",
    "common_options",
    "components",
    "convert",
    "data",
    "find",
    "initializer",
    "is_name",
    "loss",
    "metric",
    "model",
    "optimizer",
    "read_signature",
    "regularizer",
    "scheduler",
]

F = TypeVar("F", bound=Callable[..., Any])


_offered: dict[tuple[str, str], Component] = {}
"""The components of plugins, broken ones included, by kind and qualified name."""

_defined: dict[tuple[str, str, str], str] = {}
"""What each name was given to, by kind, name and module, so that a second definition is refused."""


class Decorator:
    """Names a factory: `@loss("focal")` makes it the option `loss=focal`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, name: str) -> Callable[[F], F]:
        """Return the decorator; it refuses a taken name, `*args`, `**kwargs` and untyped options."""
        if not is_name(name):
            raise ConfigError(f"{self.kind} {name!r}: a name is a lower-case identifier, such as 'my_{self.kind}'.")

        def register(factory: F) -> F:
            key = self.kind, name, factory.__module__
            if _defined.setdefault(key, factory.__qualname__) != factory.__qualname__:
                raise ConfigError(
                    f"{self.kind} '{name}' is already defined by {factory.__module__}.{_defined[key]}; "
                    f"{factory.__qualname__} needs another name."
                )
            return _guard(factory, f"{self.kind} '{name}'")

        return register


def _guard(factory: F, where: str) -> F:
    """Make a constructor check the ranges in its own annotations, whoever calls it."""
    is_class = isinstance(factory, type)
    if isinstance(factory, type):
        owner = next(c for c in factory.__mro__ if "__init__" in vars(c))
        if owner is object or owner.__module__.partition(".")[0] == "torch":
            return factory  # no constructor of its own, so no options
    for p in inspect.signature(factory).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(f"{where}: '{p}' hides what can be configured; name each option after a bare '*'.")
        if p.kind is p.KEYWORD_ONLY and p.annotation is p.empty:
            raise ConfigError(f"{where}: option '{p.name}' has no type; write '{p.name}: float = ...'.")
    inner: Callable[..., Any] = factory.__init__ if is_class else factory
    signature = inspect.signature(inner)
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]

    @functools.cache
    def hints() -> dict[str, Any]:
        # of the options alone: a runtime argument's type may be imported for type checkers only
        options = SimpleNamespace(__annotations__={o.name: o.annotation for o in keywords})
        return get_type_hints(options, inspect.unwrap(inner).__globals__, include_extras=True)

    @functools.wraps(inner)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for option, value in kwargs.items():
            if option in signature.parameters:
                check_ranges(value, hints().get(option, Any), f"{where}: {option}")
        return inner(*args, **kwargs)

    if is_class:
        factory.__init__ = checked  # type: ignore[method-assign]  # replaced by its checking form
        return factory
    return checked  # type: ignore[return-value]  # wraps keeps the signature


model = Decorator("model")
data = Decorator("data")
loss = Decorator("loss")
optimizer = Decorator("optimizer")
scheduler = Decorator("scheduler")
initializer = Decorator("initializer")
regularizer = Decorator("regularizer")
metric = Decorator("metric")
callback = Decorator("callback")


def is_name(name: str) -> bool:
    """Tell whether a component may be called so."""
    return name.isidentifier() and name == name.lower()


def read_components(path: Path, module: str) -> Iterator[Component]:
    """Yield the components that a source file defines, without importing it."""
    source = read_module(path)
    for definition in source.definitions.values():
        for kind, name in decorations(definition, frozenset(KINDS)):
            signature = source.signature(definition)
            yield Component(kind, name, module, definition.name, path, summary(definition), signature)


@functools.cache
def _built_in(kind: str) -> dict[str, Component]:
    package = KINDS[kind].package
    home = own().source(package)
    assert home is not None, package
    found: dict[str, Component] = {}
    for path in sorted(home.parent.glob("*.py")):
        module = package if path == home else f"{package}.{path.stem}"
        found |= {c.name: c for c in read_components(path, module) if c.kind == kind}
    return dict(sorted(found.items()))


def offer(found: Iterable[Component]) -> None:
    """Offer the components of plugins, in place of those offered before."""
    _offered.clear()
    for component in found:
        _offered.setdefault((component.kind, component.qualified), component)


def components(kind: str) -> dict[str, Component]:
    """Return everything on offer of a kind, by name, in alphabetical order.

    A plugin's has its plain name, unless that is a built-in one's or several plugins'; then it is `distribution.name`.
    """
    built_in = _built_in(kind)
    usable = [c for (k, _), c in _offered.items() if k == kind and not c.broken]
    names = [c.name for c in usable]
    plain = {c.name for c in usable if names.count(c.name) == 1 and c.name not in built_in}
    added = {c.name if c.name in plain else c.qualified: c for c in usable}
    return dict(sorted((added | built_in).items()))


def qualified(kind: str) -> dict[str, Component]:
    """Return the usable components of plugins by the names that they have in any case, `distribution.name`."""
    return {name: c for (k, name), c in _offered.items() if k == kind and not c.broken}


def exists(kind: str, name: str) -> bool:
    """Tell whether there is a component of this plain or qualified name, usable or broken."""
    return (kind, name) in _offered or (kind in KINDS and name in components(kind))


def find(kind: str, name: str) -> Component:
    """Return one component by its plain name or as `distribution.name`.

    Raises ConfigError with the nearest name, the reason why it is broken, or the names of those that share it.
    """
    known = components(kind)
    found = known.get(name) or _offered.get((kind, name))
    if found is None:
        of_name = [c for (k, _), c in _offered.items() if k == kind and c.name == name]
        usable = [c.qualified for c in of_name if not c.broken]
        if len(usable) > 1:
            raise ConfigError(f"{kind} '{name}' is of several plugins: choose {' or '.join(sorted(usable))}.")
        if not of_name:
            raise ConfigError(f"{kind} '{name}' does not exist: {nearest(name, known)}")
        found = of_name[0]
    if found.broken:
        raise ConfigError(f"{kind} '{name}' of {found.origin} is broken: {found.broken}")
    return found


def read_signature(target: str) -> Signature:
    """Read the signature of `module:class` of this package from its source."""
    module, _, name = target.partition(":")
    path = own().source(module)
    assert path is not None, target
    source = read_module(path)
    return source.signature(source.definitions[name])


def common_options(kind: str) -> tuple[Option, ...]:
    """Return the options that every component of a kind has."""
    target = KINDS[kind].common
    return read_signature(target).options if target else ()


def check_options(options: tuple[Option, ...], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the given values in their options' types, defaults filled in.

    Raises ConfigError for an unknown key, a missing value, a wrong type or a number out of range.
    """
    known = {o.name: o for o in options}
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not a setting: {nearest(str(key), known)}")
    checked: dict[str, Any] = {}
    for option in options:
        value = given.get(option.name, option.default)
        if value is MISSING or value == "???":
            raise ConfigError(f"{where}.{option.name} is required: set {where}.{option.name}=...")
        checked[option.name] = convert(value, option.annotation, f"{where}.{option.name}")
    return checked


def build(kind: str, name: str, options: Mapping[str, Any], *, runtime: Mapping[str, Any] | None = None) -> Any:
    """Make a component: its options checked, and of `runtime` what its signature names before `*`."""
    component = find(kind, name)
    where = f"{kind}.{name}" if KINDS[kind].plural else kind
    keywords = check_options(component.signature.options, options, where)
    offered = runtime or {}
    missing = [p for p in component.signature.runtime if p not in offered]
    if missing:
        raise ConfigError(
            f"{kind} '{name}' asks for '{missing[0]}', which a {kind} is not given: {nearest(missing[0], offered)}"
        )
    return component.load()(*(offered[p] for p in component.signature.runtime), **keywords)
