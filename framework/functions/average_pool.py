"""Average pooling in two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written
from framework.functions.window import Size, pooling_window


class AveragePool2d(Function):
    """y[h, w] = the mean of x over the window at (h, w); with δ = ∂L/∂y: ∂L/∂x[i] = Σ δ/(K L) over the windows with i.

    images (..., H, W) -> (..., H', W') with a kernel (K, L); padding counts as zeros. The gradient depends on nothing
    but the shape, so that nothing else is kept. Source: LeCun et al. (1998), Gradient-Based Learning Applied to
    Document Recognition, section II.A.
    """

    @staticmethod
    def forward(inputs: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        return nn.functional.avg_pool2d(inputs, kernel, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = inputs[0].shape
        ctx.window = inputs[1:]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        # the kernel that spreads δ wants the images for their shape: one number stands in for them all
        images = delta.new_empty(()).expand(ctx.shape)
        spread = torch.ops.aten.avg_pool2d_backward.default(delta, images, *ctx.window, False, True, None)
        return spread, None, None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "halves": Call((draw(2, 3, 4, 6), 2)),
        "remainder": Call((draw(2, 2, 5, 7), (2, 3))),
        "overlapping": Call((draw(1, 2, 5, 6), 3), {"stride": (1, 2), "padding": 1}),
        "one image": Call((draw(2, 4, 4), 2)),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(16, 32, 28, 28, generator=generator).requires_grad_()
    return Call((inputs, 2)), inputs.numel()


@hand_written(reference=nn.functional.avg_pool2d, examples=_examples, large=_large, saved_bytes=0)
def average_pool2d(inputs: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """Return the mean of each window: (N, C, H, W) or (C, H, W) -> the same with H' and W', rounded down.

    The stride is the kernel's size unless given. Raises ValueError for sizes that do not fit.
    """
    pooled: Tensor = AveragePool2d.apply(
        inputs, *pooling_window("average_pool2d", inputs, kernel_size, stride, padding)
    )
    return pooled
