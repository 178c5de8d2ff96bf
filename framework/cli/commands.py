"""framework evaluate, predict, plot and explain."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import OmegaConf

from framework import config, plugins, registry
from framework.cli import USAGE, composition
from framework.errors import ConfigError, Exit
from framework.limits import Limits


def evaluate(arguments: list[str]) -> Exit:
    """Print the test figures of a run as JSON."""
    paths, changes = composition.take_paths(arguments, "run")
    directory = _required(paths, "run", "DIR", "evaluate")
    values = composition.values_of(changes)
    plugins.discover()
    from framework import run

    print(json.dumps(run.evaluate(directory, values), indent=2))
    return Exit.OK


def predict(arguments: list[str]) -> Exit:
    """Write the predictions of a run's best model for a file of inputs."""
    paths, changes = composition.take_paths(arguments, "run", "input", "output")
    directory = _required(paths, "run", "DIR", "predict")
    inputs = _required(paths, "input", "FILE", "predict")
    kind = ".csv" if inputs.suffix in (".csv", ".npy") else ".txt"
    output = paths.get("output", Path(f"{inputs.stem}-predictions{kind}"))
    values = composition.values_of(changes)
    plugins.discover()
    from framework import run

    run.predict(directory, inputs, output, values)
    print(f"predictions: {output}")
    return Exit.OK


def plot(arguments: list[str]) -> Exit:
    """Draw a scheduler's learning rate, here and to a PNG, over the limits of the trainer.

    An epoch is taken for `steps_per_epoch=100` steps, since no data is read.
    """
    from framework import plotting

    paths, rest = composition.take_paths(arguments, "output")
    output = paths.get("output", Path("scheduler.png"))
    if output.suffix != ".png":
        raise ConfigError(f"output={output}: plot draws a PNG; name it so, such as output=scheduler.png.")
    own = [a for a in rest if a.startswith("steps_per_epoch=")]
    values = {"steps_per_epoch": 100, **composition.values_of(own)}
    _, folder, overrides = composition.split_flags([a for a in rest if a not in own])
    composed = composition.composed(overrides, folder)
    settings = config.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]  # a mapping
    per_epoch = registry.convert(values["steps_per_epoch"], registry.Count, "steps_per_epoch")
    limits = Limits(*(settings.trainer[name] for name in ("max_epochs", "max_steps", "max_time")))
    total = limits.steps(per_epoch)
    runtime = {"total_steps": total, "steps_per_epoch": per_epoch}
    chosen = settings.scheduler
    scheduler = registry.build("scheduler", chosen.name, chosen.options, runtime=runtime)
    base = settings.optimizer.options.get("lr", 1.0)
    rates = [base * scheduler(step) for step in range(total or 10 * per_epoch)]
    title = f"{chosen.name}: learning rate over {len(rates)} steps"
    print(plotting.draw_curve(rates, title=title))
    plotting.save_curve(list(range(len(rates))), {"lr": rates}, output, title=title, xlabel="step", ylabel="lr")
    print(f"picture: {output}")
    return Exit.OK


def explain(arguments: list[str]) -> Exit:
    """Print every term of one example's forward and backward pass."""
    own = [a for a in arguments if a.startswith("example=")]
    values = {"example": 0, **composition.values_of(own)}
    _, folder, overrides = composition.split_flags([a for a in arguments if a not in own])
    composed = composition.composed(overrides, folder)
    settings = config.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]  # a mapping
    example = registry.convert(values["example"], registry.Size, "example")
    from framework import reporting, run

    reporting.print_explanation(run.explain(settings, example))
    return Exit.OK


def help_of_train(overrides: list[str], folder: Path | None) -> Exit:
    """Print what there is to choose, and the settings that the overrides compose."""
    composed = composition.composed(overrides, folder)
    print(USAGE, end="\n\n")
    for group in sorted((*registry.KINDS, "experiment")):
        print(f"{group}: {', '.join(composition.options_of(group))}")
    print(f"\nAs composed; group.key=value changes a value:\n\n{OmegaConf.to_yaml(composed)}", end="")
    return Exit.OK


def _required(paths: dict[str, Path], key: str, form: str, command: str) -> Path:
    if key not in paths:
        raise ConfigError(f"{command} needs {key}={form}.")
    return paths[key]
