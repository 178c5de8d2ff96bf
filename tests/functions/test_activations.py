"""The activations where the harness does not go: kinks, saturation, tails, what they share with their neighbours."""

import math

import pytest
import torch

from framework import functions
from framework.functions.relu import ReLU
from framework.functions.sigmoid import Sigmoid
from framework.functions.tanh import Tanh


def slope(function, *values: float, dtype=torch.float64) -> list[float]:
    inputs = torch.tensor(values, dtype=dtype, requires_grad=True)
    return torch.autograd.grad(function(inputs).sum(), inputs)[0].tolist()


def test_relu_has_slope_0_at_0():
    assert slope(functions.relu, -1.0, -0.0, 0.0, 1e-300, 2.0) == [0, 0, 0, 1, 1]


def test_sigmoid_saturates_without_losing_the_slope():
    """At −40 the slope is e⁻⁴⁰ to full precision; at 40, σ rounds to 1 and the slope to 0, as the formula says."""
    below, above = slope(functions.sigmoid, -40.0, 40.0)
    assert below == pytest.approx(math.exp(-40), rel=1e-12)
    assert above == pytest.approx(math.exp(-40), abs=1e-16)
    assert slope(functions.sigmoid, -1e4, 1e4) == [0, 0]


def test_tanh_saturates():
    assert slope(functions.tanh, 0.0) == [1]
    for found, z in zip(slope(functions.tanh, -9.0, 9.0), (-9.0, 9.0), strict=True):
        assert found == pytest.approx(1 / math.cosh(z) ** 2, abs=1e-15)
    assert slope(functions.tanh, -1e4, 1e4) == [0, 0]


TAIL = (-40.0, -12.0, -8.0, -6.0, -5.0, -4.0, -3.5, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 40.0)


def test_gelu_is_right_in_the_tails():
    """Against Φ from the standard library's erfc, which keeps its precision where 1 + erf loses it."""
    for found, z in zip(slope(functions.gelu, *TAIL), TAIL, strict=True):
        normal = math.erfc(-z / math.sqrt(2)) / 2 + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        assert found == pytest.approx(normal, rel=1e-12, abs=2e-16)
        if -6 <= z <= -3:
            assert found == pytest.approx(normal, rel=1e-7)


def test_gelus_approximation_is_right_in_the_tails():
    """Against ½(1 + tanh u) = σ(2u), which does not cancel."""

    def tanh_approximation(z):
        return functions.gelu(z, approximate="tanh")

    for found, z in zip(slope(tanh_approximation, *TAIL), TAIL, strict=True):
        u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        gate = 1 / (1 + math.exp(-2 * u)) if u > -300 else 0.0
        rise = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
        other = 1 / (1 + math.exp(2 * u)) if u < 300 else 0.0
        assert found == pytest.approx(gate + 2 * z * gate * other * rise, rel=1e-12, abs=1e-14)


def test_silu_is_right_in_the_tails():
    for found, z in zip(slope(functions.silu, *TAIL), TAIL, strict=True):
        gate = 1 / (1 + math.exp(-z))
        assert found == pytest.approx(gate * (1 + z / (1 + math.exp(z))), rel=1e-12)


def test_silus_one_pass_and_its_formula_agree():
    """Grad mode chooses between them."""
    inputs = torch.linspace(-20, 20, 41, dtype=torch.float64, requires_grad=True)
    once = torch.autograd.grad(functions.silu(inputs).sum(), inputs)[0]
    formula = torch.autograd.grad(functions.silu(inputs).sum(), inputs, create_graph=True)[0]
    torch.testing.assert_close(once, formula.detach(), rtol=1e-14, atol=1e-15)
    assert formula.requires_grad


def test_softmax_of_minus_infinity():
    """A masked entry has probability and gradient 0, and the rest of its row is as if it were not there."""
    generator = torch.Generator().manual_seed(0)
    logits, delta = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    masked = logits.clone()
    masked[1, [0, 3]] = -torch.inf
    kept = torch.tensor([1, 2, 4])
    masked.requires_grad_()
    probabilities = functions.softmax(masked)
    (gradient,) = torch.autograd.grad((probabilities * delta).sum(), masked)
    p = torch.exp(logits[1, kept]) / torch.exp(logits[1, kept]).sum()
    torch.testing.assert_close(probabilities[1, kept], p, rtol=1e-12, atol=0)
    jacobian = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(gradient[1, kept], jacobian @ delta[1, kept], rtol=1e-12, atol=1e-15)
    assert gradient[1, [0, 3]].tolist() == [0, 0]


def test_softmax_is_taken_in_float32_under_autocast():
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = functions.softmax(inputs)
    assert output.dtype == torch.float32
    assert torch.autograd.grad(output.square().sum(), inputs)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "own"), [(functions.sigmoid, Sigmoid), (functions.tanh, Tanh), (functions.relu, ReLU)]
)
def test_what_is_kept_is_the_output_itself(function, own):
    """So that the next layer, which keeps its input, keeps nothing more."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = function(torch.ones(3, requires_grad=True))
    assert [t.data_ptr() for t in kept] == [output.data_ptr()]


def test_gelu_refuses_an_unknown_approximation():
    with pytest.raises(ValueError, match="approximate must be 'none' or 'tanh', got 'erf'"):
        functions.gelu(torch.ones(2), approximate="erf")
