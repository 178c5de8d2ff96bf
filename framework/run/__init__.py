"""Configuration -> objects -> Trainer: what the commands do with a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework import plugins, registry, reporting, signals, untrusted
from framework.account import Account
from framework.backprop import explanation
from framework.backprop.explanation import Explanation
from framework.checkpoint import MODEL, check_fits, load_model
from framework.config import RunConfig, parse, read
from framework.datasets.base import Data
from framework.distributed import SignalledError, divide_threads, launch, leave
from framework.errors import ConfigError, is_mistake
from framework.gradients import Report, check_module
from framework.history import Result
from framework.losses.weighing import announce, announce_cut
from framework.predictions import continued, read_inputs, write_predictions
from framework.regularizers.combined import Combined
from framework.run.building import build, build_data, build_model

CHECKED = 8
"""How many examples gradients are checked on."""


def train(
    config: RunConfig, directory: Path, overrides: Sequence[str], *, changes: Mapping[str, Any] | None = None
) -> Result:
    """Train as configured, test the best model, and leave everything in the run's folder.

    With `changes`, by dotted key and maybe none, the folder's run goes on, and they are noted there. Raises ConfigError
    where the folder has a run already, unless that is to go on or `overwrite` says to replace it.
    """
    if changes is None and (directory / "checkpoints").exists() and not config.overwrite:
        raise ConfigError(f"{directory} has a run already: choose another hydra.run.dir, or set overwrite=true.")
    with signals.listen() as received:
        # what may download, and what launches others, is left at once; the rest saves what it has first
        at_once = config.data.options.get("download") or config.trainer["devices"] > 1
        if at_once and received.reason:
            raise KeyboardInterrupt
        with received.interruptible() if at_once else contextlib.nullcontext():
            data = build_data(config)
            if config.trainer["devices"] > 1:
                return _train_on_ranks(config, directory, overrides, changes)
        return _train(config, directory, overrides, data, changes)


def evaluate(directory: Path, changes: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Return the test figures of a run's best model, as result.json has them; `changes` are by dotted key."""
    config = read(directory, changes)
    if config.trainer["devices"] > 1:
        try:
            return dict(_launch(_evaluate, config, directory, ()))
        except SignalledError:
            raise KeyboardInterrupt from None
    return _evaluate(config, directory, (), build_data(config))


def predict(directory: Path, inputs: Path, output: Path, changes: Mapping[str, Any] | None = None) -> None:
    """Write the outputs of a run's best model for a file of inputs: one row an example, as CSV.

    A classifier's row is the class and the probability of each; otherwise it is the values. A language model
    continues the text of the file instead.
    """
    config = read(directory, {**(changes or {}), "trainer.devices": 1})
    data = build_data(config)
    best = _best(directory, config, data.input_shape, data.outputs)
    trainer = build(config, None, data).trainer
    load_model(trainer.model, best)
    if output.resolve() == inputs.resolve() or output.is_dir():
        raise ConfigError(f"output={output} must be a file of its own, not the input nor a folder.")
    if data.task == "language":
        output.write_text(continued(inputs, trainer.model, data, config.seed), encoding="utf-8")
    else:
        write_predictions(output, trainer.predict(read_inputs(inputs, data)), data)


def explain(config: RunConfig, example: int) -> Explanation:
    """Return one training example's forward and backward pass through the model as it is before training.

    Raises ConfigError where there is no such example, or the model or the loss has no hand-written backward.
    """
    data = build_data(config)
    session = build(config, None, data)
    if not 0 <= example < len(data.train):
        raise ConfigError(f"example={example}: the training set has examples 0 to {len(data.train) - 1}.")
    trainer = session.trainer
    inputs, target = data.train.to(trainer.place).gather(torch.tensor([example], device=trainer.place))
    return explanation.explain(trainer.model.eval(), trainer.loss, inputs, target)


def load(directory: Path | str, model: nn.Module | None = None) -> nn.Module:
    """Return the trained model of a run's folder, in evaluation mode, with its best weights.

    The data is not needed. A run started from Python has no configuration of its model: give one of the same form as
    `model`.
    """
    directory = Path(directory)
    best = _best(directory)
    if model is None:
        plugins.discover()
        path = directory / "environment.json"
        if not path.exists():
            raise ConfigError(f"{directory} is of a run from Python: give a model of its form, load(DIR, model=…).")
        config, shape = read(directory), untrusted.read_json(path).get("data")
        if not isinstance(shape, dict) or {"input_shape", "outputs"} - shape.keys():
            raise ConfigError(f"{path} must say the data's input_shape and outputs.")
        sizes = registry.convert(shape["input_shape"], tuple[registry.Count, ...], f"{path}: input_shape")
        outputs = registry.convert(shape["outputs"], registry.Count, f"{path}: outputs")
        best = _best(directory, config, sizes, outputs)
        model = build_model(config, sizes, outputs)
    load_model(model, best)
    return model.eval()


