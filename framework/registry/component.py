"""What can be chosen by name: its kind, where it is from, and how it is first imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from framework.errors import ConfigError
from framework.registry.source import Signature


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
class Origin:
    """The plugin that a component is of: an installed distribution, a folder or a file of ./plugins."""

    distribution: str
    """The normalised name, as in `pip install acme-lion`; of a single file its stem."""
    version: str
    place: Literal["installed", "folder", "file"]
    api: int = 1
    """The major version of the plugin API that it is for."""
    root: Path | None = None
    """What goes first on `sys.path` when it is loaded."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


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
    origin: Origin | None = None
    """The plugin that it is of; None for the package's own."""
    broken: str = ""
    """Why it cannot be used."""

    @property
    def qualified(self) -> str:
        """The name that no other plugin's component has, `distribution.name`; the package's own have just theirs."""
        return self.name if self.origin is None else f"{self.origin.distribution}.{self.name}"

    def load(self) -> Callable[..., Any]:
        """Import the module and return the class or function; raises ConfigError where a plugin's cannot be had."""
        if self.origin is None:
            return getattr(importlib.import_module(self.module), self.attribute)  # type: ignore[no-any-return]  # a module's attribute is untyped
        where = f"{self.kind} '{self.name}' of {self.origin}"
        if self.broken:
            raise ConfigError(f"{where} is broken: {self.broken}")
        _put_first(self.origin.root)
        try:
            module = importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where}: {self.module} fails to import: {type(error).__name__}: {error}") from error
        file = Path(getattr(module, "__file__", None) or "")
        if self.origin.root is not None and not file.resolve().is_relative_to(self.origin.root):
            raise ConfigError(f"{where}: a module {self.module} has been imported from {file} before it: rename one.")
        if not hasattr(module, self.attribute):
            raise ConfigError(f"{where}: {file} has no {self.attribute}.")
        return getattr(module, self.attribute)  # type: ignore[no-any-return]  # a module's attribute is untyped


def _put_first(folder: Path | None) -> None:
    if folder is not None and sys.path[:1] != [str(folder)]:
        sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
        importlib.invalidate_caches()
