"""Hydra's side of the configuration: what can be chosen, where files are found, how Hydra itself is set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

import framework
from framework import config, plugins, registry
from framework.cli.yaml_rule import CheckedSource, check_folder
from framework.errors import ConfigError, nearest

HYDRA: dict[str, Any] = {
    "defaults": [
        {"override /hydra/job_logging": "none"},
        {"override /hydra/hydra_logging": "none"},
        {"override /hydra/launcher": "framework"},
    ],
    "hydra": {
        "run": {"dir": "runs/${now:%Y-%m-%d}/${now:%H-%M-%S}-${name}"},
        "sweep": {"dir": "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}", "subdir": "${hydra.job.num}"},
        "output_subdir": None,
        "job": {"chdir": False, "name": "framework"},
    },
}
"""Hydra's own settings, which no YAML file may change."""

_folders: list[Path] = []
_of_plugins: list[Path] = []


def packaged() -> Path:
    """Return the packaged configuration: inside the wheel, or beside the package in a checkout."""
    home = Path(framework.__file__).parent
    return next(p for p in (home / "conf", home.parent / "conf") if (p / "train.yaml").is_file())


class Folders(SearchPathPlugin):
    """Puts the user's folders before the packaged one, so that their files win, and the plugins' after it.

    All are behind the rule for YAML.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Serve every folder by `CheckedSource`, the most specific first."""
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{CheckedSource.scheme()}://{element.path}"
        for folder in reversed(_folders):
            search_path.prepend("user", f"{CheckedSource.scheme()}://{folder}")
        for folder in _of_plugins:
            search_path.append("plugin", f"{CheckedSource.scheme()}://{folder}")


def prepare(config_dir: Path | None = None) -> Path:
    """Offer every component to Hydra, check every YAML file that it may read, and return the packaged folder."""
    plugins.discover()
    home = packaged().resolve()
    candidates = [config_dir, Path("conf") if Path("conf").is_dir() else None]
    _folders[:] = [f.resolve() for f in candidates if f is not None and f.resolve() != home]
    for folder in (home, *_folders):
        check_folder(folder)
    offer_conf()
    store = ConfigStore.instance()
    for kind in registry.KINDS.values():
        names = set(registry.components(kind.name))
        if "COMP_LINE" not in os.environ:  # TAB offers each component once
            names |= registry.qualified(kind.name).keys()
        for name in sorted(names):
            _offer(store, kind, name)
    root = {"name": "${data.name}-${model.name}", "seed": 0, "overwrite": False}
    root |= {section: config.section_defaults(section) for section in config.SECTIONS}
    store.store(name="base", node=root, provider="framework")
    store.store(name="settings", node=HYDRA, package="_global_", provider="framework")
    Plugins.instance().register(CheckedSource)
    Plugins.instance().register(Folders)
    return home


def offer_conf() -> None:
    """Check the YAML that plugins bring; what is wrong with one's leaves out that plugin's alone."""
    for component in plugins.conf_folders():
        try:
            check_folder(component.path)
            _refuse_others(component)
        except ConfigError as error:
            plugins.leave_out(component, str(error))
    _of_plugins[:] = [component.path for component in plugins.conf_folders()]


def _refuse_others(conf: registry.Component) -> None:
    """Refuse files that would take the place of a component that is not the plugin's own."""
    for kind in registry.KINDS:
        for path in sorted((conf.path / kind).glob("*.yaml")):
            taken = registry.components(kind).get(path.stem)
            if taken and _distribution(taken) != _distribution(conf):
                raise ConfigError(f"{path} would replace {kind} '{path.stem}', which is not its own: rename it")


def _distribution(component: registry.Component) -> str | None:
    return component.origin.distribution if component.origin else None


def options_of(group: str) -> list[str]:
    """Return the names that a group offers: registered components, and YAML files of any folder."""
    folders = (packaged(), *_folders, *_of_plugins)
    files = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(files | set(registry.components(group) if group in registry.KINDS else ()))


def composed(overrides: list[str], config_dir: Path | None) -> DictConfig:
    """Compose one run's configuration, without a folder for it."""
    home = prepare(config_dir)
    with plain_errors(), initialize_config_dir(str(home), version_base="1.3"):
        return compose("train", [*overrides, "hydra/launcher=basic"])


