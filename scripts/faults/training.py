"""The training that is tormented, and what it must come to."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from framework import Callback, Trainer
from framework.checkpoint import CheckpointOptions, read
from framework.history import Result
from framework.optimizers import AdamW
from framework.regularizers import Regularizer
from framework.schedulers import Cosine

EXAMPLES, BATCH, EPOCHS = 160, 16, 4
STEPS = EXAMPLES // BATCH * EPOCHS
EVERY = 3
"""Steps from one checkpoint to the next; evaluations save besides."""
TIMED = ("samples_per_second", "time/data", "time/step", "time/evaluation", "time/overhead")
"""Curves that no two runs share."""

Order = dict[int, tuple[int, ...]]
"""The samples of each step."""


class Recorder(Regularizer):
    """Writes down which samples a step takes, in a file that outlives the process; changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trainer: Trainer | None = None

    def on_batch(self, batch: Any) -> Any:
        """Append `step: samples` to the file."""
        assert self.trainer is not None
        samples = ",".join(str(int(number)) for number in batch[0][:, 0])
        with self.path.open("a") as file:
            file.write(f"{self.trainer.progress.step}:{samples}\n")
        return batch


class Numbered(nn.Module):
    """A small network with dropout and batch norm, whose inputs begin with the sample's number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits; the number is left out."""
        logits: Tensor = self.layers(inputs[:, 1:])
        return logits


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return numbered inputs (count, 9) and their classes (count,)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator)
    noise = torch.randn(count, 3, generator=generator)
    return torch.cat([torch.arange(count).unsqueeze(1).float(), inputs], 1), (inputs[:, :3] + noise).argmax(1)


def trainer_for(directory: Path, seed: int, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """Return the trainer of a run of `STEPS` steps in a folder; its samples are recorded beside the folder."""
    torch.manual_seed(seed)
    model = Numbered()
    recorder = Recorder(order_file(directory))
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=AdamW(model.parameters(), lr=0.01),
        scheduler=Cosine(STEPS),
        regularizers=[recorder],
        callbacks=callbacks,
        directory=directory,
        seed=seed,
        device="cpu",
        max_epochs=EPOCHS,
        log_every=4,
        checkpoint=CheckpointOptions(every_n_steps=EVERY, keep_last=3, **options),
    )
    recorder.trainer = trainer
    return trainer


def train(directory: Path, seed: int, callbacks: Sequence[Callback] = (), **options: Any) -> Result:
    """Train, or go on where a run of the folder stands."""
    return fit(trainer_for(directory, seed, callbacks, **options))


def fit(trainer: Trainer) -> Result:
    """Fit a trainer, from whatever random state a process happens to be in."""
    torch.seed()
    return trainer.fit(examples(EXAMPLES, 1), examples(48, 2), batch_size=BATCH, resume=True)


def order_file(directory: Path) -> Path:
    """Return where the samples of a run in a folder are written down."""
    return directory.with_name(f"{directory.name}-order.txt")


def outcome(directory: Path) -> dict[str, Any]:
    """Return all that a finished run leaves, but for times: each entry is compared by its text or to the bit."""
    last, best = read(directory / "last"), read(directory / "best")
    result = json.loads((directory / "result.json").read_text())
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # of files cut off
    events.Reload()
    curves = {
        tag: [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
        for tag in sorted(events.Tags()["scalars"])
        if tag not in TIMED
    }
    return {
        "weights": last.model,
        "optimizer": last.optimizer,
        "best weights": best.model,
        "best step": best.step,
        "history": last.state["history"],
        "result": {key: value for key, value in result.items() if key not in ("seconds", "time")},
        "curves": curves,
    }


def order(directory: Path) -> Order:
    """Return the samples of each step; raises ValueError where a step was taken twice with other samples."""
    taken: Order = {}
    for line in order_file(directory).read_text().splitlines():
        step, _, samples = line.partition(":")
        numbers = tuple(map(int, samples.split(",")))
        if taken.setdefault(int(step), numbers) != numbers:
            raise ValueError(f"step {step} was taken again with other samples")
    return taken


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the names of what two runs do not share."""
    return [name for name in expected if not _equal(found[name], expected[name])]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in other)
    if isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return repr(one) == repr(other)
