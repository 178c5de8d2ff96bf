"""The loop as a good engineer writes it, and ours with everything on."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.speed.works import SEED, Pair, Plain, Work
from framework import Callback, Trainer
from framework.batching import Window
from framework.batching.sets import Batch
from framework.callbacks.progress import ProgressBar


@dataclass
class Block:
    """What a block of steps took: seconds a step, the validation loss after it, and seconds of what is no step."""

    seconds: float
    loss: float
    apart: dict[str, float] = field(default_factory=dict)


class Clock:
    """Takes the time of a block: from the end of the last step before it to the end of its own last step."""

    def __init__(self, work: Work, ended: Callable[[], None] = lambda: None) -> None:
        self.work = work
        self.ended = ended
        self.count = 0
        self.begun = time.perf_counter()
        self.first = self.start = self.stop = 0.0

    def _now(self) -> float:
        if self.work.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def tick(self) -> None:
        """Hear that a step has ended."""
        self.count += 1
        if self.count == 1:
            self.first = self._now()
        if self.count == self.work.warm_up:
            self.start = self._now()
        if self.count == self.work.total:
            self.stop = self._now()
            self.ended()

    def block(self, loss: float, **apart: float) -> Block:
        """Return what was measured."""
        first = {"to the first step's end": self.first - self.begun}
        return Block((self.stop - self.start) / self.work.steps, loss, first | apart)


Contestant = Callable[[Work, Clock], Block]


class Order(Sampler[int]):
    """The order of our data sets, for a DataLoader: an epoch at a time."""

    def __init__(self, work: Work, size: int) -> None:
        self.work, self.size, self.batches = work, size, work.indices(size)

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.size

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of the next epoch."""
        taken = 0
        while taken < self.size:
            index = next(self.batches).tolist()
            taken += len(index)
            yield from index


def raw(work: Work, clock: Clock) -> Block:
    """Train by the textbook's five lines, and nothing else, on batches from memory or from a DataLoader."""
    model = work.model(work.plain)
    optimizer, loss_function = work.plain_optimizer(model), work.plain_loss
    batches = _batches(work, work.data().to(work.device))
    for steps in (1, work.warm_up - 1, work.steps):
        for inputs, target in islice(batches, steps):
            optimizer.zero_grad()
            loss = loss_function(model(inputs), target)
            loss.backward()
            optimizer.step()
        clock.count += steps - 1
        clock.tick()
    return clock.block(work.loss(model))


def _batches(work: Work, data: Plain) -> Iterator[Pair]:
    if work.ready:
        return repeat(data.pair)
    if work.loader:
        loader = DataLoader(TensorDataset(*data.pair), batch_size=work.batch_size, sampler=Order(work, data.size))
        return chain.from_iterable(repeat(loader))
    return map(data.take, work.indices(data.size))


def nano_raw(work: Work, clock: Clock, *, bf16: bool = False, compiled: bool = False) -> Block:
    """Train in nanoGPT's form: automatic precision where asked for, gradients clipped, AdamW in two groups."""
    data = work.data().to(work.device)
    model = work.model(work.plain)
    optimizer, loss_function = work.plain_optimizer(model), work.plain_loss
    network = torch.compile(model) if compiled else model
    context = torch.autocast(work.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    batches = map(data.take, work.indices(data.size))
    inputs, target = next(batches)
    for steps in (1, work.warm_up - 1, work.steps):
        for _ in range(steps):
            with context:
                loss = loss_function(network(inputs), target)
            inputs, target = next(batches)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        clock.count += steps - 1
        clock.tick()
    return clock.block(work.loss(model))


class Terminal(io.TextIOWrapper):
    """A terminal that nobody looks at."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull).open("wb"), encoding="utf-8", write_through=True)  # noqa: SIM115  # closed with it

    def isatty(self) -> bool:
        """Say that it is one, so that progress bars are drawn."""
        return True


class Ticks(Callback):
    """Tells a clock of each step, and takes the times of the evaluation and the saving after the block."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.evaluated = self.saved = 0.0

    def on_step_end(self, trainer: Trainer) -> None:
        """Tell the clock."""
        self.clock.tick()

    def on_evaluated(self, trainer: Trainer, scalars: Any) -> None:
        """Note the time."""
        self.evaluated = time.perf_counter()

    def on_saved(self, trainer: Trainer) -> None:
        """Note the time."""
        self.saved = time.perf_counter()


class Ready:
    """One batch, over and over."""

    examples = None

    def __init__(self, batch: Pair, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def windows(self, epoch: int, offset: int = 0) -> Iterator[Window]:
        """Yield the batch for each step of the epoch that is left."""
        rows = len(self.batch[0])
        window = Window(rows, (0,), (self.batch,), lambda batch: batch)
        for _ in range(self.steps - offset // rows):
            yield window

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield the batch."""
        yield self.batch


@dataclass(frozen=True)
class Ours:
    """Train in our trainer with progress bar, metric, TensorBoard, evaluation and checkpoints on.

    With `plain`, the network is of torch's own layers and the optimizer torch's. `settings` are the trainer's;
    `callbacks` and `metrics` are made anew for each block, beside the progress bar and the first metric.
    """

    plain: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Callback]] = tuple
    metrics: Callable[[], dict[str, Any]] = dict

    def __call__(self, work: Work, clock: Clock) -> Block:
        """Train for a block of steps."""
        model = work.model(work.plain if self.plain else work.ours)
        optimizer = (work.plain_optimizer if self.plain else work.our_optimizer)(model)
        ticks = Ticks(clock)
        with tempfile.TemporaryDirectory() as folder, Terminal() as terminal:
            bar = ProgressBar()
            bar.console = Console(file=terminal, force_terminal=True, width=100)
            trainer = Trainer(
                model,
                loss=work.our_loss(),
                optimizer=optimizer,
                metrics={"first": work.metric(), **self.metrics()},
                callbacks=[bar, ticks, *self.callbacks()],
                directory=Path(folder) / "run",
                seed=SEED,
                max_steps=work.total,
                evaluate_every=f"{work.total} steps",
                clip_norm=work.clip_norm,
                device=work.device.type,
                **self.settings,
            )
            train, validation = self._sets(work)
            trainer.fit(train, validation, batch_size=work.batch_size)
            ended = time.perf_counter()
        return clock.block(
            trainer.history[-1].scores["loss/val"],
            evaluation=ticks.evaluated - clock.stop,
            saving=ticks.saved - ticks.evaluated,
            end=ended - ticks.saved,
        )

    def _sets(self, work: Work) -> tuple[Any, Any]:
        if work.ready:
            batch = work.data().to(work.device).pair
            return Ready(batch, work.total), Ready(batch, 1)
        if work.loader:
            data = work.data()
            train = DataLoader(TensorDataset(*data.pair), batch_size=work.batch_size, shuffle=True)
            return train, DataLoader(TensorDataset(*data.held_out), batch_size=1024)
        return work.data().sets() if self.plain else work.sets()
