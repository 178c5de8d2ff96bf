"""What checks train: a small problem, the real trainer, and comparisons bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework.testing.conformance import CheckError, Subject
from framework.testing.steps import Recorder
from framework.testing.steps import same as same_tensor
from framework.trainer import Trainer

CLASSES = 3


def takes(subject: Subject, option: str) -> bool:
    """Return whether a component has an option."""
    return any(known.name == option for known in subject.component.signature.options)


def arguments(subject: Subject, **offered: Any) -> list[Any]:
    """Return what a component asks for before `*`; raises CheckError for what its kind is not given."""
    missing = [name for name in subject.component.signature.runtime if name not in offered]
    if missing:
        raise CheckError(f"asks for '{missing[0]}', and a {subject.kind} is given: {', '.join(offered)}")
    return [offered[name] for name in subject.component.signature.runtime]


def examples(count: int = 24) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 4, 4), float64, and their classes (N,)."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % CLASSES
    images = torch.randn(count, 1, 4, 4, generator=generator, dtype=torch.float64) + target[:, None, None, None]
    return images, target


class Residual(nn.Module):
    """x + f(x), named to whoever drops branches."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the input and the branch's output of it."""
        out: Tensor = inputs + self.branch(inputs)
        return out


class Network(nn.Module):
    """A convolution, a residual branch with normalisation and dropout, and a head: (N, 1, 4, 4) to (N, CLASSES)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.block = Residual(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(dropout)))
        self.head = nn.Linear(8, CLASSES)

    @property
    def residual_branches(self) -> list[nn.Module]:
        """The modules whose output is added to their input."""
        return [self.block.branch]

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the classes."""
        scores: Tensor = self.head(self.block(self.stem(images).flatten(1)))
        return scores


def network(dropout: float = 0.0) -> Network:
    """Return the same float64 network at every call, with weights that clip, decay and grow alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(dropout).double()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy against indices or probabilities."""
    return nn.functional.cross_entropy(prediction, target)


def trainer(
    model: nn.Module,
    *,
    regularizers: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    **settings: Any,
) -> Trainer:
    """Return the real trainer, for a few steps of gradient descent on the CPU."""
    made = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer(model)
    chosen = {"max_steps": 6, "log_every": 2, "evaluate_every": "3 steps", "device": "cpu", **settings}
    return Trainer(model, cross_entropy, made, regularizers=regularizers, callbacks=callbacks, **chosen)


def fit(trainer: Trainer, *, resume: bool = False) -> Any:
    """Train on the examples, 8 a step, and return the result."""
    return trainer.fit(examples(), examples(12), batch_size=8, resume=resume)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every tensor of a model, by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: Any, two: Any) -> bool:
    """Return whether two nested values are the same, their tensors bit for bit; NaN is like NaN."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return same_tensor(one, two)
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


def train(*, resume: bool = False, regularizers: Sequence[Any] = (), **settings: Any) -> dict[str, Tensor]:
    """Train a network afresh, or go on, and return the weights of the last step."""
    last = Recorder()
    model = settings.pop("model", None) or network()
    callbacks = [*settings.pop("callbacks", ()), last]
    fit(trainer(model, regularizers=regularizers, callbacks=callbacks, **settings), resume=resume)
    return last.weights
