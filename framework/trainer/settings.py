"""What a trainer is given and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from framework import distributed, registry
from framework.batching import Batches, BatchOptions, Layout, as_batches
from framework.callbacks.base import Callback
from framework.checkpoint import CheckpointOptions
from framework.errors import ConfigError
from framework.evaluation import Evaluator
from framework.faults import Policy
from framework.history import Evaluation, Progress
from framework.learning_rate import LearningRate
from framework.limits import Every, Limits
from framework.models.checkpointing import checkpoint_blocks
from framework.models.memory_format import channels_last
from framework.objective import Loss, Objective, Supervised
from framework.precision import Precision
from framework.registry import Count, NonNegative, Positive
from framework.regularizers.base import Regularizer

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(eq=False)
class Settings:
    """The objects that a trainer trains with, and its settings; see Trainer.

    What may be configured is keyword-only, checked, and turned into the objects that the loop uses.
    """

    model: nn.Module
    loss: Loss | None = None
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    regularizers: Sequence[Regularizer] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    objective: Objective | None = None
    directory: Path | str | None = None
    overwrite: bool = False
    seed: int = 0
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    _: KW_ONLY
    max_epochs: Count | None = None
    max_steps: Count | None = None
    max_time: Positive | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"
    patience: Count | None = None
    min_delta: NonNegative = 0.0
    target: float | None = None
    evaluate_every: int | str = 1
    log_every: Count = 50
    accumulate: Count = 1
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    precision: Literal[32, "bf16", "fp16"] = 32
    device: str = "auto"
    devices: Count = 1
    deterministic: bool = False
    gradient_checkpointing: bool = False
    compile: Literal["off", "model", "step"] = "off"
    capture: Literal["auto", "off", "on"] = "off"
    channels_last: Literal["auto", "off", "on"] = "auto"
    backprop: Literal["auto", "manual", "autograd"] = "auto"
    on_nonfinite: Policy = "stop"
    spike_deviations: Positive | None = None
    auto_micro_batch: bool = False
    profile: Count | None = None

    def __post_init__(self) -> None:
        settings = registry.read_signature("framework.trainer.settings:Settings").options
        given = {option.name: getattr(self, option.name) for option in settings}
        for name, value in registry.check_options(settings, given, "trainer").items():
            setattr(self, name, value)
        if "loss" in self.metrics:
            raise ConfigError("a metric cannot be named 'loss': the loss is; choose another name.")
        if self.on_nonfinite == "rewind" and self.directory is None:
            raise ConfigError("trainer.on_nonfinite=rewind needs checkpoints to go back to: Trainer(directory=DIR).")
        if self.profile and self.directory is None:
            raise ConfigError("trainer.profile needs a folder to write its trace into: Trainer(directory=DIR).")
        if (self.loss is None) == (self.objective is None):
            raise ConfigError("a Trainer needs either loss= or objective=; it got both or neither.")
        self.place = distributed.pick_device(self.device)
        self.ranks = distributed.join(self.place)
        if self.devices not in (1, self.ranks.count):
            raise ConfigError(
                f"devices={self.devices}, but this is one of {self.ranks.count} processes: start them with "
                f"'framework trainer.devices={self.devices}' or 'torchrun --nproc-per-node={self.devices}'."
            )
        self.limits = Limits(self.max_epochs, self.max_steps, self.max_time)
        self.period = Every.parse(self.evaluate_every)
        self.goal = self.objective or Supervised(self.loss)  # type: ignore[arg-type]  # one of the two is there
        self.model.to(self.place)
        if isinstance(self.loss, nn.Module):
            self.loss.to(self.place)
        if self.gradient_checkpointing and not checkpoint_blocks(self.model):
            raise ConfigError(
                f"gradient_checkpointing: a {type(self.model).__name__} has no blocks worth recomputing; leave it off."
            )
        self.order = self._order_memory()
        self.network: nn.Module = self.model
        if self.compile == "model":
            self.network = torch.compile(self.model)  # type: ignore[assignment]  # a module again
        self.mixed = Precision(self.precision, self.place)
        self.metrics = {name: metric.to(self.place) for name, metric in self.metrics.items()}
        self.evaluator = Evaluator(self.model, self.network, self.goal, self.metrics, self.mixed, self.ranks)
        self.progress = Progress()
        self.history: list[Evaluation] = []
        self.total_steps: int | None = None
        self.rate: LearningRate | None = None

    def _order_memory(self) -> str:
        """Put convolutions' memory in the order that suits the device; return the sentence that says so, if any."""
        suits = self.place.type == "cpu" or (self.place.type == "cuda" and self.precision != 32)
        wanted = self.channels_last == "on" or (self.channels_last == "auto" and suits)
        if not (wanted and channels_last(self.model)):
            return ""
        return "memory: convolutions are channels_last; trainer.channels_last=off is the other way."

    def batches(self, source: Any, options: BatchOptions | None = None) -> Batches:
        """Return the batches of a source for this trainer's device, ranks and seed."""
        if hasattr(source, "windows"):
            return source  # type: ignore[no-any-return]  # it has the protocol's methods
        layout = Layout(self.place, self.ranks.index, self.ranks.count, self.accumulate, self.seed)
        return as_batches(source, options or BatchOptions(), layout)
