"""Initial weights have the distributions of their papers, and go where they should."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from framework import initializers, registry
from framework.errors import ConfigError

GAIN = 1.3
NAMES = [
    "he_normal",
    "he_uniform",
    "orthogonal",
    "truncated_normal",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
LAYERS = {
    "linear": lambda: nn.Linear(200, 300),
    "conv1d": lambda: nn.Conv1d(16, 100, 7),
    "conv2d": lambda: nn.Conv2d(12, 150, 5),
    "conv2d_grouped": lambda: nn.Conv2d(32, 300, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(4, 100, 3),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(40, 80, 3),
    "embedding": lambda: nn.Embedding(300, 80),
}


def torch_he(weight):
    """torch's Kaiming draws for a layer followed by gain GAIN."""
    scale = GAIN / math.sqrt(2)  # "relu" brings its own √2
    normal = nn.init.kaiming_normal_(torch.empty_like(weight), nonlinearity="relu") * scale
    uniform = nn.init.kaiming_uniform_(torch.empty_like(weight), nonlinearity="relu") * scale
    return normal, uniform


def make(name):
    return registry.build("initializer", name, {}, runtime={"gain": GAIN})


def test_registered_names_and_options():
    found = registry.components("initializer")
    assert sorted(found) == NAMES
    assert {o.name: o.default for o in found["xavier_uniform"].signature.options} == {"zero_bias": True}
    assert found["xavier_uniform"].signature.runtime == ("gain",)
    assert found["truncated_normal"].signature.runtime == ()
    for name in NAMES:
        class_name = "".join(part.capitalize() for part in name.split("_"))
        assert getattr(initializers, class_name).__name__ == type(make(name)).__name__ == class_name


@pytest.mark.parametrize("layer", LAYERS)
def test_same_distribution_as_torch(layer):
    torch.manual_seed(0)
    weight = LAYERS[layer]().weight.detach()
    he_normal, he_uniform = torch_he(weight)
    cases = {
        "he_normal": he_normal,
        "he_uniform": he_uniform,
        "xavier_normal": nn.init.xavier_normal_(torch.empty_like(weight), GAIN),
        "xavier_uniform": nn.init.xavier_uniform_(torch.empty_like(weight), GAIN),
    }
    count = weight.numel()
    quantiles = torch.linspace(0.02, 0.98, 25)
    for name, expected in cases.items():
        make(name).fill(weight)
        # The standard error of a sample's standard deviation is at most σ/√(2n); two samples, four of them.
        assert weight.std().item() == pytest.approx(expected.std().item(), rel=4 / math.sqrt(count)), name
        assert abs(weight.mean()) < 5 * expected.std() / math.sqrt(count), name
        difference = weight.flatten().quantile(quantiles) - expected.flatten().quantile(quantiles)
        assert difference.abs().max() < 0.06 * expected.std(), name
        if name.endswith("uniform"):
            assert weight.max().item() == pytest.approx(expected.max().item(), rel=2e-3)
            assert weight.min().item() == pytest.approx(expected.min().item(), rel=2e-3)


@pytest.mark.parametrize(
    ("name", "bound"), [("xavier_uniform", math.sqrt(6 / 500)), ("he_uniform", math.sqrt(3 / 200))]
)
def test_uniform_bounds_by_hand(name, bound):
    torch.manual_seed(0)
    weight = torch.empty(300, 200)
    make(name).fill(weight)
    assert weight.abs().max() <= GAIN * bound
    assert weight.abs().max() > 0.999 * GAIN * bound


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40), (20, 3, 3, 3), (8, 64, 3)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    torch.manual_seed(0)
    weight = torch.empty(shape, dtype=torch.float64)
    make("orthogonal").fill(weight)
    matrix = weight.flatten(1).numpy() / GAIN
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-12)


def test_orthogonal_is_uniform_over_rotations():
    # Without the correction of signs, LAPACK's Q has a diagonal of one sign; Haar's has mean 0, variance 1/n.
    torch.manual_seed(0)
    diagonals = []
    for _ in range(400):
        weight = torch.empty(5, 5)
        initializers.Orthogonal(1.0).fill(weight)
        diagonals.append(weight.diagonal().clone())
    diagonal = torch.cat(diagonals)
    assert abs(diagonal.mean()) < 4 * math.sqrt(0.2 / len(diagonal))
    assert diagonal.square().mean().item() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("bound", [0.5, 2.0, 3.0])
def test_truncated_normal_stays_within_its_bound(bound):
    torch.manual_seed(0)
    weight = torch.empty(400, 500)
    initializers.TruncatedNormal(std=0.1, bound=bound).fill(weight)
    assert weight.abs().max() <= 0.1 * bound
    density, mass = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi), math.erf(bound / math.sqrt(2))
    variance = 1 - 2 * bound * density / mass  # of a standard normal cut at ±bound
    assert weight.std().item() == pytest.approx(0.1 * math.sqrt(variance), rel=0.01)
    expected = nn.init.trunc_normal_(torch.empty(400, 500), std=0.1, a=-0.1 * bound, b=0.1 * bound)
    quantiles = torch.linspace(0.05, 0.95, 19)
    difference = weight.flatten().quantile(quantiles) - expected.flatten().quantile(quantiles)
    assert difference.abs().max() < 0.02 * 0.1


def test_names_are_returned_and_only_those_change():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7)
    names = make("xavier_uniform")(model)
    assert names == ["0.weight", "0.bias", "3.weight", "3.bias"]
    for name, parameter in model.named_parameters():
        if name in names:
            assert (parameter == 0).all() if name.endswith("bias") else (parameter != 7).all()
        else:
            assert (parameter == 7).all()


def test_biases_can_be_kept():
    layer = nn.Linear(4, 3)
    nn.init.constant_(layer.bias, 7)
    initializer = registry.build("initializer", "he_normal", {"zero_bias": False}, runtime={"gain": 1.0})
    assert initializer(layer) == ["weight"]
    assert (layer.bias == 7).all()


def test_shared_computed_and_padding_weights():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 4, padding_idx=2), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["embed"].weight
    model["normed"] = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    before = model["normed"].weight.clone()
    assert make("he_normal")(model) == ["embed.weight"]
    assert (model["embed"].weight[2] == 0).all()
    assert (model["embed"].weight[[0, 1, 3, 4, 5]] != 0).all()
    assert torch.equal(model["normed"].weight, before)


@pytest.mark.parametrize("name", NAMES)
def test_seeded_in_place_and_in_half_precision(name):
    def draw(dtype):
        torch.manual_seed(3)
        layer = nn.Linear(64, 64).to(dtype)
        weight = layer.weight
        make(name)(layer)
        assert layer.weight is weight
        assert weight.requires_grad
        assert weight.grad_fn is None
        return weight.detach()

    assert torch.equal(draw(torch.float32), draw(torch.float32))
    half = draw(torch.bfloat16).float()
    assert half.isfinite().all()
    assert half.std().item() == pytest.approx(draw(torch.float32).std().item(), rel=0.1)


@pytest.mark.parametrize("option", ["std", "bound"])
def test_ranges_are_refused(option):
    with pytest.raises(ConfigError, match=f"initializer.* {option} must be > 0, got -1"):
        initializers.TruncatedNormal(**{option: -1.0})
    with pytest.raises(ConfigError, match=f"initializer.{option} must be > 0, got 0"):
        registry.build("initializer", "truncated_normal", {option: 0})
