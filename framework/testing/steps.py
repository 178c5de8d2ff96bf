"""A tiny run through the real trainer, around one component of any kind."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Generator, Tensor, nn

from framework.batching import TensorSet
from framework.callbacks import Callback
from framework.datasets import Data
from framework.losses import MSE, BCELogits, CrossEntropy
from framework.optimizers import SGD
from framework.parameters import GroupOptions, parameter_groups
from framework.testing.conformance import CheckError, Subject
from framework.testing.examples import CLASSES, examples_of, floats
from framework.trainer import Trainer

EXAMPLES = 48
BATCH = 16
RATE = 1e-3
EPOCHS = 2
STEPS_PER_EPOCH = EXAMPLES // BATCH
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH


class Affine(nn.Module):
    """Every floating-point number of the inputs times a weight plus a bias: a model of any prediction's form.

    Under autocast it is in the low precision, as the output of a linear layer is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any) -> Any:
        """Return the inputs, changed."""
        device = self.scale.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return floats(inputs, lambda tensor: (tensor * self.scale + self.shift).to(low or tensor.dtype))


def images(seed: int = 0) -> Data:
    """Return images (1, 8, 8) of CLASSES classes that tell themselves apart by their brightness."""
    target = torch.arange(EXAMPLES) % CLASSES
    noise = torch.randn(EXAMPLES, 1, 8, 8, generator=Generator().manual_seed(seed))
    pairs = TensorSet((0.3 * noise + target[:, None, None, None] - 1.5, target))
    return Data("classification", (1, 8, 8), CLASSES, pairs, pairs)


def vectors(seed: int = 0) -> Data:
    """Return vectors (6,) and two values that are linear in them."""
    inputs = torch.randn(EXAMPLES, 6, generator=Generator().manual_seed(seed))
    pairs = TensorSet((inputs, inputs[:, :2] - inputs[:, 2:4]))
    return Data("regression", (6,), 2, pairs, pairs)


def tokens(seed: int = 0) -> Data:
    """Return sequences (8,) of five tokens in turn, each predicted from those before it."""
    start = torch.randint(5, (EXAMPLES, 1), generator=Generator().manual_seed(seed))
    text = (start + torch.arange(9)) % 5
    pairs = TensorSet((text[:, :-1], text[:, 1:]))
    return Data("language", (8,), 5, pairs, pairs, classes=tuple("abcde"))


PROBLEMS: tuple[Callable[[], Data], ...] = (images, vectors, tokens)


def loss_for(data: Data) -> nn.Module:
    """Return the usual loss of a data set's task."""
    if data.task == "regression":
        return MSE()
    return BCELogits() if data.outputs == 1 else CrossEntropy()


