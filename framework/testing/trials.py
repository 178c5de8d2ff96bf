"""Small runs through the real trainer, and comparisons of what they come to, bit for bit."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.callbacks import Callback
from framework.optimizers import SGD
from framework.parameters import GroupOptions, parameter_groups
from framework.testing.conformance import CheckError, Subject
from framework.testing.parts import BATCH, EPOCHS, Parts, parts_for
from framework.testing.problems import cross_entropy, examples, network
from framework.trainer import Trainer

RATE = 1e-3


def trainer(
    model: nn.Module, *, loss: Any = cross_entropy, optimizer: torch.optim.Optimizer | None = None, **settings: Any
) -> Trainer:
    """Return the real trainer, for a few steps of gradient descent on the CPU."""
    chosen = {"max_steps": 6, "log_every": 2, "evaluate_every": "3 steps", "device": "cpu", **settings}
    return Trainer(model, loss, optimizer or torch.optim.SGD(model.parameters(), lr=0.1), **chosen)


def fit(trainer: Trainer, *, resume: bool = False) -> Any:
    """Train on the examples, 8 a step, and return the result."""
    return trainer.fit(examples(), examples(12), batch_size=8, resume=resume)


def trained_weights(model: nn.Module | None = None, **settings: Any) -> Mapping[str, Tensor]:
    """Train a network on the examples, and return the weights of the last step."""
    last = Recorder()
    fit(trainer(model or network(), callbacks=[last], **settings))
    return last.weights


def train(
    subject: Subject,
    *,
    epochs: int = EPOCHS,
    until: int | None = None,
    precision: Any = 32,
    device: str = "cpu",
    seed: int = 0,
    directory: Path | None = None,
    resume: bool = False,
    parts: Parts | None = None,
) -> Outcome:
    """Train a few steps with a component in its place; everything is made anew unless `parts` are given.

    `until` is the step after which the run is interrupted.
    """
    parts = parts or parts_for(subject)
    recorder = Recorder()
    made = trainer(
        parts.model,
        loss=parts.loss,
        optimizer=parts.optimizer or SGD(parameter_groups(parts.model, lr=RATE, options=GroupOptions()), lr=RATE),
        scheduler=parts.scheduler,
        regularizers=parts.regularizers,
        metrics=parts.metrics,
        callbacks=[*parts.callbacks, recorder, *([] if until is None else [Interrupt(until)])],
        directory=directory,
        seed=seed,
        max_steps=None,
        max_epochs=epochs,
        evaluate_every=1,
        precision=precision,
        device=device,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = made.fit(parts.data.train, parts.data.validation, batch_size=BATCH, resume=resume)
    if result.status != ("finished" if until is None else "interrupted"):
        raise CheckError(f"a small run ends after {result.steps} steps: {result.reason}")
    return Outcome(recorder.weights, tuple(e.scores for e in made.history), made)


class Recorder(Callback):
    """Keeps the trained weights and the optimizer's state as they are after the newest step."""

    weights: dict[str, Tensor]

    def on_step_end(self, trainer: Trainer) -> None:
        """Copy the weights."""
        self.weights = weights(trainer.model)


class Interrupt(Callback):
    """Ends a run as a signal does, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        """Be the signal, if this is the step."""
        if trainer.progress.step == self.step:
            trainer.signals.reason = "interrupt"


@dataclass(frozen=True)
class Outcome:
    """What a tiny run came to."""

    weights: Mapping[str, Tensor]
    """After the last step, by name."""
    scores: tuple[Mapping[str, float], ...]
    """Of each evaluation."""
    trainer: Trainer

    def differences(self, other: Outcome) -> Iterator[str]:
        """Yield each weight, and each score of the last evaluation, that is not bitwise the other's."""
        for name, value in self.weights.items():
            if not same(value, other.weights[name]):
                yield f"weight {name}"
        for name, score in self.scores[-1].items():
            there = other.scores[-1][name]
            if score != there and not (math.isnan(score) and math.isnan(there)):
                yield f"{name} {score:.9g} and {there:.9g}"


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every tensor of a model, by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: Any, two: Any) -> bool:
    """Return whether two nested values are the same, their tensors bit for bit; NaN is like NaN."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        equal = (one == two) | ((one != one) & (two != two)) if one.shape == two.shape else torch.tensor(False)
        return one.dtype == two.dtype and bool(equal.all())
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        return False
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two) or (one != one and two != two)


def difference(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> str:
    """Say by how much which tensor differs the most."""
    by = {name: float((one[name].double() - two[name].double()).abs().max()) for name in one if name in two}
    worst = max(by, key=lambda name: by[name])
    return f"'{worst}' differs by up to {by[worst]:.3g}"
