"""Every term of the chain against autograd's, and against the chapter's own formulas."""

import pytest
import torch
from torch import nn

from framework import ConfigError
from framework.backprop.explanation import explain
from framework.losses import BCELogits, CrossEntropy, Hinge
from framework.models import ConvNet, Transformer


def terms(part):
    return {term.symbol: term.value for term in part}


def test_terms_are_those_of_the_chapter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
    x, y = torch.randn(1, 3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    found = explain(model, BCELogits(), x, y)
    forward, backward = terms(found.forward), terms(found.backward)
    w1, b1, w2, b2 = (p.detach() for p in model.parameters())
    z1 = w1 @ x[0] + b1
    a1 = 1 / (1 + torch.exp(-z1))
    z2 = w2 @ a1 + b2
    prediction = 1 / (1 + torch.exp(-z2))
    delta2 = prediction - y[0]
    delta1 = (w2.T @ delta2) * a1 * (1 - a1)
    expected = {"z1": z1, "a1": a1, "z2": z2, "L": -prediction.log()}
    for name, value in expected.items():
        torch.testing.assert_close(forward[name].flatten(), value)
    expected = {
        "δ2": delta2,
        "∂L/∂W2": torch.outer(delta2, a1),
        "∂L/∂b2": delta2,
        "∂L/∂a1": w2.T @ delta2,
        "δ1": delta1,
    }
    expected |= {"∂L/∂W1": torch.outer(delta1, x[0]), "∂L/∂b1": delta1}
    assert list(expected) == [t.symbol for t in found.backward]
    for name, value in expected.items():
        torch.testing.assert_close(backward[name].flatten(), value.flatten())
    assert [t.symbol for t in found.forward] == ["x", "z1", "a1", "z2", "L"]
    assert "(σ(z2) − y)" in found.backward[0].formula


def test_gradients_of_a_convnet_are_autograds():
    torch.manual_seed(0)
    model = ConvNet((1, 8, 8), 4, channels=(3, 5), hidden=6).eval()
    x, y = torch.randn(1, 1, 8, 8), torch.tensor([2])
    found = explain(model, CrossEntropy(), x, y)
    CrossEntropy()(model(x), y).backward()
    named = dict(model.layers.named_parameters())
    gradients = [p.grad for p in named.values()]
    of_weights = [t.value for t in reversed(found.backward) if t.symbol.startswith(("∂L/∂W", "∂L/∂b"))]
    pairs = zip(sorted(gradients, key=torch.numel), sorted(of_weights, key=torch.numel), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("model", "loss", "reason"),
    [
        (Transformer((8,), 5, layers=1, heads=2, width=8), CrossEntropy(), "Transformer is not a sequence of layers"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softplus()), CrossEntropy(), "Softplus has no hand-written backward"),
        (nn.Sequential(nn.Linear(3, 4)), Hinge(), "Hinge has no hand-written backward"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), CrossEntropy(), "frozen in evaluation mode"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, loss, reason):
    with pytest.raises(ConfigError, match=reason):
        explain(model, loss, torch.randn(1, 3), torch.tensor([1]))
