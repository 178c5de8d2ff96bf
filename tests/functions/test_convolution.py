"""Convolution against the sums of its docstring, layouts, and bad input."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from framework import functions


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (2, 3, 2)])
def test_its_gradients_are_the_sums_of_its_docstring(stride: int, padding: int, dilation: int):
    """Each product a W is part of one z, whose δ adds to the gradients by both."""
    images, weight = draw(2, 2, 6, 5), draw(3, 2, 2, 3) + 1
    bias = torch.zeros(3, dtype=torch.float64)
    given = [t.clone().requires_grad_() for t in (images, weight, bias)]
    output = functions.conv2d(*given, stride=stride, padding=padding, dilation=dilation)
    delta = torch.cos(torch.arange(output.numel(), dtype=torch.float64)).view_as(output)
    found = torch.autograd.grad(output, given, delta)
    of_images, of_weight, z = torch.zeros_like(images), torch.zeros_like(weight), torch.zeros_like(delta)
    for h, w, k, m in itertools.product(range(delta.shape[2]), range(delta.shape[3]), range(2), range(3)):
        i, j = stride * h + dilation * k - padding, stride * w + dilation * m - padding
        if not (0 <= i < 6 and 0 <= j < 5):
            continue
        z[:, :, h, w] += images[:, :, i, j] @ weight[:, :, k, m].t()
        of_images[:, :, i, j] += delta[:, :, h, w] @ weight[:, :, k, m]
        of_weight[:, :, k, m] += delta[:, :, h, w].t() @ images[:, :, i, j]
    expected = (of_images, of_weight, delta.sum((0, 2, 3)))
    for a, b in zip((output, *found), (z, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_channels_last():
    """Layout changes neither the result nor its own kind."""
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [t.to(memory_format=layout).requires_grad_() for t in (images, weight)]
        output = functions.conv2d(*given, padding=1)
        results.append((output, *torch.autograd.grad(output.square().sum(), given)))
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_takes_the_type_of_autocast():
    given = [
        torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(),
        torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_(),
        torch.zeros(4, requires_grad=True),
    ]
    results = []
    for function in (functions.conv2d, F.conv2d):
        with torch.autocast("cpu", torch.bfloat16):
            output = function(*given)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), given)))
    assert results[0][0].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in results[0][1:])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())


@pytest.mark.parametrize(
    ("images", "weight", "bias", "groups", "message"),
    [
        ((3, 5, 5), (4, 3, 3, 3), None, 1, r"inputs must be \(N, C, H, W\) and .* got \(3, 5, 5\)"),
        ((2, 3, 5, 5), (4, 2, 3, 3), None, 1, r"got \(2, 3, 5, 5\) and \(4, 2, 3, 3\) with groups=1"),
        ((2, 4, 5, 5), (4, 4, 3, 3), None, 2, "with groups=2"),
        ((2, 4, 5, 5), (3, 2, 3, 3), None, 2, "output channels must be divisible by groups"),
        ((2, 3, 5, 5), (4, 3, 3, 3), (3,), 1, r"bias must be \(4,\), got \(3,\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(images, weight, bias, groups, message):
    with pytest.raises(ValueError, match=message):
        functions.conv2d(torch.ones(images), torch.ones(weight), bias and torch.ones(bias), groups=groups)
