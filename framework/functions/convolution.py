"""Convolution in two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, to_autocast_dtype
from framework.functions.window import Size, pair


class Conv2d(Function):
    """z[n, o, h, w] = b[o] + Σ_{c, k, l} W[o, c, k, l] a[n, c, s h + d k − p, s w + d l − p], a being 0 outside.

    With δ = ∂L/∂z, each index of W seeing every δ that it had a part in:

        ∂L/∂a[n, c, i, j] = Σ_{o, k, l} W[o, c, k, l] δ[n, o, (i + p − d k)/s, (j + p − d l)/s]  (whole indices only)
        ∂L/∂W[o, c, k, l] = Σ_{n, h, w} δ[n, o, h, w] a[n, c, s h + d k − p, s w + d l − p]
        ∂L/∂b[o] = Σ_{n, h, w} δ[n, o, h, w]

    the transposed convolution of δ with W, and the correlation of a with δ. Stride s, dilation d, padding p; with
    groups, each of them is such a convolution of its own channels. N images, C and O channels, kernel (K, L).
    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 9.5.
    """

    @staticmethod
    def forward(
        inputs_NCHW: Tensor,
        weight_OCKL: Tensor,
        bias_O: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        return torch.conv2d(inputs_NCHW, weight_OCKL, bias_O, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.geometry = inputs[3:]

    @staticmethod
    def backward(ctx: Any, delta_NOHW: Tensor) -> tuple[Tensor | None, ...]:
        inputs_NCHW, weight_OCKL = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        # torch's kernel for each of the three sums: conv2d of a with δ takes six to ten times as long as its own
        gradients = torch.ops.aten.convolution_backward.default(
            delta_NOHW,
            inputs_NCHW,
            weight_OCKL,
            [weight_OCKL.shape[0]],
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            ctx.needs_input_grad[:3],
        )
        return *gradients, None, None, None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "padded": Call((draw(2, 3, 5, 4), draw(4, 3, 3, 3), draw(4)), {"padding": 1}),
        "no bias": Call((draw(2, 3, 5, 4), draw(4, 3, 2, 3))),
        "strided": Call((draw(2, 2, 8, 7), draw(3, 2, 3, 2), draw(3)), {"stride": (3, 2), "padding": (1, 0)}),
        "dilated groups": Call((draw(2, 4, 7, 7), draw(6, 2, 3, 3), draw(6)), {"dilation": (2, 1), "groups": 2}),
        "depthwise": Call((draw(2, 3, 5, 5), draw(3, 1, 3, 3), draw(3)), {"padding": 1, "groups": 3}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(16, 32, 28, 28, generator=generator).requires_grad_()
    weight = nn.Parameter(torch.randn(32, 32, 3, 3, generator=generator))
    return Call((inputs, weight, nn.Parameter(torch.zeros(32))), {"padding": 1}), inputs.numel()


@hand_written(reference=nn.functional.conv2d, examples=_examples, large=_large, saved_bytes=4)
def conv2d(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of images: (N, C, H, W), (O, C / groups, K, L) and (O,) -> (N, O, H', W').

    Raises ValueError where the shapes do not fit.
    """
    shapes = f"got {tuple(inputs.shape)} and {tuple(weight.shape)} with groups={groups}"
    if inputs.ndim != 4 or weight.ndim != 4 or groups < 1 or inputs.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"conv2d: inputs must be (N, C, H, W) and weight (O, C / groups, K, L), {shapes}.")
    if weight.shape[0] % groups:
        raise ValueError(f"conv2d: the output channels must be divisible by groups, {shapes}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"conv2d: bias must be ({weight.shape[0]},), got {tuple(bias.shape)}.")
    inputs, weight, bias = to_autocast_dtype(inputs, weight, bias)
    output: Tensor = Conv2d.apply(inputs, weight, bias, pair(stride), pair(padding), pair(dilation), groups)
    return output
