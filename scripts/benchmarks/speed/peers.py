"""The peers' current releases, used as their documentation shows it, each on the same batches from a DataLoader."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.speed.contestants import Block, Clock, Contestant, Terminal
from benchmarks.speed.works import Work


class Epoch:
    """The positions of each batch of a block, in the order of our data sets: a DataLoader's batch_sampler."""

    def __init__(self, work: Work, size: int) -> None:
        self.work, self.size = work, size

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.work.total

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches."""
        return (index.tolist() for index in islice(self.work.indices(self.size), self.work.total))


class Repeated(Dataset[tuple[Tensor, Tensor]]):
    """One batch as every item."""

    def __init__(self, batch: tuple[Tensor, Tensor], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        """Return how often it comes."""
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the batch."""
        return self.batch


def _loader(work: Work) -> DataLoader[Any]:
    data = work.data()
    if work.ready:
        return DataLoader(Repeated(data.pair, work.total), batch_size=None)
    return DataLoader(TensorDataset(*data.pair), batch_sampler=Epoch(work, data.size))  # type: ignore[arg-type]  # as good as one


@contextlib.contextmanager
def _quiet() -> Iterator[str]:
    """Have bars and notes drawn where nobody looks; yield a folder to write to."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "ignite", "accelerate")]
    before = [logger.level for logger in loggers]
    with (
        Terminal() as terminal,
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield folder
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def lightning(work: Work, clock: Clock) -> Block:
    """Train by Lightning's Trainer with its defaults: bar, logger, checkpoints."""
    import lightning as lit

    class Module(lit.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            inputs, target = batch
            loss = work.plain_loss(self.model(inputs), target)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.plain_optimizer(self.model)

        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

    model = work.model(work.plain)
    with _quiet() as folder:
        accelerator = "gpu" if work.device.type == "cuda" else "cpu"
        trainer = lit.Trainer(max_steps=work.total, default_root_dir=folder, accelerator=accelerator, devices=1)
        trainer.fit(Module(model), _loader(work))
    return clock.block(work.loss(model.to(work.device)))


def accelerate(work: Work, clock: Clock) -> Block:
    """Train by a loop of one's own with Accelerate's prepared parts."""
    from accelerate import Accelerator

    plain = work.model(work.plain)
    with _quiet():
        accelerator = Accelerator(cpu=work.device.type == "cpu")
        model, optimizer, loader = accelerator.prepare(plain, work.plain_optimizer(plain), _loader(work))
        for inputs, target in loader:
            optimizer.zero_grad()
            loss = work.plain_loss(model(inputs), target)
            accelerator.backward(loss)
            optimizer.step()
            clock.tick()
    return clock.block(work.loss(plain))


def ignite(work: Work, clock: Clock) -> Block:
    """Train by Ignite's supervised trainer with its progress bar."""
    model = work.model(work.plain)
    with _quiet():
        from ignite.engine import Events, create_supervised_trainer
        from ignite.handlers import ProgressBar

        optimizer = work.plain_optimizer(model)
        trainer = create_supervised_trainer(model, optimizer, work.plain_loss, device=work.device)
        ProgressBar().attach(trainer, output_transform=lambda loss: {"loss": loss})
        trainer.add_event_handler(Events.ITERATION_COMPLETED, clock.tick)
        trainer.run(_loader(work), max_epochs=1)
    return clock.block(work.loss(model))


def keras(work: Work, clock: Clock) -> Block:
    """Train by Keras' fit, on torch, with its progress bar."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as kr

    class Ticks(kr.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            clock.tick()

    plain = work.model(work.plain)
    linear = [module for module in plain.modules() if isinstance(module, nn.Linear)]
    layers = [kr.layers.Dense(m.out_features, "relu", use_bias=m.bias is not None) for m in linear]
    layers[-1].activation = kr.activations.linear
    model = kr.Sequential([kr.Input((linear[0].in_features,)), *layers])
    model.set_weights([p.detach().t().cpu().numpy() for p in plain.parameters()])
    theirs = work.plain_optimizer(plain)
    rate = theirs.param_groups[0]["lr"]
    adam = isinstance(theirs, torch.optim.Adam)
    model.compile(
        optimizer=kr.optimizers.Adam(rate, epsilon=1e-8) if adam else kr.optimizers.SGD(rate),
        loss=kr.losses.SparseCategoricalCrossentropy(from_logits=True) if adam else "mse",
    )
    with _quiet():
        model.fit(_loader(work), callbacks=[Ticks()])
    return clock.block(work.loss(model))


PEERS: dict[str, tuple[Contestant, str]] = {
    "Lightning": (lightning, "lightning"),
    "Accelerate": (accelerate, "accelerate"),
    "Ignite": (ignite, "pytorch-ignite"),
    "Keras": (keras, "keras"),
}
"""Each with the distribution that it comes in."""


def installed() -> dict[str, str]:
    """Return the versions of the peers that are there."""
    found = {}
    for name, (_, package) in PEERS.items():
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(package)
    return found
