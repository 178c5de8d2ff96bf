"""Gated and GELU networks against torch's modules, in blocks, in mixed precision, and where shapes do not fit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from framework.functions import gelu_mlp, swiglu, swiglu_down


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_same_gradients(found, expected, by) -> None:
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(found.shape, dtype=torch.float64).to(found.dtype)
    ours, theirs = (torch.autograd.grad(o, by, cotangent) for o in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_mlp_is_the_modules(approximate: str):
    modules = nn.Sequential(nn.Linear(6, 10), nn.GELU(approximate=approximate), nn.Linear(10, 4)).double()
    inputs = draw(2, 5, 6)
    found = gelu_mlp(inputs, *modules.parameters(), approximate=approximate)
    assert_same_gradients(found, modules(inputs), [inputs, *modules.parameters()])


def test_blocks_of_rows_are_the_whole(monkeypatch):
    monkeypatch.setattr("framework.functions.compiled.BLOCK", {"cpu": 24})
    gate, up, weight = draw(17, 8), draw(17, 8), draw(3, 8)
    assert_same_gradients(swiglu(gate, up), F.silu(gate) * up, (gate, up))
    assert_same_gradients(swiglu_down(gate, up, weight), F.linear(F.silu(gate) * up, weight), (gate, up, weight))
    inputs, weight_in, weight_out = draw(17, 5), draw(8, 5), draw(3, 8)
    expected = F.linear(F.gelu(F.linear(inputs, weight_in)), weight_out)
    found = gelu_mlp(inputs, weight_in, None, weight_out, None)
    assert_same_gradients(found, expected, (inputs, weight_in, weight_out))


def test_autocast_multiplies_in_its_type():
    gate, up, weight = (torch.randn(s, requires_grad=True) for s in ((6, 8), (6, 8), (3, 8)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = swiglu_down(gate, up, weight)
        expected = F.linear(F.silu(gate) * up, weight)
        assert found.dtype == expected.dtype == torch.bfloat16
        mlp = gelu_mlp(gate, weight, None, weight.t(), None)
        assert mlp.dtype == torch.bfloat16
    cotangent = torch.randn(6, 3).bfloat16()
    for a, b in zip(*(torch.autograd.grad(o, (gate, up, weight), cotangent) for o in (found, expected)), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)
    assert [g.dtype for g in torch.autograd.grad(mlp.sum(), (gate, weight))] == [torch.float32] * 2


def test_far_from_zero_nothing_is_infinite_or_not_a_number():
    """σ underflows at −1000 and φ far before: the slopes there are 0 and 1."""
    extreme = torch.tensor([[-1e4, -1e3, -100.0, 0.0, 100.0, 1e3, 1e4]], requires_grad=True)
    slope = torch.autograd.grad(swiglu(extreme, torch.ones_like(extreme)).sum(), extreme)[0]
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0, 0, 0.5, 1, 1, 1]]))
    one = torch.eye(7)
    for approximate in ("none", "tanh"):
        slope = torch.autograd.grad(gelu_mlp(extreme, one, None, one, None, approximate=approximate).sum(), extreme)[0]
        torch.testing.assert_close(slope, torch.tensor([[0.0, 0, 0, 0.5, 1, 1, 1]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: swiglu(torch.ones(2, 3), torch.ones(3)),
            r"swiglu: gate and up must have the same shape \(\.\.\., F\), got \(2, 3\) and \(3,\)",
        ),
        (lambda: swiglu_down(torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3)), r"swiglu_down: gate and up must"),
        (
            lambda: swiglu_down(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 5)),
            r"swiglu_down: gate must be \(\.\.\., F\) and weight \(O, F\), got \(2, 3\) and \(3, 5\)",
        ),
        (
            lambda: gelu_mlp(torch.ones(2, 3), torch.ones(4, 3), None, torch.ones(4, 3), None),
            r"gelu_mlp: weight_in must be \(F, I\) and weight_out \(O, F\), got \(4, 3\) and \(4, 3\)",
        ),
        (
            lambda: gelu_mlp(torch.ones(2, 3), torch.ones(4, 3), None, torch.ones(3, 4), None, approximate="erf"),
            r"gelu_mlp: approximate must be none or tanh, got 'erf'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
