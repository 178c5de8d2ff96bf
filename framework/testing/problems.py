"""Small problems: data of each task, networks that learn it, and the loss of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.batching import TensorSet
from framework.datasets import Data
from framework.losses import MSE, BCELogits, CrossEntropy
from framework.testing.examples import CLASSES, floats

EXAMPLES = 48
HIDDEN = 8


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


def examples(count: int = 24) -> tuple[Tensor, Tensor]:
    """Return the first images (N, 1, 8, 8), in float64, and their classes (N,)."""
    inputs, target = images().train.gather(torch.arange(count))
    return inputs.double(), target


def small(data: Data) -> Data:
    """Return a data set of EXAMPLES examples, or all where there are fewer."""
    kept = data.train.subset(torch.arange(min(EXAMPLES, len(data.train))))
    return Data(data.task, data.input_shape, data.outputs, kept, kept, classes=data.classes)


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


class Language(nn.Module):
    """Tokens (B, T) -> logits (B, T, outputs), from each token alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(outputs, 8)
        self.logits = nn.Linear(8, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        output: Tensor = self.logits(self.tokens(tokens))
        return output


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
    """(N, *) to (N, outputs): a stem, a residual branch with normalisation and dropout, and a head.

    The stem is a convolution where inputs are images, and a linear layer where they are not.
    """

    def __init__(self, input_shape: tuple[int, ...], outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        if len(input_shape) == 3 and min(input_shape[1:]) > 2:
            self.stem: nn.Module = nn.Conv2d(input_shape[0], HIDDEN // 4, 3)
            self.flatten: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        else:
            self.stem, self.flatten = nn.Linear(math.prod(input_shape), HIDDEN), nn.Identity()
        branch = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Dropout(dropout))
        self.block = Residual(branch)
        self.head = nn.Linear(HIDDEN, outputs)

    @property
    def residual_branches(self) -> list[nn.Module]:
        """The modules whose output is added to their input."""
        return [self.block.branch]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the head."""
        stem = self.stem(inputs if isinstance(self.stem, nn.Conv2d) else inputs.flatten(1))
        outputs: Tensor = self.head(self.block(self.flatten(stem)))
        return outputs


def model_for(data: Data) -> nn.Module:
    """Return a small model that is never the subject itself."""
    return Language(data.outputs) if data.task == "language" else Network(data.input_shape, data.outputs)


def network(dropout: float = 0.0) -> Network:
    """Return the same float64 network of the examples at every call, with weights that clip, decay and grow alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network((1, 8, 8), CLASSES, dropout).double()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy against indices or probabilities."""
    return nn.functional.cross_entropy(prediction, target)
