"""Runs cut short and resumed, beside the same run never interrupted."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from framework import Callback, Trainer
from framework.metrics import accuracy

TIMED = ("samples_per_second", "time/data", "time/step", "time/evaluation", "time/overhead")


class KilledError(BaseException):
    """Ends a run as a kill does: nothing is saved after it."""


class Stop(Callback):
    """Ends a run after a step, or before a hook's other listeners, by a kill or by SIGTERM."""

    def __init__(self, step: int, way: str = "kill", hook: str = "on_step_end") -> None:
        self.step, self.way, self.hook = step, way, hook

    def _hear(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook and trainer.progress.step >= self.step:
            self.step = 10**9
            if self.way == "kill":
                raise KilledError
            os.kill(os.getpid(), signal.SIGTERM)

    def on_step_end(self, trainer: Trainer) -> None:
        self._hear("on_step_end", trainer)

    def on_evaluated(self, trainer: Trainer, scalars: Any) -> None:
        self._hear("on_evaluated", trainer)

    def on_saved(self, trainer: Trainer) -> None:
        self._hear("on_saved", trainer)


def blobs(count: int = 44, seed: int = 0, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, width, generator=generator)
    return inputs, (inputs[:, 0] + 0.3 * inputs[:, 1] > 0).long()


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


Make = Callable[[Path, Sequence[Callback]], tuple[Trainer, dict[str, Any]]]
"""A new trainer for a folder, with more callbacks, and what to fit it on."""


def maker(
    model: Callable[[], nn.Module] = network,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    regularizers: Callable[[], list[Any]] = list,
    callbacks: Callable[[], list[Callback]] = list,
    train: Callable[[], Any] = blobs,
    fit: dict[str, Any] | None = None,
    **settings: Any,
) -> Make:
    """Three epochs of six steps, or of what is given, with an interval of four steps."""

    def make(directory: Path, extra: Sequence[Callback] = ()) -> tuple[Trainer, dict[str, Any]]:
        made = model()
        rule = optimizer(made) if optimizer else torch.optim.Adam(made.parameters(), lr=0.01)
        trainer = Trainer(
            made,
            optimizer=rule,
            scheduler=scheduler(rule) if scheduler else None,
            regularizers=regularizers(),
            callbacks=[*callbacks(), *extra],
            directory=directory,
            **{
                "loss": nn.CrossEntropyLoss(),
                "metrics": {"accuracy": accuracy("classification", 2)},
                "device": "cpu",
                "max_epochs": 3,
                "log_every": 4,
                **settings,
            },
        )
        return trainer, {"train": train(), "validation": blobs(20, seed=1), **(fit or {"batch_size": 8})}

    return make


def whole(make: Make, directory: Path) -> Trainer:
    """Train without interruption."""
    trainer, fit = make(directory, ())
    trainer.fit(**fit)
    return trainer


def cut(make: Make, directory: Path, *stops: Stop) -> Trainer:
    """Train until each stop in turn, resuming in a new trainer, and then to the end."""
    for number, stop in enumerate(stops):
        trainer, fit = make(directory, (stop,))
        try:
            result = trainer.fit(**fit, resume=number > 0)
            assert result.status == "preempted", result
        except KilledError:
            pass
        torch.manual_seed(12345 + number)  # as another process would, the resumed one begins with other states
    trainer, fit = make(directory, ())
    trainer.fit(**fit, resume=True)
    return trainer


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's curves but those of time."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in events.Tags()["scalars"] if tag not in TIMED
    }


def result_of(directory: Path) -> dict[str, Any]:
    """Return result.json but for its times."""
    content = json.loads((directory / "result.json").read_text())
    del content["seconds"], content["time"]
    return content


def assert_same(ours: Trainer, theirs: Trainer) -> None:
    """Assert that two runs ended equal to the bit: weights, optimizer, history, curves, result."""
    assert ours.progress == theirs.progress
    assert repr(ours.history) == repr(theirs.history)
    for (name, a), b in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    one, two = (t.optimizer.state_dict() for t in (ours, theirs))
    assert repr(one["param_groups"]) == repr(two["param_groups"])
    assert one["state"].keys() == two["state"].keys()
    for place, state in one["state"].items():
        for key, value in state.items():
            other = two["state"][place][key]
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, (place, key)
    assert scalars(Path(ours.directory)) == scalars(Path(theirs.directory))
    assert repr(result_of(Path(ours.directory))) == repr(result_of(Path(theirs.directory)))
