"""Every regularizer against a second formula or the statistics of what it draws."""

import math

import pytest
import torch
from torch import nn

from framework import registry
from framework.errors import ConfigError
from framework.losses import CrossEntropy
from framework.parameters import named_parameters
from framework.regularizers import (
    L1,
    L2,
    Dropout,
    GradientNoise,
    InputNoise,
    MaxNorm,
    Mixup,
    Regularizer,
    WeightDecay,
)

HOOKS = {
    "l1": {"prepare", "penalty"},
    "l2": {"prepare", "penalty"},
    "weight_decay": {"prepare", "project"},
    "dropout": {"prepare"},
    "max_norm": {"prepare", "project"},
    "gradient_noise": {"on_gradients"},
    "input_noise": {"on_batch"},
    "mixup": {"on_batch"},
}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 3)).double()
    for param in net.parameters():
        nn.init.normal_(param)
    return net


def weights(net: nn.Module, exempt: bool) -> list[torch.Tensor]:
    return [net[0].weight, net[3].weight] if exempt else list(net.parameters())


def test_only_what_is_needed_is_overridden():
    assert set(registry.components("regularizer")) == set(HOOKS)
    about = {"task": "classification", "outputs": 3}
    for name, expected in HOOKS.items():
        made = registry.build("regularizer", name, {}, runtime=about)
        assert isinstance(made, Regularizer)
        hooks = ("prepare", "on_batch", "penalty", "on_gradients", "project")
        assert {h for h in hooks if getattr(type(made), h) is not getattr(Regularizer, h)} == expected


@pytest.mark.parametrize("exempt", [True, False])
@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [(L1, lambda w: w.abs(), torch.sign), (L2, lambda w: w**2, lambda w: 2 * w)],
)
def test_penalties(net, kind, value, slope, exempt):
    regularizer = kind(strength=0.3, exempt=exempt)
    regularizer.prepare(net)
    penalty = regularizer.penalty(net)
    chosen = weights(net, exempt)
    torch.testing.assert_close(penalty, 0.3 * sum(value(w.detach()).sum() for w in chosen))
    penalty.backward()
    for param in net.parameters():
        if any(param is w for w in chosen):
            torch.testing.assert_close(param.grad, 0.3 * slope(param.detach()))
        else:
            assert param.grad is None


def test_l2_is_half_of_sgds_weight_decay(net):
    before = net[0].weight.detach().clone()
    regularizer = L2(strength=0.05)
    regularizer.prepare(net)
    regularizer.penalty(net).backward()
    torch.optim.SGD([net[0].weight], lr=0.1).step()
    twin = nn.Parameter(before.clone())
    twin.grad = torch.zeros_like(twin)
    torch.optim.SGD([twin], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(net[0].weight, twin)


@pytest.mark.parametrize("exempt", [True, False])
def test_weight_decay(net, exempt):
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    regularizer = WeightDecay(strength=0.2, exempt=exempt)
    regularizer.prepare(net)
    lr = {name: 0.1 * (i + 1) for i, name in enumerate(before)}
    regularizer.project(named_parameters(net), lr)
    chosen = weights(net, exempt)
    for name, param in net.named_parameters():
        decays = any(param is w for w in chosen)
        torch.testing.assert_close(param.detach(), before[name] - decays * lr[name] * 0.2 * before[name])


def test_weight_decay_is_adamws_where_the_gradient_is_nothing(net):
    regularizer = WeightDecay(strength=0.2)
    regularizer.prepare(net)
    twin = nn.Parameter(net[0].weight.detach().clone())
    twin.grad = torch.zeros_like(twin)
    torch.optim.AdamW([twin], lr=0.1, weight_decay=0.2).step()
    regularizer.project(named_parameters(net), dict.fromkeys(named_parameters(net), 0.1))
    torch.testing.assert_close(net[0].weight, twin)


def test_names_survive_wrapping(net):
    regularizer = L2(strength=1.0)
    regularizer.prepare(net)
    expected = regularizer.penalty(net)
    torch.testing.assert_close(regularizer.penalty(torch.compile(net, backend="eager")), expected)


def test_frozen_weights_are_left_alone(net):
    net[0].weight.requires_grad_(False)
    regularizer = L2(strength=1.0)
    regularizer.prepare(net)
    torch.testing.assert_close(regularizer.penalty(net), net[3].weight.square().sum())


@pytest.mark.parametrize("kind", [L1, L2, WeightDecay])
def test_nothing_to_act_on(kind):
    with pytest.raises(ConfigError, match=f"{kind.__name__}: the model has no trainable weights.*exempt=false"):
        kind().prepare(nn.BatchNorm1d(3))
    kind(exempt=False).prepare(nn.BatchNorm1d(3))


def test_no_effect_at_strength_0(net):
    before = [p.detach().clone() for p in net.parameters()]
    for penalised in (L1(strength=0), L2(strength=0)):
        penalised.prepare(net)
        assert penalised.penalty(net) == 0
    decay = WeightDecay(strength=0)
    decay.prepare(net)
    params = named_parameters(net)
    decay.project(params, dict.fromkeys(params, 0.1))
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    GradientNoise(scale=0).on_gradients(params, 3)
    for param, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(param, old)
        assert torch.equal(param.grad, torch.ones_like(param))
    inputs = torch.rand(5, 2)
    assert torch.equal(InputNoise(std=0).on_batch((inputs, None))[0], inputs)


def test_dropout_sets_every_layer():
    net = nn.Sequential(nn.Linear(1000, 1000), nn.Dropout(0.0), nn.Sequential(nn.Dropout2d(0.7), nn.AlphaDropout(0.1)))
    Dropout(rate=0.25).prepare(net)
    assert [m.p for m in net.modules() if hasattr(m, "p")] == [0.25] * 3
    torch.manual_seed(0)
    dropped = net[1](torch.ones(400, 1000))
    # 5 standard deviations of a mean of 400,000 draws
    assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 4e5))
    with pytest.raises(ConfigError, match=r"Linear has no dropout layer to set to 0\.5.*model\.dropout="):
        Dropout().prepare(nn.Linear(2, 2))


