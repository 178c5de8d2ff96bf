"""The convolutional network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from framework import models, registry
from framework.errors import ConfigError
from framework.initializers import gain
from framework.models import layers


def build(input_shape=(3, 8, 8), **options):
    return registry.build("model", "convnet", options, runtime={"input_shape": input_shape, "outputs": 5})


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu", "silu"])
def test_shapes_for_each_activation_and_norm(activation, norm):
    model = build(channels=[4, 6], activation=activation, norm=norm)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    assert model.activation == activation
    count = {"none": 0, "batch": 2, "layer": 2}[norm]
    assert sum(isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) for layer in model.layers) == count


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("channels", "hidden"), [([], 0), ([4], 0), ([4, 6], 10)])
@pytest.mark.parametrize("shape", [(3, 8, 8), (9, 11), (1, 28, 7)])
def test_shapes_for_each_size(shape, channels, hidden, kernel):
    model = build(shape, channels=channels, hidden=hidden, kernel=kernel)
    assert model(torch.randn(2, *shape)).shape == (2, 5)


def test_layout():
    assert [type(layer) for layer in build((8, 8), channels=[4, 6], norm="batch").layers] == [
        nn.Unflatten,
        *[nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d] * 2,
        *[nn.Flatten, nn.Dropout, layers.Linear, nn.ReLU, nn.Dropout, layers.Linear],
    ]
    dropouts = [layer.p for layer in build(dropout=0.3, hidden=0).layers if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.3]


def test_forward_by_hand():
    torch.manual_seed(0)
    model = build((7, 6), channels=[4], hidden=10).double()
    conv, conv_bias, first, first_bias, last, last_bias = model.parameters()
    images = torch.randn(2, 7, 6, dtype=torch.float64)
    patches = F.unfold(images.unsqueeze(1), 3, padding=1)  # (N, 9, 42)
    maps = (conv.view(4, 9) @ patches + conv_bias[:, None]).view(2, 4, 7, 6).clamp(min=0)
    pooled = maps[:, :, :6].view(2, 4, 3, 2, 3, 2).amax((3, 5))
    hidden = (pooled.reshape(2, -1) @ first.T + first_bias).clamp(min=0)
    torch.testing.assert_close(model(images), hidden @ last.T + last_bias)


def test_layer_norm_is_over_channels_and_positions():
    torch.manual_seed(0)
    model = build((2, 8, 8), channels=[4], norm="layer")
    images = 5 + 3 * torch.randn(2, 2, 8, 8)
    normed = model.layers[:2](images)
    torch.testing.assert_close(normed, F.layer_norm(model.layers[0](images), (4, 8, 8)), atol=1e-5, rtol=1e-5)


def test_initial_weights():
    torch.manual_seed(0)
    model = build((16, 8, 8), channels=[64, 64], activation="gelu", hidden=200)
    weights = [p for p in model.parameters() if p.ndim > 1]
    for index, weight in enumerate(weights):
        expected = (1.0 if index == 3 else gain("gelu")) / weight[0].numel() ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


def test_seed_decides_the_weights():
    def draw(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build().parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((64,), {}, r"needs images \(C, H, W\) or \(H, W\), got inputs of shape \(64,\); use model=mlp"),
        ((1, 6, 8), {"channels": [4, 4, 4]}, r"at most 2 channels, such as model.channels=\[4, 4\]"),
        ((1, 8), {"channels": [4]}, r"at most 0 channels, such as model.channels=\[\]"),
        ((8, 8), {"kernel": 0}, "model.kernel must be >= 1, got 0"),
        ((8, 8), {"hidden": -1}, "model.hidden must be >= 0, got -1"),
    ],
)
def test_bad_input(shape, options, message):
    with pytest.raises(ConfigError, match=message):
        build(shape, **options)


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = models.ConvNet((8, 8), 4, channels=(8, 8), hidden=16)
    images, targets = torch.randn(16, 8, 8), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
    assert F.cross_entropy(model(images), targets) < 0.02
