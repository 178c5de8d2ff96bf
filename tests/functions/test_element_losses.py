"""The losses over elements where the harness does not go: saturation, floors, kinks, bad input."""

import math

import pytest
import torch

from framework import functions, losses

ALL = [functions.mse, functions.bce, functions.bce_logits, functions.huber]
each_loss = pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)


def gradient(loss, inputs: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss(inputs), inputs)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bce_is_the_loss_of_the_same_name(dtype):
    """At 0, 1, and around where the floor begins, with value and gradient."""
    tiny = torch.finfo(dtype).tiny
    near = [0.0, tiny / 4, tiny, 1.0000002 * tiny, 1e-44, 3.6e-44, 3.8e-44, 1e-37, 0.3, 1 - 2**-24, 1.0]
    p = torch.tensor(near, dtype=dtype).repeat(3)
    y = torch.tensor([0.0, 1.0, 0.25], dtype=dtype).repeat_interleave(len(near))
    ours, theirs = (p.clone().requires_grad_() for _ in range(2))
    elements = functions.bce(ours, y, reduction="none")
    torch.testing.assert_close(elements, losses.BCE().elements(theirs, y), rtol=1e-6, atol=0)
    g, h = gradient(lambda q: functions.bce(q, y), ours), gradient(lambda q: losses.BCE()(q, y), theirs)
    torch.testing.assert_close(g, h, rtol=1e-6, atol=0)
    assert g.isfinite().all()


def test_bce_of_a_certain_mistake():
    """It costs 100 and has gradient 0; the other term's gradient stays."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert functions.bce(p, y, reduction="none").tolist() == [100, 100, 0, 0]
    (first,) = torch.autograd.grad(functions.bce(p, y, reduction="sum"), p, create_graph=True)
    assert first.tolist() == [0, 0, 1, -1]
    assert torch.autograd.grad(first.sum(), p)[0].tolist() == [0, 0, 1, 1]


def test_bce_outside_the_probabilities_is_nan():
    assert functions.bce(torch.tensor([-0.1, 1.1]), torch.tensor([1.0, 0.0]), reduction="none").isnan().all()


def test_bce_logits_never_loses_the_gradient_of_a_wrong_answer():
    """Through probabilities it is 0 here, as the sigmoid is flat."""
    z = torch.tensor([100.0, -100.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0])
    loss = functions.bce_logits(z, y, reduction="sum")
    assert loss.item() == 200
    assert torch.autograd.grad(loss, z)[0].tolist() == [1, -1]
    assert gradient(lambda z: functions.bce(functions.sigmoid(z), y, reduction="sum"), z).tolist() == [0, 0]


def test_bce_logits_of_a_right_answer():
    z = torch.tensor([100.0, -100.0, 1e4], dtype=torch.float64, requires_grad=True)
    loss = functions.bce_logits(z, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), reduction="none")
    assert loss.tolist() == pytest.approx([math.exp(-100), math.exp(-100), 0], rel=1e-12)


def test_bce_logits_is_the_loss_of_the_same_name():
    z = torch.tensor([-100.0, -3.0, 0.0, 2.0, 100.0], dtype=torch.float64).repeat(2).requires_grad_()
    y = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat_interleave(5)
    for weight in (None, 3.5):
        ours = functions.bce_logits(z, y, pos_weight=weight)
        theirs = losses.BCELogits(pos_weight=weight)(z, y)
        for a, b in zip((ours, *torch.autograd.grad(ours, z)), (theirs, *torch.autograd.grad(theirs, z)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-16)


def test_huber_at_the_threshold():
    """Both branches meet there, in value and in slope, which is ±delta beyond."""
    error = torch.tensor([-3.0, -0.5, 0.0, 0.5, 0.25, 3.0], requires_grad=True)
    loss = functions.huber(error, torch.zeros(6), delta=0.5, reduction="none")
    assert loss.tolist() == [1.375, 0.125, 0, 0.125, 0.03125, 1.375]
    assert torch.autograd.grad(loss.sum(), error)[0].tolist() == [-0.5, -0.5, 0, 0.5, 0.25, 0.5]


@each_loss
def test_by_hand(function):
    """One element: the chapter's numbers are the functions'."""
    prediction, target = torch.tensor([0.8], dtype=torch.float64, requires_grad=True), torch.tensor([1.0]).double()
    sigmoid = 1 / (1 + math.exp(-0.8))
    value, slope = {
        "mse": (0.04, -0.4),
        "bce": (-math.log(0.8), -1.25),
        "bce_logits": (-math.log(sigmoid), sigmoid - 1),
        "huber": (0.02, -0.2),
    }[function.__name__]
    loss = function(prediction, target)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert torch.autograd.grad(loss, prediction)[0].item() == pytest.approx(slope, rel=1e-12)


@each_loss
def test_no_elements(function):
    """An empty batch has no mean, and an empty gradient."""
    empty = torch.empty(0, 3, requires_grad=True)
    loss = function(empty, torch.empty(0, 3))
    assert loss.isnan()
    assert torch.autograd.grad(loss, empty)[0].shape == (0, 3)


@each_loss
def test_is_taken_in_float32_under_autocast(function):
    prediction = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = function(prediction, torch.ones(4, 3).bfloat16())
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, prediction)[0].dtype == torch.bfloat16


@each_loss
def test_refuses_shapes_that_would_broadcast(function):
    with pytest.raises(ValueError, match=r"same shape, got \(4, 1\) and \(4,\): reshape"):
        function(torch.rand(4, 1), torch.rand(4))


@each_loss
def test_refuses_an_unknown_reduction(function):
    with pytest.raises(ValueError, match=r"reduction must be one of .*none, got 'average'"):
        function(torch.rand(4), torch.rand(4), reduction="average")


def test_huber_refuses_a_threshold_that_is_not_positive():
    for delta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"delta must be positive, got {delta}"):
            functions.huber(torch.ones(2), torch.ones(2), delta=delta)


def test_bce_logits_refuses_a_weight_that_is_no_constant_or_does_not_fit():
    z, y = torch.ones(4, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match="pos_weight is a constant"):
        functions.bce_logits(z, y, pos_weight=torch.ones(3, requires_grad=True))
    for shape in ((4,), (2, 4, 3)):
        with pytest.raises(ValueError, match=r"must broadcast to the logits' shape \(4, 3\), got"):
            functions.bce_logits(z, y, pos_weight=torch.ones(shape))