def check_gradients(config: RunConfig, *, full: bool = False) -> Report:
    """Check the gradients of a run's model, loss and penalties in training mode, on a batch of its training set."""
    session = build(
        replace(config, trainer={**config.trainer, "devices": 1, "accumulate": 1}), None, build_data(config)
    )
    trainer = session.trainer
    if trainer.place.type == "mps":
        raise ConfigError("gradients are checked in float64, which Metal lacks: set trainer.device=cpu.")
    regularization = Combined(trainer.regularizers)
    regularization.prepare(trainer.model.train())
    size = min(session.options.batch_size or CHECKED, CHECKED)
    batches = trainer.batches(session.data.train, replace(session.options, batch_size=size))
    _, batch = next(iter(next(batches.windows(0))))
    inputs, target = regularization.on_batch(batch)
    if full:
        count = sum(p.numel() for p in trainer.model.parameters())
        reporting.note(f"every single weight: {count + 1:,} forward passes of {len(target)} examples")
    return check_module(
        trainer.model,
        inputs,
        loss=trainer.loss,
        target=target,
        penalties={type(r).__name__: r.penalty for r in regularization.of_weights},
        full=full,
    )


def _train(
    config: RunConfig,
    directory: Path,
    overrides: Sequence[str],
    data: Data,
    changes: Mapping[str, Any] | None = None,
) -> Result:
    """Train and test on this rank."""
    session = build(config, directory, data, extra=[Account(config, overrides, data, changes)])
    trainer = session.trainer
    assert trainer.loss is not None
    for note in (announce(trainer.loss), announce_cut(trainer.loss, trainer.accumulate * trainer.ranks.count)):
        if note and trainer.ranks.is_main:
            reporting.note(note)
    train_batches = session.batches("train")
    assert train_batches is not None
    validation, test = session.batches("validation"), session.batches("test")
    return trainer.fit(train_batches, validation, test, resume=changes is not None)


def _evaluate(config: RunConfig, directory: Path, overrides: Sequence[str], data: Data) -> dict[str, float]:
    """Score the test set on this rank with the best weights."""
    best = _best(directory, config, data.input_shape, data.outputs)
    session = build(config, None, data)
    load_model(session.trainer.model, best)
    test = session.batches("test")
    if test is None:
        raise ConfigError(f"data '{config.data.name}' has no test set.")
    return session.trainer.evaluator.score(test)


def _train_on_ranks(
    config: RunConfig, directory: Path, overrides: Sequence[str], changes: Mapping[str, Any] | None
) -> Result:
    """Train in several processes; after a signal the result is what the main one wrote."""
    try:
        result: Result = _launch(partial(_train, changes=changes), config, directory, overrides)
    except SignalledError:
        path = directory / "result.json"
        if not path.exists():
            raise KeyboardInterrupt from None
        result = Result.from_json(untrusted.read_json(path))
    return result


def _launch(work: Any, config: RunConfig, directory: Path, overrides: Sequence[str]) -> Any:
    return launch(_rank, config.trainer["devices"], work, config.to_mapping(), directory, list(overrides))


def _rank(work: Any, config: Mapping[str, Any], directory: Path, overrides: Sequence[str]) -> Any:
    """Run `work` in a process of the elastic agent's."""
    divide_threads()
    plugins.discover()
    parsed = parse(config)
    with signals.listen() as received:
        try:
            value = work(parsed, directory, overrides, build_data(parsed))
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) if is_mistake(error) else error from None
        if received.reason:
            # the agent, which passed the signal on, waits for its ranks to be gone and not for what they return
            os._exit(0)
        leave()
        return value


def _best(
    directory: Path, config: RunConfig | None = None, input_shape: tuple[int, ...] = (), outputs: int = 0
) -> Path:
    """Return the checkpoint of a run's best model; with a configuration, that of the model that it builds.

    Raises ConfigError where there is none, it lies outside the run's folder, or belongs to another model.
    """
    folder = directory / "best"
    if not folder.exists():
        raise ConfigError(f"{directory} has no checkpoint 'best': is it the folder of a run that was trained?")
    untrusted.inside(directory, folder)
    if config is not None:
        chosen, runtime = config.model, {"input_shape": input_shape, "outputs": outputs}
        check_fits(lambda: registry.build("model", chosen.name, chosen.options, runtime=runtime), folder / MODEL)
    return folder
