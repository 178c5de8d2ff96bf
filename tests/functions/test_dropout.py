"""Dropout where the harness does not go: the draw, the rates at the ends, bad input."""

import math

import pytest
import torch
from torch.nn import functional as F

from framework import functions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(7,), (64, 128), (3, 5, 17)], ids=str)
@pytest.mark.parametrize("rate", [0.15, 0.5, 0.76, 1.0])
def test_the_same_seed_silences_what_torch_silences(dtype, shape, rate):
    """Bit for bit, output and gradient: 0.15 and 0.76 are rates whose 1/(1 − p) depends on how it is rounded."""
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    results = []
    for function in (functions.dropout, F.dropout):
        torch.manual_seed(3)
        output = function(inputs, rate)
        after = torch.rand(1)
        results.append((output, torch.autograd.grad(output.square().sum(), inputs)[0], after))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_and_rate_0_draw_nothing():
    inputs = torch.ones(3)
    state = torch.get_rng_state()
    assert functions.dropout(inputs, 0.5, training=False) is inputs
    assert functions.dropout(inputs, 0.0) is inputs
    assert torch.equal(torch.get_rng_state(), state)


def test_each_example_of_a_vmap_can_draw_for_itself():
    drawn = torch.func.vmap(lambda x: functions.dropout(x, 0.5), randomness="different")(torch.ones(2, 64))
    assert not torch.equal(drawn[0], drawn[1])
    shared = torch.func.vmap(lambda x: functions.dropout(x, 0.5), randomness="same")(torch.ones(2, 64))
    assert torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_refuses_what_is_no_probability(rate):
    with pytest.raises(ValueError, match=rf"rate must be a probability in \[0, 1\], got {rate}"):
        functions.dropout(torch.ones(2), rate)
