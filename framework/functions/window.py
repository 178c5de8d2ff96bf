"""What functions over windows of images share: sizes as pairs, and the check of them."""

from __future__ import annotations

from torch import Tensor

Size = int | tuple[int, int]
"""A height and a width; one number is both."""


def pair(size: Size) -> tuple[int, int]:
    """Return (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def pooling_window(
    name: str, inputs: Tensor, kernel_size: Size, stride: Size | None, padding: Size
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return kernel, stride (the kernel's unless given) and padding as pairs; raise ValueError where they do not fit.

    A padding of more than half the kernel would have windows that see nothing of the image.
    """
    kernel, pad = pair(kernel_size), pair(padding)
    step = kernel if stride is None else pair(stride)
    if inputs.ndim not in (3, 4):
        raise ValueError(f"{name}: inputs must be (N, C, H, W) or (C, H, W), got {tuple(inputs.shape)}.")
    if min(*kernel, *step) < 1:
        raise ValueError(f"{name}: kernel_size and stride must be at least 1, got {kernel} and {step}.")
    if any(not 0 <= 2 * p <= k for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(f"{name}: padding must be from 0 to half of kernel_size {kernel}, got {pad}.")
    height, width = inputs.shape[-2:]
    if height + 2 * pad[0] < kernel[0] or width + 2 * pad[1] < kernel[1]:
        raise ValueError(
            f"{name}: kernel_size {kernel} is larger than the padded image: {height} by {width} with padding {pad}."
        )
    return kernel, step, pad
