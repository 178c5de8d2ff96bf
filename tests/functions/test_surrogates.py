"""Functions with a gradient that is not their derivative, and the L2 penalty."""

import pytest
import torch

from framework import functions, regularizers


def test_straight_through_returns_the_value_to_the_bit_and_sends_it_no_gradient():
    """x + (q − x) would round: 1e8 + (0.3 − 1e8) is not 0.3 in float32."""
    inputs, scale = torch.tensor([1e8, 0.4], requires_grad=True), torch.tensor(0.3, requires_grad=True)
    output = functions.straight_through(inputs, scale.expand(2))
    assert torch.equal(output, scale.expand(2))
    of_inputs, of_scale = torch.autograd.grad(output, [inputs, scale], torch.tensor([2.0, 3.0]), allow_unused=True)
    assert of_inputs.tolist() == [2, 3]
    assert of_scale is None


def test_straight_through_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"same shape, got \(2,\) and \(2, 1\)"):
        functions.straight_through(torch.ones(2), torch.ones(2, 1))


def test_gradient_reversal_reverses():
    inputs = torch.tensor([1.0, -2.0], requires_grad=True)
    output = functions.gradient_reversal(inputs, 0.25)
    assert torch.equal(output, inputs)
    assert torch.autograd.grad(output, inputs, torch.tensor([4.0, 8.0]))[0].tolist() == [-1, -2]


def test_gradient_reversal_refuses_to_reverse_twice():
    with pytest.raises(ValueError, match=r"strength must not be negative, got -1\.0"):
        functions.gradient_reversal(torch.ones(2), -1.0)


def test_l2_is_the_regularizer_of_the_same_name():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    weights = [model[0].weight, model[1].weight]
    ours = functions.l2(*weights, strength=0.3)
    regularizer = regularizers.L2(strength=0.3)
    regularizer.prepare(model)
    theirs = regularizer.penalty(model)
    assert torch.equal(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_l2_refuses_nothing():
    with pytest.raises(ValueError, match="at least one tensor of weights, got none"):
        functions.l2(strength=1.0)
