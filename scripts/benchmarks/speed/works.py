"""What the contestants train: each work's network, examples, loss and optimizer, ours and torch's own."""

from __future__ import annotations

import functools
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.speed import nano
from benchmarks.speed.nano import CPU
from framework import datasets, metrics, optimizers
from framework.batching import TensorSet
from framework.batching.order import epoch_order
from framework.batching.sets import ExampleSet
from framework.datasets.pixels import Normalize
from framework.datasets.tokens import TokenSet
from framework.errors import ConfigError
from framework.losses import CrossEntropy
from framework.models import MLP, ConvNet, Transformer
from framework.parameters import parameter_groups

Pair = tuple[Tensor, Tensor]

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("FRAMEWORK_DATA", ROOT.parent / "shared" / "data"))
SEED = 0
VALIDATION, HEAVY = 2000, 512
"""Examples that every contestant's loss is compared on; of the convnet fewer."""


Sets = tuple[ExampleSet, ExampleSet]
"""A training and a validation set, as our trainer is given them."""


@dataclass(frozen=True)
class Rows:
    """Makes a batch of the rows of tensors in memory that are at these positions."""

    pair: Pair
    transform: Callable[[Pair], Pair] | None = None

    def __call__(self, index: Tensor) -> Pair:
        """Return the batch."""
        batch = self.pair[0].index_select(0, index), self.pair[1].index_select(0, index)
        return self.transform(batch) if self.transform else batch

    def to(self, device: torch.device) -> Rows:
        """Return the same from tensors on a device."""
        return replace(self, pair=_moved(self.pair, device))


@dataclass(frozen=True)
class Plain:
    """The examples as everybody else holds them: `take` makes a batch of positions, of `size` there are.

    `held_out` is the validation set.
    """

    size: int
    take: Rows | nano.Blocks
    held_out: Pair

    @property
    def pair(self) -> Pair:
        """All inputs and targets, as a TensorDataset is made of them."""
        assert isinstance(self.take, Rows)
        return self.take.pair

    def sets(self) -> Sets:
        """Return them as our trainer is given them."""
        assert isinstance(self.take, Rows)
        return TensorSet(self.take.pair, self.take.transform), TensorSet(self.held_out)

    def to(self, device: torch.device) -> Plain:
        """Return them on a device."""
        if device.type == "cpu":
            return self
        return replace(self, take=self.take.to(device), held_out=_moved(self.held_out, device))


def _moved(pair: Pair, device: torch.device) -> Pair:
    return pair[0].to(device), pair[1].to(device)


Build = Callable[[], nn.Module]
Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def torch_adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return Adam as everybody makes it."""
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def our_adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return our Adam."""
    return optimizers.Adam(model.parameters(), lr=1e-3)


@dataclass(frozen=True)
class Work:
    """A network to train on examples, our `sets` or everybody else's `data`, `batch_size` at a time.

    `ours` is the network of this package, `plain` the same of torch's own layers, with its parameters in the same
    order. A block is `steps` steps after the `warm_up` first. With `ready` the batch is always the same one. With
    `loader` it comes from a DataLoader. A loss on the validation set may differ from the raw loop's by `tolerance`,
    relative to it.
    """

    title: str
    sets: Callable[[], Sets]
    data: Callable[[], Plain]
    ours: Build
    plain: Build
    batch_size: int
    our_optimizer: Optimize = our_adam
    plain_optimizer: Optimize = torch_adam
    our_loss: Callable[[], Any] = CrossEntropy
    plain_loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    metric: Callable[[], Any] = lambda: metrics.accuracy("classification", 10)
    steps: int = 200
    warm_up: int = 10
    ready: bool = False
    loader: bool = False
    clip_norm: float | None = None
    device: torch.device = CPU
    tolerance: float = 0.01

    @property
    def total(self) -> int:
        """The steps of a block and before it."""
        return self.warm_up + self.steps

    def model(self, build: Build) -> nn.Module:
        """Return a network with the initial weights that all contestants' have, on the device."""
        torch.manual_seed(SEED)
        ours = self.ours()
        model = ours if build is self.ours else build()
        with torch.no_grad():
            for param, start in zip(model.parameters(), ours.parameters(), strict=True):
                param.copy_(start)
        return model.to(self.device)

    def indices(self, size: int) -> Iterator[Tensor]:
        """Yield the positions of each batch without end: the order that our data sets have."""
        for epoch in count():
            order = epoch_order(size, seed=SEED, epoch=epoch, sampling="shuffled").to(self.device)
            for start in range(0, size, self.batch_size):
                yield order[start : start + self.batch_size]

    @torch.no_grad()
    def loss(self, model: Callable[[Tensor], Tensor]) -> float:
        """Return the mean loss of a plain network on the validation set."""
        inputs, target = self.data().to(self.device).held_out
        size = 256 if inputs.is_floating_point() else 16
        batches = zip(inputs.split(size), target.split(size), strict=True)
        return sum(float(self.plain_loss(model(x), y)) * len(x) for x, y in batches) / len(inputs)


