"""What YAML may not say.

Hydra runs callables that its configuration names (`_target_`, `()` in logging, callbacks), so configuration
files may name components and set values, nothing else. The rule is checked on what Hydra itself has parsed,
in the source it reads files through: however a file is spelled, or reached, what is checked is what is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from framework.errors import ConfigError
from framework.untrusted import check_yaml, read_text

ALLOWED = frozenset({"hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"})
"""Hydra's settings that are plain values; files may set `hydra.sweeper.params` besides."""
PARAMS = "hydra.sweeper.params"
RESERVED = re.compile(r"_[A-Za-z]+_")
"""Hydra's own keys: _target_, _partial_, _args_, ..."""


class CheckedSource(FileConfigSource):
    """A folder of YAML files from which Hydra gets only what the rule lets through."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of its search paths, `checked:///folder`."""
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file. Raises ConfigError where it breaks the rule or is no YAML mapping."""
        file = Path(self.path, self._normalize_file_name(config_path))
        try:
            check_yaml(read_text(file), file)
            result = super().load_config(config_path)
            content = OmegaConf.to_container(result.config, resolve=False)
        except ConfigError:
            raise
        except (YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{file} must be one YAML mapping of settings: {reason}") from error
        refuse(file, config_path, result.header["package"], content)
        if config_path.startswith("experiment/") and result.header["package"] != "_global_":
            raise ConfigError(f"{file} must begin with the line '# @package _global_', as every experiment.")
        return result


def check_folder(folder: Path) -> None:
    """Read every YAML file under a folder, through links too. Raises ConfigError at the first bad one.

    Hydra reads files by the suffix `.yaml` alone.
    """
    source = CheckedSource("check", f"checked://{folder}")
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for file in files:
            if file.endswith(".yaml"):
                source.load_config(os.path.relpath(Path(root, file), folder))


def refuse(file: Path, config_path: str, package: str | None, content: Any) -> None:
    """Raise ConfigError where a parsed file could make Hydra run code."""
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a YAML mapping of settings, got a {type(content).__name__}.")
    if names_hydra(config_path.removesuffix(".yaml")):
        raise ConfigError(_message(file, "it stands where Hydra looks for its own files", "rename it"))
    if package is not None and (names_hydra(package) or "$" in package):
        raise ConfigError(_message(file, f"its package is '{package}'", "use '# @package _global_'"))
    for text in _strings(content.get("defaults")):
        if names_hydra(text) or "${" in text:
            raise ConfigError(_message(file, f"its defaults list says '{text}'", "name components only"))
    for key, value in content.items():
        if key == "hydra":
            _refuse_hydra(file, value, "hydra")
        else:
            _refuse_keys(file, key, value)


def names_hydra(text: str) -> bool:
    """Tell whether a path, package or key has `hydra` as one of its parts."""
    return "hydra" in re.split(r"[^0-9a-z_]+", text.casefold())


def _refuse_hydra(file: Path, value: Any, where: str) -> None:
    if where in ALLOWED and isinstance(value, str):
        return
    if where == PARAMS and isinstance(value, dict):
        for key, swept in value.items():
            if not isinstance(swept, str | int | float) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", str(key)):
                raise ConfigError(_message(file, f"{where} has {key!r}", "sweep settings, by plain values"))
            _refuse_keys(file, key, swept)
        return
    inner = [a for a in (*ALLOWED, PARAMS) if a.startswith(f"{where}.")]
    if not inner or not isinstance(value, dict):
        fix = f"only {', '.join(sorted((*ALLOWED, PARAMS)))} may be set in a file"
        raise ConfigError(_message(file, f"it sets {where}", fix))
    for key, item in value.items():
        _refuse_hydra(file, item, f"{where}.{key}")


def _refuse_keys(file: Path, key: Any, value: Any) -> None:
    if isinstance(key, str) and (RESERVED.fullmatch(key) or names_hydra(key)):
        raise ConfigError(_message(file, f"it has the key '{key}'", "choose components by their names"))
    if isinstance(value, dict):
        for inner, item in value.items():
            _refuse_keys(file, inner, item)
    elif isinstance(value, list):
        for item in value:
            _refuse_keys(file, None, item)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _message(file: Path, fact: str, fix: str) -> str:
    return f"{file}: a configuration file may name components, not code, but {fact}: {fix}."
