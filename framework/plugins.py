"""Components outside the package: single files in ./plugins, read without being imported."""

from __future__ import annotations

import os
from pathlib import Path

from framework import registry
from framework.errors import ConfigError

broken: dict[Path, str] = {}
"""Plugin files that could not be read, and why."""


def discover(folder: Path = Path("plugins")) -> None:
    """Offer the components of `./plugins/*.py`; FRAMEWORK_PLUGINS=off leaves them out.

    A file that cannot be read, or takes a name that is taken, is noted in `broken` and stops nobody else's.
    """
    if os.environ.get("FRAMEWORK_PLUGINS") == "off" or not folder.is_dir():
        return
    for path in sorted(folder.glob("*.py")):
        try:
            for component in registry.read_components(path.resolve(), f"framework_plugins.{path.stem}"):
                registry.add(component)
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            broken[path] = str(error)