def plain_mlp(*widths: int) -> nn.Module:
    """Return a network of linear layers and ReLUs."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain_convnet() -> nn.Module:
    """Return the convolutional network of the row, of torch's own layers."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def bytes_of_mnist() -> tuple[Pair, Pair, Normalize]:
    """Return MNIST's training images, its first test images, and what makes floats of them."""
    data = datasets.mnist(root=str(DATA), download=False)
    assert data.test is not None
    return data.train.tensors, data.test.subset(torch.arange(VALIDATION)).tensors, data.train.transform


def bytes_of_cifar() -> tuple[Pair, Pair, Normalize]:
    """Return images of CIFAR-10, from class folders in an archive, and what makes floats of them."""
    from PIL import Image

    path = DATA / "cifar10-jpeg.zip"
    if not path.exists():
        raise ConfigError(f"the convnet's row needs {path}: set FRAMEWORK_DATA to the folder that has it.")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[1] for name in names})

        def read(part: str, number: int) -> Pair:
            own = [name for name in names if name.startswith(part)]
            own = [own[i * len(own) // number] for i in range(number)]
            images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB").tobytes() for name in own]
            stacked = torch.stack([torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images])
            target = torch.tensor([classes.index(name.split("/")[1]) for name in own])
            return stacked.view(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous(), target

        return read("train/", 50 * 128), read("test/", HEAVY), Normalize(scale=255, mean=0.4734, std=0.2516)


Bytes = Callable[[], tuple[Pair, Pair, Normalize]]


@functools.cache
def in_bytes(read: Bytes) -> Sets:
    """Return images as ours hold them: in bytes, made floats in the batch."""
    train, validation, normalize = read()
    return TensorSet(train, normalize), TensorSet(validation, normalize)


@functools.cache
def in_floats(read: Bytes, *, flat: bool) -> Plain:
    """Return images as a loop by hand holds them: in floats."""
    train, validation, normalize = read()
    train, validation = normalize(train), normalize(validation)
    pair, held_out = (((x.flatten(1) if flat else x), y) for x, y in (train, validation))
    return Plain(len(pair[0]), Rows(pair), held_out)


@functools.cache
def one_number() -> Plain:
    """Return one example of one number."""
    pair = (torch.ones(1, 1), torch.full((1, 1), 2.0))
    return Plain(1, Rows(pair), pair)


@functools.cache
def text_sets() -> Sets:
    """Return the characters of Shakespeare in blocks of 64 from every position on, and some of the held out."""
    data = datasets.text(path=str(DATA / "tinyshakespeare.txt"), block=64, stride=1)
    assert data.validation is not None
    chosen = torch.arange(0, len(data.validation), len(data.validation) // 64)[:64]
    return data.train, data.validation.subset(chosen)


@functools.cache
def text_data() -> Plain:
    """Return the same for a loop that slices each block from the text."""
    train, validation = text_sets()
    assert isinstance(train, TokenSet)
    return Plain(len(train), nano.Blocks(train.tokens, train.block), validation.gather(torch.arange(len(validation))))


GPT = {"layers": 4, "heads": 4, "width": 128}
CHARACTERS = 65


def our_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return our AdamW with nanoGPT's settings."""
    return optimizers.AdamW(parameter_groups(model, lr=1e-3, weight_decay=0.1), lr=1e-3, betas=(0.9, 0.99))


MNIST = Work(
    "MNIST MLP 784-128-64-10, batch 64",
    lambda: in_bytes(bytes_of_mnist),
    lambda: in_floats(bytes_of_mnist, flat=True),
    lambda: MLP((1, 28, 28), 10, widths=(128, 64)),
    lambda: plain_mlp(784, 128, 64, 10),
    64,
)
WORKS: dict[str, Work] = {
    "mlp64": MNIST,
    "mlp512": replace(MNIST, title="the same, batch 512", batch_size=512),
    "one": Work(
        "one-parameter model, ready batch",
        lambda: one_number().sets(),
        one_number,
        lambda: nn.Linear(1, 1, bias=False),
        lambda: nn.Linear(1, 1, bias=False),
        1,
        lambda model: optimizers.SGD(model.parameters(), lr=1e-4),
        lambda model: torch.optim.SGD(model.parameters(), lr=1e-4),
        nn.MSELoss,
        functional.mse_loss,
        lambda: metrics.mean_squared_error("regression"),
        ready=True,
    ),
    "convnet": Work(
        "convnet of 3 convolutions on 32×32×3, batch 128",
        lambda: in_bytes(bytes_of_cifar),
        lambda: in_floats(bytes_of_cifar, flat=False),
        lambda: ConvNet((3, 32, 32), 10, channels=(32, 64, 128)),
        plain_convnet,
        128,
        steps=40,
        warm_up=12,
    ),
    "gpt": Work(
        "character GPT: 4 layers, 4 heads, width 128, block 64, batch 12",
        text_sets,
        text_data,
        lambda: Transformer((64,), CHARACTERS, **GPT),
        lambda: nano.GPT(CHARACTERS, 64, **GPT),
        12,
        our_adamw,
        nano.adamw,
        plain_loss=nano.loss,
        metric=lambda: metrics.accuracy("language", CHARACTERS),
        steps=40,
        warm_up=12,
        clip_norm=1.0,
    ),
    "loader": replace(MNIST, title="a DataLoader and torch.optim.Adam, MNIST MLP, batch 64", loader=True),
}


@functools.cache
def drawn_tokens() -> Sets:
    """Return tokens drawn by Zipf's law, in GPT-2's vocabulary and blocks."""
    generator = torch.Generator().manual_seed(0)
    weights = 1 / torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    tokens = torch.multinomial(weights, 10**6, replacement=True, generator=generator)
    train = TokenSet(tokens, block=1024, stride=1)
    return train, train.subset(torch.arange(0, 24 * 1024, 1024))


@functools.cache
def drawn_data() -> Plain:
    """Return the same for a loop that slices each block from the text."""
    train, validation = drawn_tokens()
    assert isinstance(train, TokenSet)
    return Plain(len(train), nano.Blocks(train.tokens, train.block), validation.gather(torch.arange(len(validation))))


VOCABULARY = 50304
"""GPT-2's 50,257 tokens, and as many more as make a multiple of 128."""
GPT2 = {"layers": 12, "heads": 12, "width": 768}
WORKS["gpt2"] = replace(
    WORKS["gpt"],
    title="GPT-2 124M in bf16, 12 blocks of 1024 tokens",
    sets=drawn_tokens,
    data=drawn_data,
    ours=lambda: Transformer((1024,), VOCABULARY, **GPT2),
    plain=lambda: nano.GPT(VOCABULARY, 1024, **GPT2),
    metric=lambda: metrics.accuracy("language", VOCABULARY),
)
"""For CUDA alone."""
