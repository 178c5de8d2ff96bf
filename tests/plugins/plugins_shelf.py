"""Distributions as pip leaves them, and folders of plugins, without pip."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from framework import plugins, registry

LOSS = '''
from framework.registry import Positive, loss

@loss("{name}")
class Scaled:
    """A loss."""

    def __init__(self, *, scale: Positive = 1.0) -> None:
        self.scale = scale

    def __call__(self, prediction, target):
        return self.scale * ((prediction - target) ** 2).mean()
'''


class Shelf:
    """A folder to work in, and one of installed distributions on `sys.path`."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.site = here / "site"
        self.site.mkdir()

    def install(self, name: str, points: str, modules: Mapping[str, str], version: str = "1.0") -> Path:
        """Write a distribution's modules by file, and its dist-info, which is returned."""
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(points)
        write(self.site, modules)
        return info

    def folder(self, name: str, project: str, modules: Mapping[str, str]) -> Path:
        """Write a folder of ./plugins with this pyproject.toml."""
        folder = self.here / "plugins" / name
        write(folder, {"pyproject.toml": project, **modules})
        return folder

    def file(self, name: str, source: str) -> Path:
        """Write a file of ./plugins."""
        write(self.here / "plugins", {name: source})
        return self.here / "plugins" / name

    def found(self) -> dict[str, registry.Component]:
        """Return what is found, as `kind=distribution.name`."""
        return {f"{c.kind}={c.qualified}": c for c in plugins.discover().components}


def write(folder: Path, contents: Mapping[str, str]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def point(kind: str, name: str, value: str) -> str:
    """Return entry_points.txt of one component."""
    return f"[framework.v1.{kind}]\n{name} = {value}\n"


def project(name: str, kind: str, component: str, value: str, version: str = 'version = "1.0"') -> str:
    """Return pyproject.toml of one component."""
    points = f'[project.entry-points."framework.v1.{kind}"]\n{component} = "{value}"\n'
    return f'[project]\nname = "{name}"\n{version}\n{points}'


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRAMEWORK_PLUGINS", raising=False)
    made = Shelf(tmp_path)
    monkeypatch.setattr(sys, "path", [str(made.site), *sys.path])
    yield made
    plugins.found.components, plugins.found.replaced, plugins.found.notes = [], [], []
    registry.offer([])
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
