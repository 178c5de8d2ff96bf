"""The multilayer perceptron and the model without hidden layers."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from framework import models, registry
from framework.errors import ConfigError
from framework.initializers import gain
from framework.models import layers

ACTIVATIONS = ["sigmoid", "tanh", "relu", "gelu", "silu"]
RUNTIME = {"input_shape": (4, 5), "outputs": 3}


def build(name="mlp", **options):
    return registry.build("model", name, options, runtime=RUNTIME)


def test_registered_names():
    assert sorted(registry.components("model")) == ["convnet", "linear", "mlp", "transformer"]
    assert type(build()) is models.MLP
    assert type(build("linear")) is models.Linear


@pytest.mark.parametrize(
    ("activation", "norm", "widths"),
    list(itertools.product(ACTIVATIONS, ["none", "batch", "layer"], [[], [7], [7, 6, 5]])),
)
def test_shapes_and_layout(activation, norm, widths):
    model = build(activation=activation, norm=norm, widths=widths, dropout=0.2)
    assert model(torch.randn(6, 4, 5)).shape == (6, 3)
    assert model.activation == activation
    hidden = [layers.Linear, *{"none": [], "batch": [nn.BatchNorm1d], "layer": [nn.LayerNorm]}[norm]]
    act = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[activation]
    assert [type(layer) for layer in model.layers] == [
        nn.Flatten,
        *[*hidden, act, nn.Dropout] * len(widths),
        layers.Linear,
    ]
    assert all(layer.p == 0.2 for layer in model.modules() if isinstance(layer, nn.Dropout))


def test_dropout_layers_stand_at_rate_zero():
    assert [layer.p for layer in build(widths=[7, 6]).modules() if isinstance(layer, nn.Dropout)] == [0, 0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_the_chapters(activation):
    torch.manual_seed(0)
    model = build(activation=activation, widths=[7, 6], norm="layer").double().eval()
    first, norm, second, second_norm, last = (
        dict(layer.named_parameters()) for layer in model.layers if list(layer.parameters())
    )
    function = getattr(torch, activation, None) or getattr(F, activation)
    inputs = torch.randn(8, 4, 5, dtype=torch.float64)
    a = inputs.reshape(8, 20)
    for linear, scale in ((first, norm), (second, second_norm)):
        z = a @ linear["weight"].T + linear["bias"]
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        a = function(z * scale["weight"] + scale["bias"])
    torch.testing.assert_close(model(inputs), a @ last["weight"].T + last["bias"])


def test_linear_is_a_matrix_and_a_bias():
    torch.manual_seed(0)
    model = build("linear")
    weight, bias = model.parameters()
    nn.init.normal_(bias)
    inputs = torch.randn(6, 4, 5)
    torch.testing.assert_close(model(inputs), torch.einsum("nhw,chw->nc", inputs, weight.view(3, 4, 5)) + bias)
    assert model.activation == "linear"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights(activation):
    torch.manual_seed(0)
    model = models.MLP((400,), 200, widths=(500, 600), activation=activation)
    weights = [layer.weight for layer in model.layers if isinstance(layer, nn.Linear)]
    for index, weight in enumerate(weights):
        outs, ins = weight.shape
        scale = 1.0 if index == 2 else gain(activation)
        if activation in ("relu", "gelu", "silu"):
            expected = scale / ins**0.5
            assert weight.abs().max() > 3 * expected  # normal: a uniform draw ends at √3
        else:
            expected = scale * (2 / (ins + outs)) ** 0.5
            assert weight.abs().max() <= 3**0.5 * expected
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("name", ["mlp", "linear"])
def test_seed_decides_the_weights(name):
    def draw(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(name).parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "rely"}, "model.activation cannot be 'rely': did you mean 'relu'"),
        ({"norm": "bath"}, "model.norm cannot be 'bath': did you mean 'batch'"),
        ({"dropout": 1.0}, "model.dropout must be >= 0 and < 1, got 1"),
        ({"widths": [8, 0]}, r"model.widths\[1\] must be >= 1, got 0"),
        ({"widths": 8}, "model.widths must be a list"),
        ({"width": [8]}, "model.width is not a setting: did you mean 'widths'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_bad_options_from_python():
    with pytest.raises(ConfigError, match="activation 'rely' does not exist: did you mean 'relu'"):
        models.MLP((4,), 2, activation="rely")
    with pytest.raises(ConfigError, match="norm 'bath' does not exist: did you mean 'batch'"):
        models.MLP((4,), 2, norm="bath")
    with pytest.raises(ConfigError, match=r"model 'mlp': dropout must be >= 0 and < 1, got 1\.5"):
        models.MLP((4,), 2, dropout=1.5)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_overfits_one_batch(activation, norm):
    torch.manual_seed(0)
    model = models.MLP((6,), 4, widths=(32, 32), activation=activation, norm=norm)
    inputs, targets = torch.randn(16, 6), torch.arange(16) % 4
    assert overfit(model, inputs, targets, steps=150) < 0.02


def test_linear_separates_what_is_separable():
    torch.manual_seed(0)
    targets = torch.arange(16) % 4
    inputs = F.one_hot(targets, 4) + 0.1 * torch.randn(16, 4)
    assert overfit(models.Linear((4,), 4), inputs, targets, steps=400) < 0.05


def overfit(model, inputs, targets, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return F.cross_entropy(model.eval()(inputs), targets).item()
