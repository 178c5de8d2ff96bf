"""The three matrix products of a weighted sum, each by the faster of two kernels: torch's own, or oneDNN's.

On processors of AMD with AVX-512, MKL, which torch multiplies float32 by, runs at half of the processor's rate, and
oneDNN at all of it. Whether that is so is measured once a process; which products are worth the other kernel, which
takes some 10 µs to begin, is then a rule of their shapes and the number of threads, so that two runs choose alike.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor

Kernel = Literal["auto", "torch", "onednn"]

WORTH = 3 << 20
"""Multiplications for each thread from which oneDNN takes less time: a quarter of it alone, but all of it in a step."""
SMALLEST_DIMENSION = 8
"""Rows, inputs and outputs below which one operand is read once or little more, and memory is what limits both."""
SMALLEST_WEIGHT = 1 << 10
"""Elements of δᵀ a below which torch's kernel, which shares out the sum over rows, is faster."""

PROBE = 256
"""Rows, inputs and outputs of the product that is measured: 0.3 ms by MKL at half rate."""
PROBES = 8
SLOW = 1.5
"""How many times as long as oneDNN MKL takes where it is slow: it is 2.0 to 2.2 there, and near 1 elsewhere."""

PLAIN = (Tensor, nn.Parameter)


def weighted_sum(inputs_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return a Wᵀ + b: (..., I), (O, I) and (O,) or None -> (..., O)."""
    if prefers_onednn(inputs_NI, weight_OI, bias_O) and not _is_recorded(inputs_NI, weight_OI):
        return _onednn(inputs_NI, weight_OI, bias_O)
    return nn.functional.linear(inputs_NI, weight_OI, bias_O)


def input_gradient(delta_NO: Tensor, weight_OI: Tensor) -> Tensor:
    """Return δ W: (N, O) and (O, I) -> (N, I)."""
    rows, outputs, inputs = *delta_NO.shape, weight_OI.shape[1]
    if _is_worth(rows, outputs, inputs) and _is_plain(delta_NO, weight_OI) and not _is_recorded(delta_NO, weight_OI):
        return _onednn(delta_NO, weight_OI.t(), None)
    return delta_NO.mm(weight_OI)


def weight_gradient(delta_NO: Tensor, inputs_NI: Tensor, into_OI: Tensor | None = None) -> Tensor:
    """Return δᵀ a: (N, O) and (N, I) -> (O, I), written to `into` where that is given."""
    rows, outputs, inputs = *delta_NO.shape, inputs_NI.shape[1]
    if (
        _is_worth(rows, outputs, inputs, SMALLEST_WEIGHT)
        and _is_plain(delta_NO, inputs_NI)
        and not _is_recorded(delta_NO, inputs_NI)
    ):
        if outputs >= 2 * inputs:  # the kernel transposes its first operand: that is to be the smaller one
            product = _onednn(inputs_NI.t(), delta_NO.t(), None).t()
            return product.contiguous() if into_OI is None else into_OI.copy_(product)
        product = _onednn(delta_NO.t(), inputs_NI.t(), None)
        return product if into_OI is None else into_OI.copy_(product)
    return torch.mm(delta_NO.t(), inputs_NI, out=into_OI)


def prefers_onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether a Wᵀ + b is better by oneDNN, whoever differentiates it."""
    if torch.compiler.is_compiling() or type(inputs) not in PLAIN or weight.ndim != 2 or not inputs.ndim:
        return False
    outputs, width = weight.shape
    return (
        inputs.shape[-1] == width > 0
        and _is_worth(inputs.numel() // width, outputs, width)
        and _is_plain(inputs, weight)
        and (bias is None or (_is_plain(bias, bias) and bias.shape == (outputs,)))
    )


def _is_worth(rows: int, outputs: int, inputs: int, smallest: int = 0) -> bool:
    """Tell whether oneDNN is to multiply: a rule of shapes, threads, and what the processor is."""
    if torch.compiler.is_compiling():
        return False
    multiplications, kernel = rows * outputs * inputs, chosen_kernel()
    if kernel != "auto":
        return kernel == "onednn" and multiplications > 0
    return (
        multiplications >= WORTH
        and multiplications >= WORTH * torch.get_num_threads()
        and min(rows, outputs, inputs) >= SMALLEST_DIMENSION
        and outputs * inputs >= smallest
        and not torch.are_deterministic_algorithms_enabled()
        and torch._C._get_mkldnn_enabled()
        and mkl_is_slow()
    )


def _is_plain(first: Tensor, second: Tensor) -> bool:
    """Tell whether both are float32 on the CPU, and nobody traces or transforms their product."""
    if type(first) not in PLAIN or type(second) not in PLAIN or not (first.is_cpu and second.is_cpu):
        return False
    return first.dtype is second.dtype is torch.float32 and not (
        torch._C._are_functorch_transforms_active()
        or _is_intercepted()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or is_legacy_batchedtensor(first)
    )


def _is_intercepted() -> bool:
    """Tell whether anybody stands between operations and their kernels, but to note what they are."""
    count = torch._C._len_torch_dispatch_stack()
    return count > 0 and not all(
        getattr(torch._C._get_dispatch_stack_at(place), "only_notes", False) for place in range(count)
    )


def _is_recorded(first: Tensor, second: Tensor) -> bool:
    """Tell whether autograd has to differentiate a product, as in a backward pass that is differentiated again."""
    return (first.requires_grad or second.requires_grad) and torch.is_grad_enabled()


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = _operator()(inputs, weight, bias, "none", [], "")
    return output


@functools.cache
def _operator() -> Callable[..., Any]:
    operator: Callable[..., Any] = torch.ops.mkldnn._linear_pointwise.default
    return operator


@functools.cache
def chosen_kernel() -> Kernel:
    """Return what FRAMEWORK_LINEAR says: auto, torch or onednn, once a process; raises ValueError for anything else."""
    kernel = os.environ.get("FRAMEWORK_LINEAR", "auto")
    if kernel not in ("auto", "torch", "onednn"):
        raise ValueError(f"FRAMEWORK_LINEAR must be auto, torch or onednn, got {kernel!r}.")
    if kernel == "onednn" and not torch.backends.mkldnn.is_available():
        raise ValueError("FRAMEWORK_LINEAR=onednn needs a torch that was built with oneDNN: set auto or torch.")
    return kernel  # type: ignore[return-value]  # one of the three


def faster_kernel() -> str:
    """Return which kernel multiplies float32 where it pays: onednn, or torch."""
    kernel = chosen_kernel()
    if kernel == "auto":
        return "onednn" if mkl_is_slow() else "torch"
    return kernel


@functools.cache
def mkl_is_slow() -> bool:
    """Tell whether MKL multiplies float32 at half of oneDNN's rate here, by a product that takes some ms once.

    On one thread, and by the shortest of several times, so that what else the machine does has no part in it.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            matrix = torch.full((PROBE, PROBE), 0.5, dtype=torch.float32, device="cpu")
            mkl, onednn = _shortest(lambda: matrix.mm(matrix), lambda: _onednn(matrix, matrix, None))
    finally:
        torch.set_num_threads(threads)
    return mkl >= SLOW * onednn


def _shortest(*products: Callable[[], Tensor]) -> list[float]:
    """Return each one's shortest time of several, in turn."""
    taken: list[list[float]] = [[] for _ in products]
    for _ in range(PROBES):
        for product, times in zip(products, taken, strict=True):
            start = time.perf_counter()
            product()
            times.append(time.perf_counter() - start)
    return [min(times) for times in taken]
