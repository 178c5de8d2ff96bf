"""Home of single plugin files: `./plugins/focal.py` is the module `framework.plugins.files.focal`.

Being found by Python's own import, their classes pickle, and a spawned process finds them again.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from pathlib import Path

from framework import registry
from framework.errors import ConfigError
from framework.plugins.entries import broken, normalised
from framework.registry import Component, Origin
from framework.registry.source import decorations, read_module, summary

__path__ = [str(Path("plugins").absolute())]


def read(folder: Path, wanted: Container[str]) -> Iterator[Component]:
    """Yield the components of a folder's files wanted, by their stems; they are imported from there from now on."""
    _move(folder.absolute())
    for path in sorted(folder.glob("*.py")):
        if normalised(path.stem) in wanted:
            yield from _read_file(path, Origin(path.stem, "", "file"))


def _read_file(path: Path, origin: Origin) -> Iterator[Component]:
    try:
        source = read_module(path.absolute())
    except Exception as error:  # whatever is in a file, the others are listed
        yield broken("", "", path, origin, error)
        return
    known: set[tuple[str, str]] = set()
    for definition in source.definitions.values():
        for kind, name in decorations(definition, frozenset(registry.KINDS)):
            try:
                _check(path, kind, name, (kind, name) in known)
                signature = source.signature(definition)
            except Exception as error:  # as above
                yield broken(kind, name, path, origin, error)
                continue
            known.add((kind, name))
            module = f"{__name__}.{path.stem}"
            yield Component(kind, name, module, definition.name, source.path, summary(definition), signature, origin)


def _check(path: Path, kind: str, name: str, taken: bool) -> None:
    if not path.stem.isidentifier():
        raise ConfigError(f"a module cannot be called {path.name}: rename it")
    if not registry.is_name(name):
        raise ConfigError(f"{path}: {kind} {name!r}: a name is a lower-case identifier, such as 'my_{kind}'")
    if taken:
        raise ConfigError(f"{path} has {kind} '{name}' twice: give one another name")


def _move(folder: Path) -> None:
    """Import from another folder; what came from the one before is forgotten."""
    if __path__ == [str(folder)]:
        return
    __path__[:] = [str(folder)]
    for name in [name for name in sys.modules if name.startswith(f"{__name__}.")]:
        del sys.modules[name]
