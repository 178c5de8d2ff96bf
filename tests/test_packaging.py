"""What a wheel holds."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_and_every_folder_of_configuration_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {p.parent.relative_to(ROOT) for p in (ROOT / "framework").rglob("__init__.py")}
    folders = {Path("framework") / p.parent.relative_to(ROOT) for p in (ROOT / "conf").rglob("*.yaml")}
    assert set(listed) == {".".join(p.parts) for p in packages | folders}