def _offer(store: ConfigStore, kind: registry.Kind, name: str) -> None:
    # a mapping among the options is free to take any key
    options = config.default_values(kind.name, name)
    node = {k: OmegaConf.create(v, flags={"struct": False}) if isinstance(v, dict) else v for k, v in options.items()}
    if kind.plural:
        store.store(group=kind.name, name=name, node=node, package=f"{kind.name}.{name}", provider="framework")
    else:
        store.store(group=kind.name, name=name, node={"name": name, **node}, provider="framework")


def split_flags(arguments: list[str]) -> tuple[list[str], Path | None, list[str]]:
    """Return Hydra's flags, the folder of --config-dir, and the overrides; raises ConfigError for anything else."""
    flags: list[str] = []
    folder: Path | None = None
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            given = value or next(rest, "")
            folder = Path(given)
            if not given or not folder.is_dir():
                raise ConfigError(f"--config-dir needs a folder, got '{given}'.")
        elif flag in ("--shell-completion", "-sc"):
            flags += [*argument.split(maxsplit=1), *rest]
        elif flag in ("--cfg", "-c", "--package", "-p", "--info", "-i"):
            flags += [argument] if value else [argument, next(rest, "")]
        elif argument in ("--help", "-h", "--multirun", "-m", "--resolve", "--hydra-help"):
            flags.append(argument)
        else:
            overrides += _without_null(check_override(argument))
    return flags, folder, overrides


def _without_null(override: str) -> list[str]:
    """Return an override that chooses nothing in the form that Hydra has for it."""
    key, _, value = override.partition("=")
    if value != "null" or key not in (*registry.KINDS, "experiment"):
        return [override]
    if key == "experiment":
        return []
    if registry.KINDS[key].plural:
        return [f"{key}=[]"]
    if key != "initializer":
        raise ConfigError(f"a run needs a {key}: {nearest('', registry.components(key))}")
    return [f"~{key}"]


def check_override(argument: str) -> str:
    """Return an override of the form key=value; raises ConfigError for any other."""
    key, _, value = argument.partition("=")
    kind, _, rest = key.partition(".")
    if argument.startswith("-"):
        raise ConfigError(f"'{argument}' is no flag of framework: framework --help lists what there is.")
    if "=" not in argument or argument.startswith("~"):
        raise ConfigError(f"'{argument}' is no override: write key=value, such as optimizer.lr=0.01.")
    if argument.startswith("+"):
        raise ConfigError(
            f"'{argument}': settings cannot be added; write {argument.lstrip('+')} for one that exists "
            f"(framework --help lists them)."
        )
    if kind in registry.KINDS and rest == "name":
        raise ConfigError(f"'{argument}': choose a {kind} by {kind}={value}.")
    names = [name.strip() for name in value.strip("[] ").split(",")]
    if key in registry.KINDS and value.startswith("[") and value.count("[") == 1 and len(set(names)) < len(names):
        raise ConfigError(f"'{argument}' names one twice: name each once.")
    if key.startswith("hydra.searchpath"):
        raise ConfigError("hydra.searchpath cannot be set: give a folder of configuration by --config-dir DIR.")
    return argument


def take_paths(arguments: list[str], *names: str) -> tuple[dict[str, Path], list[str]]:
    """Return the arguments name=PATH as they are written, whatever their characters, and the other arguments."""
    found = {name: path for name, _, path in (a.partition("=") for a in arguments) if name in names and path}
    return {n: Path(p).expanduser() for n, p in found.items()}, [
        a for a in arguments if a.partition("=")[0] not in names
    ]


def values_of(overrides: list[str]) -> dict[str, Any]:
    """Return key=value arguments as typed values, in Hydra's own grammar."""
    parsed = OverridesParser.create().parse_overrides([check_override(o) for o in overrides])
    return {override.key_or_group: override.value() for override in parsed}


@contextmanager
def plain_errors() -> Iterator[None]:
    """Have Hydra raise what went wrong in place of printing it and exiting: its documented switch."""
    # a user's file in place of a packaged option's is what we promise
    warnings.filterwarnings("ignore", message=r"\s.*is validated against ConfigStore schema with the same name")
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
