"""Max pooling in two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written
from framework.functions.window import Size, pooling_window


class MaxPool2d(Function):
    """y[h, w] = max over the window of x at (h, w); with δ = ∂L/∂y: ∂L/∂x[i] = Σ δ over the windows whose maximum is i.

    Of several maxima the first takes all of δ. images (..., H, W) -> (..., H', W'), and beside it where in its plane
    each maximum stood, in 2 bytes where planes have at most 32767 elements, else in 4: that is what is kept, the images
    are not. Source: Scherer, Müller and Behnke (2010), doi:10.1007/978-3-642-15825-4_10.
    """

    @staticmethod
    def forward(
        inputs: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        pooled, indices = nn.functional.max_pool2d_with_indices(inputs, kernel, stride, padding)
        small = inputs.shape[-2] * inputs.shape[-1] <= torch.iinfo(torch.int16).max
        return pooled, indices.to(torch.int16 if small else torch.int32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.shape, ctx.window = inputs[0].shape, inputs[1:]

    @staticmethod
    def backward(ctx: Any, delta: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        # torch's kernel reads of the images their shape and the order of their memory, which is the indices' too
        if len(ctx.shape) == 4 and ctx.shape[1] > 1 and indices.stride(1) == 1:
            images, channels, height, width = ctx.shape
            like = delta.new_empty(images, height, width, channels).permute(0, 3, 1, 2)
        else:
            like = delta.new_empty(ctx.shape)
        of_inputs = torch.ops.aten.max_pool2d_with_indices_backward.default(
            delta, like, *ctx.window, (1, 1), False, indices.long()
        )
        return of_inputs, None, None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        """Return numbers no two of which are closer than 0.02."""
        numbers = torch.randperm(torch.Size(shape).numel(), generator=generator).view(shape)
        return (0.02 * numbers.double() - 1).requires_grad_()

    return {
        "halves": Call((draw(2, 3, 4, 6), 2)),
        "remainder": Call((draw(2, 2, 5, 7), (2, 3))),
        "overlapping": Call((draw(1, 2, 5, 6), 3), {"stride": (1, 2), "padding": 1}),
        "one image": Call((draw(2, 4, 4), 2)),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(16, 32, 28, 28, generator=generator).requires_grad_()
    return Call((inputs, 2)), inputs.numel()


@hand_written(reference=nn.functional.max_pool2d, examples=_examples, large=_large, saved_bytes=0.5)
def max_pool2d(inputs: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """Return the maximum of each window: (N, C, H, W) or (C, H, W) -> the same with H' and W', rounded down.

    The stride is the kernel's size unless given. Raises ValueError for sizes that do not fit.
    """
    pooled: Tensor
    pooled, _ = MaxPool2d.apply(inputs, *pooling_window("max_pool2d", inputs, kernel_size, stride, padding))
    return pooled
