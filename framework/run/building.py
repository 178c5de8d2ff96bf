"""Configuration -> objects: a run's data, model and trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework import registry
from framework.batching import Batches, BatchOptions
from framework.batching.split import split
from framework.callbacks.base import Callback
from framework.checkpoint import CheckpointOptions
from framework.config import RunConfig
from framework.datasets.base import Data
from framework.determinism import seed_everything
from framework.errors import ConfigError
from framework.initializers import gain
from framework.parameters import GroupOptions, parameter_groups
from framework.trainer import Trainer


@dataclass(frozen=True)
class Session:
    """A run's objects."""

    trainer: Trainer
    data: Data
    options: BatchOptions

    def batches(self, part: str) -> Batches | None:
        """Return the batches of `train`, `validation` or `test`, or None where the data has no such part."""
        examples = getattr(self.data, part)
        return None if examples is None else self.trainer.batches(examples, self.options)


def build_data(config: RunConfig) -> Data:
    """Build the data set; one without validation set gives up a part of its training set, by seed."""
    data: Data = registry.build("data", config.data.name, config.data.options, runtime={"seed": config.seed})
    fraction = config.data.common["validation"]
    if data.validation is not None or not fraction:
        return data
    rest, held_out = split(data.train, fraction, config.seed)
    return replace(data, train=rest, validation=held_out)


def build_model(config: RunConfig, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build the model, for data of this form, with its seed's initial weights."""
    seed_everything(config.seed)
    runtime = {"input_shape": input_shape, "outputs": outputs}
    model: nn.Module = registry.build("model", config.model.name, config.model.options, runtime=runtime)
    if config.initializer is not None:
        activation = getattr(model, "activation", "linear")
        chosen = config.initializer
        registry.build("initializer", chosen.name, chosen.options, runtime={"gain": gain(activation)})(model)
    return model


def build(config: RunConfig, directory: Path | None, data: Data, extra: Sequence[Callback] = ()) -> Session:
    """Build everything; `directory` is where the trainer writes, if anywhere."""
    _refuse_pairs(config)
    model = build_model(config, data.input_shape, data.outputs)
    about = {"task": data.task, "outputs": data.outputs}
    trainer = Trainer(
        model,
        loss=registry.build("loss", config.loss.name, config.loss.options),
        optimizer=_build_optimizer(config, model),
        regularizers=list(_build_all("regularizer", config.regularizer, about).values()),
        metrics=_build_all("metric", config.metric, about),
        callbacks=[*_build_all("callback", config.callback, {}).values(), *extra],
        directory=directory,
        overwrite=config.overwrite,
        seed=config.seed,
        checkpoint=CheckpointOptions(**config.checkpoint),
        **config.trainer,
    )
    session = Session(trainer, data, BatchOptions(**config.data.common))
    steps = trainer.batches(data.train, session.options).steps
    runtime = {"total_steps": trainer.limits.steps(steps), "steps_per_epoch": steps}
    trainer.scheduler = registry.build("scheduler", config.scheduler.name, config.scheduler.options, runtime=runtime)
    return session


def _build_all(kind: str, chosen: Mapping[str, Mapping[str, Any]], runtime: Mapping[str, Any]) -> dict[str, Any]:
    return {name: registry.build(kind, name, options, runtime=runtime) for name, options in chosen.items()}


def _build_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    options = config.optimizer.options
    groups = parameter_groups(
        model,
        lr=options.get("lr", 1.0),
        weight_decay=options.get("weight_decay"),
        options=GroupOptions(**config.optimizer.common),
    )
    built: torch.optim.Optimizer = registry.build(
        "optimizer", config.optimizer.name, options, runtime={"params": groups, "model": model}
    )
    return built


def _refuse_pairs(config: RunConfig) -> None:
    """Refuse the two ways of saying one thing at once."""
    if "dropout" in config.regularizer and config.model.options.get("dropout"):
        raise ConfigError(
            f"model.dropout={config.model.options['dropout']:g} and regularizer=[dropout] both set the dropout rate: "
            f"keep one."
        )
    if "weight_decay" in config.regularizer and config.optimizer.options.get("weight_decay"):
        raise ConfigError(
            f"optimizer.weight_decay={config.optimizer.options['weight_decay']:g} and regularizer=[weight_decay] both "
            f"decay the weights: keep one, or set optimizer.weight_decay=0."
        )
