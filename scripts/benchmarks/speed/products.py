"""Matrix products alone: what a machine does at best, and what share of a step they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.speed.works import Work

HALF = 1.4
"""Where oneDNN multiplies float32 matrices so many times as fast as MKL, MKL runs at half rate."""


def seconds_of(call: Callable[[], Any], repeats: int = 30) -> float:
    """Return the median time of a call."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def rates() -> dict[str, float]:
    """Return the CPU's GFLOP/s on [512×784]·[784×128]: float32 by MKL and by oneDNN where torch has it, and bf16."""
    x, w = torch.randn(512, 784), torch.randn(128, 784)
    operations = 2 * 512 * 784 * 128 / 1e9
    found = {"MKL": operations / seconds_of(lambda: functional.linear(x, w))}
    if torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        found["oneDNN"] = operations / seconds_of(lambda: linear(x, w, None, "none", [], ""))
        x16, w16 = x.bfloat16(), w.bfloat16()
        found["bf16"] = operations / seconds_of(lambda: functional.linear(x16, w16))
    return found


def is_half_rate(found: dict[str, float]) -> bool:
    """Whether MKL runs float32 at half the rate that the processor has."""
    return found.get("oneDNN", 0.0) >= HALF * found["MKL"]


def cuda_rate() -> float:
    """Return the TFLOP/s of a bf16 product of two matrices 8192 × 8192 on CUDA."""
    x = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")

    def call() -> None:
        x @ x
        torch.cuda.synchronize()

    call()
    return 2 * 8192**3 / seconds_of(call, 10) / 1e12


@torch.no_grad()
def product_seconds(work: Work) -> float:
    """Return the seconds of the products of a step's linear layers alone, forward and both backward ones.

    The first layer of a network that has no other before it makes no gradient of its inputs.
    """
    model, data = work.model(work.plain), work.data()
    layers: list[tuple[nn.Linear, int]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, _: layers.append((module, inputs[0].numel() // inputs[0].shape[-1]))
        )
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    inputs, _ = data.take(next(work.indices(data.size)))
    model(inputs)
    for hook in hooks:
        hook.remove()
    needs_inputs = not inputs.is_floating_point()
    cases = [
        (torch.randn(rows, layer.in_features), layer.weight, torch.randn(rows, layer.out_features))
        for layer, rows in layers
    ]

    def products(number: int, x: Tensor, w: Tensor, g: Tensor) -> None:
        functional.linear(x, w)
        g.t() @ x
        if number or needs_inputs:
            g @ w

    return sum(seconds_of(lambda n=n, case=case: products(n, *case)) for n, case in enumerate(cases))
