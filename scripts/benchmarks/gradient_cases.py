"""What the benchmark of hand-written gradients measures, and what they were written to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from framework.functions import Call

TOLERANCE = 1.05
"""The least ratio that counts as a difference."""


@dataclass(frozen=True)
class Case:
    """A call in float32 of a realistic size."""

    size: str
    make: Callable[[Generator], Call]
    random: bool = False
    """Whether it draws numbers, so that two calls differ."""


def _leaf(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.randn(shape, generator=generator).requires_grad_()


def _weight(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: nn.Parameter(torch.randn(shape, generator=generator) / shape[-1] ** 0.5)


def _constant(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.randn(shape, generator=generator)


def _classes(rows: int, classes: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.randint(classes, (rows,), generator=generator)


def _uniform(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.rand(shape, generator=generator)


def _rare(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: torch.rand(shape, generator=generator) < 0.1


def _unit(*shape: int) -> Callable[[Generator], Tensor]:
    return lambda generator: normalize(torch.randn(shape, generator=generator), dim=-1).requires_grad_()


def _case(size: str, *arguments: Any, random: bool = False, **options: Any) -> Case:
    def make(generator: Generator) -> Call:
        return Call(tuple(a(generator) if callable(a) else a for a in arguments), options)

    return Case(size, make, random)


PLAIN = (2048, 512)

CASES = {
    "linear_cross_entropy": _case("2048 × 256 × 16384", _leaf(2048, 256), _weight(16384, 256), _classes(2048, 16384)),
    "cross_entropy": _case("2048 × 16384", _leaf(2048, 16384), _classes(2048, 16384)),
    "info_nce": _case("2048 pairs × 64", _unit(2048, 64), _unit(2048, 64)),
    "swiglu_down": _case("2048 × 2048 → 512", _leaf(2048, 2048), _leaf(2048, 2048), _weight(512, 2048)),
    "gelu_mlp": _case(
        "2048 × 512 → 2048 → 512", _leaf(2048, 512), _weight(2048, 512), _weight(2048), _weight(512, 2048), _weight(512)
    ),
    "rms_norm": _case("16384 × 1024", _leaf(16384, 1024), _weight(1024)),
    "residual_rms_norm": _case("16384 × 1024", _leaf(16384, 1024), _leaf(16384, 1024), _weight(1024)),
    "focal": _case("4096 × 1024, α = ¼, boolean targets", _leaf(4096, 1024), _rare(4096, 1024), alpha=0.25),
    "distillation": _case("2048 × 16384", _leaf(2048, 16384), _constant(2048, 16384), temperature=2.0),
    "linear": _case("2048 × 512 → 512", _leaf(*PLAIN), _weight(512, 512), _weight(512)),
    "conv2d": _case("32 × 16 × 28², 3²", _leaf(32, 16, 28, 28), _weight(32, 16, 3, 3), _weight(32)),
    "max_pool2d": _case("32 × 32 × 28², 2²", _leaf(32, 32, 28, 28), 2),
    "average_pool2d": _case("32 × 32 × 28², 2²", _leaf(32, 32, 28, 28), 2),
    "relu": _case("2048 × 512", _leaf(*PLAIN)),
    "sigmoid": _case("2048 × 512", _leaf(*PLAIN)),
    "tanh": _case("2048 × 512", _leaf(*PLAIN)),
    "gelu": _case("2048 × 512", _leaf(*PLAIN)),
    "silu": _case("2048 × 512", _leaf(*PLAIN)),
    "swiglu": _case("2048 × 512", _leaf(*PLAIN), _leaf(*PLAIN)),
    "softmax": _case("2048 × 512", _leaf(*PLAIN)),
    "layer_norm": _case("2048 × 512", _leaf(*PLAIN), 512, _weight(512), _weight(512)),
    "dropout": _case("2048 × 512", _leaf(*PLAIN), 0.5, random=True),
    "mse": _case("2048 × 512", _leaf(*PLAIN), _constant(*PLAIN)),
    "huber": _case("2048 × 512", _leaf(*PLAIN), _constant(*PLAIN)),
    "bce_logits": _case("2048 × 512", _leaf(*PLAIN), _uniform(*PLAIN)),
}
"""By the function's name: the size that its targets are for."""

OTHER_CASES = {
    "cross_entropy": _case("256 × 1000", _leaf(256, 1000), _classes(256, 1000)),
    "info_nce": _case("2048 pairs × 256", _unit(2048, 256), _unit(2048, 256)),
}
"""Second sizes, where the answer is another one."""


@dataclass(frozen=True)
class Target:
    """What a function was written to reach: at most `bound` times what a rival needs, alone."""

    name: str
    what: str
    rival: str
    bound: float


HALF_AND_A_NUMBER_A_ROW = 0.501

TARGETS = (
    Target("linear_cross_entropy", "peak", "eager", 1 / 40),
    Target("linear_cross_entropy", "time", "eager", 1.0),
    Target("cross_entropy", "peak", "eager", 1 / 2.5),
    Target("cross_entropy", "time", "eager", 1 / 1.7),
    Target("info_nce", "peak", "eager", 1 / 8),
    Target("info_nce", "time", "eager", 1 / 1.5),
    Target("swiglu_down", "saved", "eager", 0.65),
    Target("swiglu_down", "time", "eager", 1.1),
    Target("gelu_mlp", "saved", "eager", 0.65),
    Target("gelu_mlp", "time", "eager", 1.1),
    Target("rms_norm", "saved", "eager", HALF_AND_A_NUMBER_A_ROW),
    Target("rms_norm", "time", "compile", TOLERANCE),
    Target("residual_rms_norm", "saved", "eager", HALF_AND_A_NUMBER_A_ROW),
    Target("residual_rms_norm", "time", "compile", TOLERANCE),
    Target("focal", "saved", "eager", 1 / 6),
)