class TinyLanguage(nn.Module):
    """Tokens (B, T) -> logits (B, T, outputs), from each token alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(outputs, 8)
        self.logits = nn.Linear(8, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        output: Tensor = self.logits(self.tokens(tokens))
        return output


class TinyResidual(nn.Module):
    """(N, *) -> (N, outputs) through three linear layers, dropout, and one residual branch."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.1))
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.last = nn.Linear(8, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the last layer."""
        hidden = self.first(inputs)
        outputs: Tensor = self.last(hidden + self.branch(hidden))
        return outputs

    @property
    def residual_branches(self) -> list[nn.Module]:
        """The module whose output is added to its input."""
        return [self.branch]


def model_for(data: Data) -> nn.Module:
    """Return a small model that is never the subject itself: linear layers, dropout, a residual branch."""
    if data.task == "language":
        return TinyLanguage(data.outputs)
    return TinyResidual(math.prod(data.input_shape), data.outputs)


@dataclass
class Parts:
    """What a tiny run is made of."""

    data: Data
    model: nn.Module
    loss: Any
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    regularizers: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)


def runtime(subject: Subject, data: Data, model: nn.Module | None = None) -> list[Any]:
    """Return the arguments before `*` that a component asks for; raises CheckError for what its kind is not given."""
    kinds: dict[str, dict[str, Any]] = {
        "data": {"seed": 0},
        "model": {"input_shape": data.input_shape, "outputs": data.outputs},
        "scheduler": {"total_steps": TOTAL_STEPS, "steps_per_epoch": STEPS_PER_EPOCH},
        "initializer": {"gain": 1.0},
        "regularizer": {"task": data.task, "outputs": data.outputs},
        "metric": {"task": data.task, "outputs": data.outputs},
    }
    offered = kinds.get(subject.kind, {})
    if subject.kind == "optimizer" and model is not None:
        options = subject.component.signature.options
        given = {
            **{o.name: o.default for o in options},
            **getattr(subject.factory, "kit_options", {}),
            **subject.options,
        }
        groups = parameter_groups(
            model, lr=given.get("lr", 1.0), weight_decay=given.get("weight_decay"), options=GroupOptions()
        )
        offered = {"params": groups, "model": model}
    names = subject.component.signature.runtime
    for name in names:
        if name not in offered:
            raise CheckError(
                f"it asks for '{name}', which a {subject.kind} is not given; {' and '.join(offered) or 'nothing'} is"
            )
    return [offered[name] for name in names]


def data_for(subject: Subject) -> tuple[Data, Any]:
    """Return the first small problem that a model or a metric is made for, and the object made for it.

    That is its own, where it has `examples`. Raises CheckError, with the reasons, where it takes none.
    """
    own = getattr(subject.factory, "examples", None)
    reasons = []
    for problem in PROBLEMS if own is None else (lambda: own(Generator().manual_seed(0)),):
        data = problem()
        try:
            built = subject.build(*runtime(subject, data))
            inputs, target = data.train.gather(torch.arange(2))
            if subject.kind == "model":
                with torch.no_grad():
                    built(inputs)
            else:
                built.update(torch.randn(*target.shape[: 1 if data.task != "language" else 2], data.outputs), target)
        except CheckError:
            raise
        except Exception as error:
            reasons.append(f"{data.task}: {type(error).__name__}: {error}")
            continue
        return data, subject.build(*runtime(subject, data))
    raise CheckError(
        f"it takes none of the small problems ({'; '.join(reasons)}): give it a static method examples(generator) that "
        f"returns a framework.datasets.Data of {EXAMPLES} examples"
    )


def parts_for(subject: Subject) -> Parts:
    """Return everything of a tiny run with a component in its place, made anew."""
    torch.manual_seed(0)
    if subject.kind == "loss":
        example, loss = next(examples_of(subject))
        repeated = [apply_to_collection(part, Tensor, _repeat) for part in example.pair()]
        pairs = TensorSet((repeated[0], repeated[1]))
        return Parts(Data("regression", (), 1, pairs, pairs), Affine(), loss)
    if subject.kind == "data":
        data = subject.build(*runtime(subject, images()))
        data = small(data)
        return Parts(data, model_for(data), loss_for(data))
    if subject.kind in ("model", "metric"):
        data, built = data_for(subject)
        torch.manual_seed(0)
        model = subject.build(*runtime(subject, data)) if subject.kind == "model" else model_for(data)
        return Parts(data, model, loss_for(data), metrics={"metric": built} if subject.kind == "metric" else {})
    data = images()
    parts = Parts(data, model_for(data), loss_for(data))
    built = subject.build(*runtime(subject, data, parts.model))
    if subject.kind == "optimizer":
        parts.optimizer = built
    elif subject.kind == "scheduler":
        parts.scheduler = built
    elif subject.kind == "initializer":
        built(parts.model)
    else:
        (parts.regularizers if subject.kind == "regularizer" else parts.callbacks).append(built)
    return parts


def small(data: Data) -> Data:
    """Return a data set of EXAMPLES examples, or all where there are fewer."""
    kept = data.train.subset(torch.arange(min(EXAMPLES, len(data.train))))
    return Data(data.task, data.input_shape, data.outputs, kept, kept, classes=data.classes)


def _repeat(tensor: Tensor) -> Tensor:
    times = math.ceil(EXAMPLES / tensor.shape[0])
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))[:EXAMPLES].clone()


class Recorder(Callback):
    """Keeps the trained weights and the optimizer's state as they are after the newest step."""

    weights: dict[str, Tensor]

    def on_step_end(self, trainer: Trainer) -> None:
        """Copy the weights."""
        self.weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


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


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are equal bit for bit, NaN being equal to itself."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


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
    trainer = Trainer(
        parts.model,
        loss=parts.loss,
        optimizer=parts.optimizer or SGD(parameter_groups(parts.model, lr=RATE, options=GroupOptions()), lr=RATE),
        scheduler=parts.scheduler,
        regularizers=parts.regularizers,
        metrics=parts.metrics,
        callbacks=[*parts.callbacks, recorder, *([] if until is None else [Interrupt(until)])],
        directory=directory,
        seed=seed,
        max_epochs=epochs,
        precision=precision,
        device=device,
        log_every=2,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = trainer.fit(parts.data.train, parts.data.validation, batch_size=BATCH, resume=resume)
    if result.status != ("finished" if until is None else "interrupted"):
        raise CheckError(f"a small run ends after {result.steps} steps: {result.reason}")
    return Outcome(recorder.weights, tuple(e.scores for e in trainer.history), trainer)
