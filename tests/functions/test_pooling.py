"""Pooling where the harness does not go: ties, infinities, what is kept, bad input."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from framework import functions

POOLS = [(functions.max_pool2d, F.max_pool2d), (functions.average_pool2d, F.avg_pool2d)]
each_pool = pytest.mark.parametrize(("ours", "theirs"), POOLS, ids=["max", "average"])


def test_ties_go_to_the_first():
    image = torch.tensor([[[[1.0, 3.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]]]], requires_grad=True)
    pooled = functions.max_pool2d(image, 2)
    assert pooled.tolist() == [[[[3, 0]]]]
    (gradient,) = torch.autograd.grad(pooled, image, torch.tensor([[[[5.0, 7.0]]]]))
    assert gradient.tolist() == [[[[0, 5, 7, 0], [0, 0, 0, 0]]]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), ((2, 3), (1, 2), (1, 0))], ids=str)
@each_pool
def test_equals_torch_where_values_repeat(ours, theirs, window, layout):
    """Three values only, and infinities: nearly every window has ties."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(-1, 2, (2, 3, 8, 9), generator=generator).double()
    if ours is functions.max_pool2d:
        images[0, 0, :3, :3] = -torch.inf
        images[1, 2, 4, 4] = torch.inf
    images = images.to(memory_format=layout).requires_grad_()
    results = []
    for function in (ours, theirs):
        pooled = function(images, *window)
        delta = torch.cos(torch.arange(pooled.numel(), dtype=torch.float64)).view(pooled.shape)
        results.append((pooled, *torch.autograd.grad(pooled, images, delta)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("side", "dtype"), [(181, torch.int16), (182, torch.int32)])
def test_the_places_of_maxima_take_two_bytes_while_they_can(side, dtype):
    """181² is the last square below 2¹⁵; the last window's place is the largest number to hold."""
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        image = torch.arange(float(side * side)).view(1, 1, side, side).requires_grad_()
        pooled = functions.max_pool2d(image, 1)
    assert [t.dtype for t in kept] == [dtype]
    (gradient,) = torch.autograd.grad(pooled, image, torch.arange(float(side * side)).view(1, 1, side, side))
    assert torch.equal(gradient, image.detach())


@each_pool
@pytest.mark.parametrize(
    ("shape", "window", "message"),
    [
        ((4, 4), (2,), r"inputs must be \(N, C, H, W\) or \(C, H, W\), got \(4, 4\)"),
        ((1, 4, 4), (0,), r"kernel_size and stride must be at least 1, got \(0, 0\) and \(0, 0\)"),
        ((1, 4, 4), (2, (1, 0)), r"got \(2, 2\) and \(1, 0\)"),
        ((1, 4, 4), (3, 1, 2), r"padding must be from 0 to half of kernel_size \(3, 3\), got \(2, 2\)"),
        ((1, 4, 4), (2, 1, -1), r"got \(-1, -1\)"),
        ((1, 4, 3), (4,), r"kernel_size \(4, 4\) is larger than the padded image: 4 by 3"),
    ],
)
def test_refuses_windows_that_do_not_fit(ours, theirs, shape, window, message):
    with pytest.raises(ValueError, match=rf"{ours.__name__}: .*{message}"):
        ours(torch.ones(shape), *window)
