"""Name -> factory -> schema: everything that can be chosen by name, and the decorators that name it.

Components are found by reading source, so that listing them, completing them and checking their options
imports neither them nor torch. The signature is the schema: parameters before `*` are handed over at run
time, keyword-only parameters after it are the configuration.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from framework.errors import ConfigError, nearest
from framework.registry.source import MISSING, Option, Signature, find_source, read_module, summary
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
    "NonNegative",
    "Option",
    "Positive",
    "Probability",
    "Range",
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
    "loss",
    "metric",
    "model",
    "optimizer",
    "read_signature",
    "regularizer",
    "scheduler",
]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kind:
    """One kind of component: its decorator's word is its Hydra group."""

    name: str
    package: str
    """Where the built-in ones are."""
    plural: bool = False
    """Several may be chosen; each one's options stand under its own name."""
    common: str = ""
    """`module:class` of the options that every component of the kind has besides its own."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("model", "framework.models"),
        Kind("data", "framework.datasets", common="framework.batching.options:BatchOptions"),
        Kind("loss", "framework.losses"),
        Kind("optimizer", "framework.optimizers", common="framework.parameters:GroupOptions"),
        Kind("scheduler", "framework.schedulers"),
        Kind("initializer", "framework.initializers"),
        Kind("regularizer", "framework.regularizers", plural=True),
        Kind("metric", "framework.metrics", plural=True),
        Kind("callback", "framework.callbacks", plural=True),
    )
}


@dataclass(frozen=True)
class Component:
    """Something that can be chosen by name; `load` is what first imports it."""

    kind: str
    name: str
    module: str
    attribute: str
    path: Path
    summary: str
    signature: Signature = field(repr=False)

    def load(self) -> Callable[..., Any]:
        """Import the module and return the class or function; raises ConfigError where a plugin's import fails."""
        if self.module.partition(".")[0] == "framework":
            module = importlib.import_module(self.module)
        else:
            try:
                module = _import_file(self.module, self.path)
            except Exception as error:
                raise ConfigError(
                    f"{self.kind} '{self.name}': {self.path} fails to import: {type(error).__name__}: {error}"
                ) from error
        return getattr(module, self.attribute)  # type: ignore[no-any-return]  # a module's attribute is untyped


_added: dict[tuple[str, str], Component] = {}
"""Components outside the package: those of plugin files, by (kind, name)."""

_defined: dict[tuple[str, str], str] = {}
"""Where each name was defined in this process, so that a second definition is refused."""


class Decorator:
    """Names a factory: `@loss("focal")` makes it the option `loss=focal`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, name: str) -> Callable[[F], F]:
        """Return the decorator; it refuses a taken name, `*args`, `**kwargs` and untyped options."""
        if not name.isidentifier() or name != name.lower():
            raise ConfigError(f"{self.kind} {name!r}: a name is a lower-case identifier, such as 'my_{self.kind}'.")

        def register(factory: F) -> F:
            home = f"{factory.__module__}.{factory.__qualname__}"
            if _defined.setdefault((self.kind, name), home) != home:
                raise ConfigError(
                    f"{self.kind} '{name}' is already defined by {_defined[self.kind, name]}; "
                    f"{home} needs another name."
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

    @functools.cache
    def hints() -> dict[str, Any]:
        return get_type_hints(inner, include_extras=True)

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


def read_components(path: Path, module: str) -> Iterator[Component]:
    """Yield the components that a source file defines, without importing it."""
    source = read_module(path)
    for kind, name, definition in source.decorated(frozenset(KINDS)):
        yield Component(kind, name, module, definition.name, path, summary(definition), source.signature(definition))


@functools.cache
def _built_in(kind: str) -> dict[str, Component]:
    package = KINDS[kind].package
    home = find_source(package)
    if home is None:
        return {}
    files = sorted(home.parent.glob("*.py")) if home.name == "__init__.py" else [home]
    found: dict[str, Component] = {}
    for path in files:
        module = package if path == home else f"{package}.{path.stem}"
        found |= {c.name: c for c in read_components(path, module) if c.kind == kind}
    return dict(sorted(found.items()))


def add(component: Component) -> None:
    """Offer a component from outside the package; raises ConfigError where its name is taken."""
    taken = _built_in(component.kind).get(component.name) or _added.get((component.kind, component.name))
    if taken is not None and taken.path != component.path:
        raise ConfigError(f"{component.kind} '{component.name}' is taken by {taken.module}; give it another name.")
    _added[component.kind, component.name] = component


def components(kind: str) -> dict[str, Component]:
    """Return everything on offer of a kind, by name, in alphabetical order."""
    added = {name: c for (k, name), c in _added.items() if k == kind}
    return dict(sorted((added | _built_in(kind)).items()))


def find(kind: str, name: str) -> Component:
    """Return one component, or raise ConfigError with the nearest name."""
    known = components(kind)
    if name not in known:
        raise ConfigError(f"{kind} '{name}' does not exist: {nearest(name, known)}")
    return known[name]


def read_signature(target: str) -> Signature:
    """Read the signature of `module:class` of this package from its source."""
    module, _, name = target.partition(":")
    path = find_source(module)
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


def _import_file(module: str, path: Path) -> Any:
    if module in sys.modules:
        return sys.modules[module]
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[module]
        raise
    return loaded
