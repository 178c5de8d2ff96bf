"""Where the source of a module is, found without importing anything."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Top-level modules that may be read, each with its file or its folders."""

    tops: tuple[tuple[str, tuple[Path, ...]], ...] = ()

    def source(self, module: str) -> Path | None:
        """Return the file of a module, or None where it is not among these or has no source."""
        found = (path for base in self._bases(module) for path in _candidates(base))
        return next((path for path in found if path.is_file()), None)

    def folder(self, package: str) -> Path | None:
        """Return the folder of a package, which need not have an `__init__.py`."""
        return next((base for base in self._bases(package) if base.is_dir()), None)

    def _bases(self, module: str) -> Iterable[Path]:
        top, *rest = module.split(".")
        for base in dict(self.tops).get(top, ()):
            yield base.joinpath(*rest)


NOWHERE = Places()


def _candidates(base: Path) -> tuple[Path, ...]:
    return (base,) if base.suffix == ".py" else (base.with_name(f"{base.name}.py"), base / "__init__.py")


def places_of(folder: Path) -> Places:
    """Return the top-level modules of a folder."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and path.is_file():
            found.setdefault(path.stem, (path,))
        elif path.is_dir() and path.name.isidentifier() and path.name != "__pycache__":
            found[path.name] = (path,)
    return Places(tuple(found.items()))


def installed(top: str) -> Places:
    """Return where a top-level module would be imported from; nowhere, where it is not installed or has no source."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return NOWHERE
    if spec is None:
        return NOWHERE
    folders = spec.submodule_search_locations
    found = [Path(p) for p in folders] if folders is not None else [Path(spec.origin or "")]
    return Places(((top, tuple(p for p in found if p.is_dir() or p.suffix == ".py")),))


@functools.cache
def own() -> Places:
    """Return where this package is."""
    return installed("framework")


def beside(file: Path, level: int, module: str) -> Path | None:
    """Return the file of a module that `from ..module import` names in a file, `level` dots up."""
    above = file.parents[level - 1] if level <= len(file.parents) else file.parent
    base = above.joinpath(*module.split(".")) if module else above
    found = (base / "__init__.py",) if not module else _candidates(base)
    return next((path for path in found if path.is_file()), None)
