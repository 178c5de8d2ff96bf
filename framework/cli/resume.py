"""framework resume=DIR: a run goes on in its own folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from framework import config, plugins, registry, untrusted
from framework.cli import USAGE, collector, composition
from framework.cli.train import EXITS, train
from framework.config import RunConfig
from framework.errors import ConfigError, Exit, nearest
from framework.signals import listen

AUTO = Path("auto")
RUNS = "runs"
"""Where runs are, unless hydra.run.dir says otherwise."""

ENDED = ("finished", "stopped_early")
"""The statuses of runs that were not cut short."""

ENDING = {f"trainer.{name}" for name in ("max_epochs", "max_steps", "max_time", "patience", "min_delta", "target")}
"""The settings that decide when a run ends."""


def resume(arguments: list[str]) -> Exit:
    """Go on with a run and return its exit code; `resume=auto` begins one where none was cut short."""
    paths, rest = composition.take_paths(arguments, "resume")
    given = [a for a in rest if not a.startswith("accept=")]
    flags, _, overrides = composition.split_flags(given)
    if {"-h", "--help"} & set(flags):
        print(USAGE)
        return Exit.OK
    if flags:
        raise ConfigError(f"{flags[0]} is no flag of resume: one run goes on, by resume=DIR or resume=auto.")
    if "resume" not in paths:
        raise ConfigError("resume needs the folder of a run, resume=DIR, or resume=auto.")
    keys = _keys([a for a in rest if a.startswith("accept=")])
    plugins.discover()
    directory = paths["resume"]
    if directory == AUTO:
        found = _cut_short(overrides)
        if found is None:
            return train(given)
        directory, overrides = found, [o for o in overrides if not o.startswith("hydra.")]
    return _go_on(directory, overrides, keys)


def _go_on(directory: Path, overrides: Sequence[str], keys: Sequence[str]) -> Exit:
    """Show what the overrides change, and train on."""
    if not (directory / "config.yaml").is_file():
        raise ConfigError(f"resume={directory} is not the folder of a run: it has no config.yaml.")
    began_with = untrusted.read_yaml(directory / "overrides.yaml")
    if not isinstance(began_with, list) or not all(isinstance(override, str) for override in began_with):
        raise ConfigError(f"{directory / 'overrides.yaml'} must be a list of overrides.")
    before = config.read(directory)
    after = config.read(directory, _settings(overrides, began_with, before))
    changes = config.differences(before, after)
    if _status(directory) in ENDED and not ENDING & changes.keys():
        print(f"{directory} has {_status(directory)}: raise a limit to go on, such as trainer.max_epochs.")
        return Exit.OK
    _check(directory, changes, keys, before)
    from framework import reporting, run

    collector.take_up()
    reporting.note(f"resume: {directory}")
    for line in _lines(changes):
        reporting.note(line)
    with listen():
        result = run.train(after, directory, began_with, changes={key: new for key, (_, new) in changes.items()})
    reporting.print_summary(result, directory)
    return EXITS.get(result.status, Exit.OK)


def _keys(arguments: Sequence[str]) -> list[str]:
    """Return the keys of accept=[...]."""
    value = composition.values_of(list(arguments)).get("accept", [])
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(key, str) for key in found):
        raise ConfigError(f"accept must be a list of settings, such as accept=[optimizer.lr], got {value!r}.")
    return found


def _settings(overrides: Iterable[str], began_with: Sequence[str], before: RunConfig) -> dict[str, Any]:
    """Return the overrides of single settings; one that chooses components must choose those that the run has."""
    settings: dict[str, Any] = {}
    for override in overrides:
        key, _, text = (f"{override[1:]}=null" if override.startswith("~") else override).partition("=")
        if key in registry.KINDS:
            value = None if override.startswith("~") else composition.values_of([override])[key]
            chosen = getattr(before, key)
            own = sorted(chosen) if isinstance(chosen, dict) else chosen and chosen.name
            if (sorted(value) if isinstance(value, list) else value) != own and override not in began_with:
                raise ConfigError(
                    f"{key}={text}: a run goes on with the components that it began with, {key}={_text(own)}: begin a "
                    f"new run for others."
                )
        elif key == "experiment" or key.startswith("hydra"):
            if override not in began_with:
                raise ConfigError(f"{override} is for new runs: a run goes on in its folder, as it was composed.")
        else:
            settings |= composition.values_of([override])
    return settings


def _check(directory: Path, changes: Mapping[str, tuple[Any, Any]], keys: Sequence[str], before: RunConfig) -> None:
    """Raise ConfigError where a change is not accepted, or what is accepted is no setting."""
    known = config.settings_of(before)
    for key in keys:
        if key not in known:
            raise ConfigError(f"accept=[{key}]: {key} is not a setting of this run: {nearest(key, known)}")
    if changes.keys() - set(keys):
        raise ConfigError(
            f"resume={directory} would change {'; '.join(_lines(changes))}. To go on so, add "
            f"accept=[{','.join(changes)}]."
        )


def _lines(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{key}: {_text(old)} → {_text(new)}" for key, (old, new) in changes.items()]


def _text(value: Any) -> str:
    """Return a value as an override has it."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def _status(directory: Path) -> str:
    """Return the status in a run's result.json, or nothing where it has none that can be read."""
    try:
        return str(untrusted.read_json(directory / "result.json")["status"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _cut_short(overrides: Sequence[str]) -> Path | None:
    """Return the newest run that has not ended, or the very folder that hydra.run.dir names where it has a run."""
    given = next((o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")), RUNS).strip("'\"")
    fixed, _, pattern = given.partition("${")
    root = Path(fixed) if not pattern or fixed.endswith("/") else Path(fixed).parent
    if (root / "config.yaml").is_file():
        return root
    if (root / "checkpoints").is_dir():
        if any((root / "checkpoints").glob("step-*")):
            raise ConfigError(
                f"{root} has checkpoints and no config.yaml: it is of a run from Python, which goes on by "
                f"fit(resume=True); choose another hydra.run.dir."
            )
        from framework.checkpoint import clear

        clear(root)  # of a run that was killed before it began
    runs = [path.parent for path in root.glob("**/config.yaml") if (path.parent / "checkpoints").is_dir()]
    cut = [run for run in runs if _status(run) not in ENDED]
    return max(cut, key=lambda run: ((run / "config.yaml").stat().st_mtime_ns, run), default=None)