def test_max_norm_is_renorm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Conv2d(4, 6, 3, groups=2), nn.LayerNorm((2, 3)), nn.Embedding(3, 4))
    net[1].weight.data = net[1].weight.data.to(memory_format=torch.channels_last)
    for param in net.parameters():
        nn.init.normal_(param, std=0.6)
    net[0].weight.data[0] = 0
    before = [p.detach().clone() for p in net.parameters()]
    regularizer = MaxNorm(limit=1.2)
    regularizer.prepare(net)
    params = named_parameters(net)
    for _ in range(2):  # the second time changes nothing
        regularizer.project(params, {})
        for (name, param), old in zip(params.items(), before, strict=True):
            limited = name in ("0.weight", "1.weight")
            torch.testing.assert_close(param.detach(), old.renorm(2, 0, 1.2) if limited else old)
    norms = before[0].norm(dim=1)
    assert (norms < 1.2).any()
    assert (norms > 1.2).any()


@pytest.mark.parametrize("groups", [1, 2])
def test_max_norm_of_a_transposed_convolution(groups):
    """The unit's vector is what an impulse in each input channel and place sends into it."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(4, 6, 3, groups=groups, bias=False)
    MaxNorm.prepare(regularizer := MaxNorm(limit=0.5), layer)
    regularizer.project(named_parameters(layer), {})
    impulses = torch.eye(4).unsqueeze(-1)
    incoming = layer(impulses).detach().square().sum((0, 2)).sqrt()  # (channels in, units, taps)
    assert incoming.max().item() == pytest.approx(0.5, rel=1e-5)
    nn.init.constant_(layer.weight, 1.0)
    regularizer.project(named_parameters(layer), {})
    torch.testing.assert_close(layer(impulses).detach().square().sum((0, 2)).sqrt(), torch.full((6,), 0.5))


@pytest.mark.parametrize("step", [0, 99])
def test_gradient_noise_fades(step):
    torch.manual_seed(0)
    param, without = nn.Parameter(torch.zeros(200_000)), nn.Parameter(torch.zeros(1))
    param.grad = torch.full_like(param, 5.0)
    GradientNoise(scale=0.3, decay=0.55).on_gradients({"a": param, "b": without}, step)
    variance = 0.3 / (1 + step) ** 0.55
    assert without.grad is None
    assert param.grad.mean().item() == pytest.approx(5, abs=5 * math.sqrt(variance / 2e5))
    assert param.grad.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / 2e5))


def test_input_noise():
    torch.manual_seed(0)
    pixels, tokens, target = torch.full((1000, 100), 2.0), torch.arange(5), torch.arange(3)
    (noisy, same), kept = InputNoise(std=0.5).on_batch(((pixels, tokens), target))
    assert kept is target
    assert same is tokens
    assert noisy.mean().item() == pytest.approx(2, abs=5 * 0.5 / math.sqrt(1e5))
    assert noisy.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2e5))
    assert (pixels == 2).all()


def test_mixup_mixes_losses():
    """CE of the mixed target is λ CE(y) + (1 − λ) CE(y'), by the order and λ read off the mixed inputs."""
    torch.manual_seed(0)
    inputs, target = torch.eye(8), torch.randint(5, (8,))
    mixed, soft = Mixup(5, alpha=1.0).on_batch((inputs, target))
    share = mixed.diagonal()[mixed.diagonal() < 1][0]
    rest = mixed - share * inputs
    order = rest.argmax(1)
    torch.testing.assert_close(rest, (1 - share) * inputs[order])
    assert sorted(order.tolist()) == list(range(8))
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    scores = torch.randn(8, 5)
    loss = CrossEntropy()
    expected = share * loss(scores, target) + (1 - share) * loss(scores, target[order])
    torch.testing.assert_close(loss(scores, soft), expected)
    torch.testing.assert_close(
        CrossEntropy(label_smoothing=0.1)(scores, soft), expected * 0.9 - 0.1 * scores.log_softmax(1).mean()
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_share_has_betas_moments(alpha):
    torch.manual_seed(0)
    mixup = Mixup(1, alpha=alpha)
    batch = (torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    draws = torch.stack([mixup.on_batch(batch)[1] for _ in range(3000)])
    moved = draws[:, 0] + draws[:, 1]
    torch.testing.assert_close(moved, torch.ones(3000))
    # the order is drawn too: half the time nothing moves, else the second value is λ of Beta(α, α)
    share = draws[:, 1]
    variance = 1 / (4 * (2 * alpha + 1))
    moment = 0.5 * 0.25 + 0.5 * variance  # of (λ − ½)², which is ¼ where nothing moves
    assert (share - 0.5).square().mean().item() == pytest.approx(moment, abs=5 * 0.13 / math.sqrt(3000))


def test_mixup_of_other_targets():
    torch.manual_seed(0)
    inputs = {"a": torch.rand(6, 2), "b": torch.rand(6, 3, 3)}
    mixed, target = Mixup(2).on_batch((inputs, torch.rand(6, 2)))
    assert {k: v.shape for k, v in mixed.items()} == {k: v.shape for k, v in inputs.items()}
    assert target.shape == (6, 2)
    _, binary = Mixup(1).on_batch((torch.rand(4, 2), torch.tensor([0, 1, 1, 0])))
    assert binary.shape == (4,)
    assert binary.is_floating_point()
    assert Mixup(3).on_batch((torch.rand(4, 2), torch.tensor([0, 1, 2, 0])))[1].shape == (4, 3)


def test_the_same_seed_draws_the_same():
    batch = (torch.rand(6, 2), torch.arange(6) % 3)
    for regularizer in (Mixup(3), InputNoise()):
        drawn = []
        for _ in range(2):
            torch.manual_seed(7)
            drawn.append(regularizer.on_batch(batch))
        assert torch.equal(drawn[0][0], drawn[1][0])
        assert torch.equal(drawn[0][1], drawn[1][1])


def test_nothing_is_read_on_the_host(net):
    """A tensor on the meta device has no values to read."""
    net = net.to("meta")
    params = named_parameters(net)
    for penalised in (L1(), L2()):
        penalised.prepare(net)
        penalised.penalty(net).backward()
    GradientNoise().on_gradients(params, 0)
    for projecting in (WeightDecay(), MaxNorm()):
        projecting.prepare(net)
        projecting.project(params, dict.fromkeys(params, 0.1))
    batch = (torch.rand(6, 2, device="meta"), torch.zeros(6, dtype=torch.long, device="meta"))
    for changing in (Mixup(3), InputNoise()):
        assert changing.on_batch(batch)[0].is_meta


@pytest.mark.parametrize(("regularizer", "name"), [(Mixup(3), "mixup"), (InputNoise(), "input_noise")])
def test_batches_that_cannot_be_changed(regularizer, name):
    with pytest.raises(ValueError, match=f"'{name}' changes batches of \\(inputs, target\\), got a dict"):
        regularizer.on_batch({"inputs": torch.rand(2, 2)})
    with pytest.raises(ValueError, match=f"'{name}' needs floating-point inputs"):
        regularizer.on_batch((torch.arange(4), torch.arange(4) % 3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("l2", {"strength": -1}, r"regularizer\.l2\.strength must be >= 0"),
        ("dropout", {"rate": 1.0}, "rate must be >= 0 and < 1"),
        ("max_norm", {"limit": 0}, "limit must be > 0"),
        ("mixup", {"alpha": 0}, "alpha must be > 0"),
        ("input_noise", {"std": -0.1}, "std must be >= 0"),
        ("gradient_noise", {"dekay": 1}, "did you mean 'decay'"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("regularizer", name, options, runtime={"task": "classification", "outputs": 3})
