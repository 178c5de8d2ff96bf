"""How the cost of a step grows with the batch, the network, the data, and the number of callbacks and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.linear import use
from benchmarks.speed.contestants import Block, Clock, Contestant, Ours, raw
from benchmarks.speed.rows import OURS, RAW, Row, measure
from benchmarks.speed.works import CPU, MNIST, Plain, Rows, Sets, Work, plain_mlp
from framework import Callback, metrics
from framework.batching import TensorSet
from framework.datasets.pixels import Normalize
from framework.models import MLP

LOOP = "our loop"
"""Ours with the raw loop's network and loss, autograd, torch's products and torch's Adam."""
FEATURES = 32
HELD_OUT = 512
TOLERANCE = 0.05
"""Of the losses: a wide network's 200 steps make much of the rounding of other kernels."""

BATCHES = (1, 4, 16, 64)
WIDTHS = (1, 2, 4, 8)
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
COUNTS = (0, 1, 4, 16)


class Listener(Callback):
    """Hears of every step and does nothing."""

    def on_step_end(self, trainer: Any) -> None:
        """Hear of it."""


def listeners(count: int) -> list[Callback]:
    """Return so many."""
    return [Listener() for _ in range(count)]


def scores(count: int) -> dict[str, Any]:
    """Return so many metrics."""
    return {f"accuracy{number}": metrics.accuracy("classification", 10) for number in range(count)}


def generated(size: int) -> tuple[Sets, Plain]:
    """Return as many examples, bytes in a table whose sums' remainders are the classes, the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (size + HELD_OUT, FEATURES), dtype=torch.uint8, generator=generator)
    target = rows[:, 0].long() * 10 // 256
    normalize = Normalize(scale=255, mean=0.5, std=0.29)
    train, held_out = (rows[:size], target[:size]), (rows[size:], target[size:])
    sets = TensorSet(train, normalize), TensorSet(held_out, normalize)
    return sets, Plain(size, Rows(train, normalize), normalize(held_out))


def points(device: torch.device = CPU) -> Iterator[tuple[str, str, Work, dict[str, Contestant]]]:
    """Yield each table's name, and of each of its lines the name, the work and the contestants."""
    mnist = replace(MNIST, device=device, tolerance=TOLERANCE)
    for times in BATCHES:
        size = 64 * times
        yield "batch size", f"{size}", replace(mnist, batch_size=size, steps=200 if times < 16 else 40), rivals()
    for times in WIDTHS:
        widths = (128 * times, 64 * times)
        work = replace(
            mnist,
            ours=lambda widths=widths: MLP((1, 28, 28), 10, widths=widths),
            plain=lambda widths=widths: plain_mlp(784, *widths, 10),
        )
        yield "width", f"784-{widths[0]}-{widths[1]}-10", work, rivals()
    for size in SIZES:
        sets, data = generated(size)
        work = replace(
            mnist,
            sets=lambda sets=sets: sets,
            data=lambda data=data: data,
            ours=lambda: MLP((FEATURES,), 10, widths=(128, 64)),
            plain=lambda: plain_mlp(FEATURES, 128, 64, 10),
            plain_loss=functional.cross_entropy,
        )
        yield "examples", f"{size:,}", work, rivals()
    for count in COUNTS:
        yield "callbacks", f"{count}", mnist, rivals(callbacks=lambda count=count: listeners(count))
    for count in COUNTS[:-1]:
        yield "metrics", f"{count + 1}", mnist, rivals(metrics=lambda count=count: scores(count))


def rivals(**extra: Any) -> dict[str, Contestant]:
    """Return ours, the raw loop, and our loop with the raw loop's parts."""
    same = Ours(plain=True, settings={"backprop": "autograd"}, **extra)

    def by_torch(work: Work, clock: Clock) -> Block:
        chosen = os.environ.get("FRAMEWORK_LINEAR", "auto")
        use("torch")
        try:
            return same(replace(work, our_loss=nn.CrossEntropyLoss), clock)
        finally:
            use(chosen)

    return {OURS: Ours(**extra), RAW: raw, LOOP: by_torch}


def measure_all(rounds: int, device: torch.device = CPU) -> Iterator[tuple[str, Row]]:
    """Yield each table's name with each of its lines."""
    for table, line, work, contestants in points(device):
        row = measure(table, replace(work, title=line), contestants, rounds)
        yield table, row
