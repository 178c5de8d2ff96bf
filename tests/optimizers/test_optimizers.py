"""Optimizers take torch.optim's trajectories, hold tensors only, and import no compiler."""

import copy
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from framework import optimizers, registry
from framework.errors import ConfigError

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02}),
    ("SGD", {"lr": 1e-3, "momentum": 0.5, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 1e-3, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.02}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.9}),
    ("RMSprop", {"lr": 1e-3, "centered": True}),
    ("RMSprop", {"lr": 1e-3, "centered": True, "momentum": 0.5, "weight_decay": 0.02, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.02}),
    ("Adagrad", {"initial_accumulator_value": 0.1, "eps": 1e-3, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.02}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.0}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
]
IDS = [f"{name}-{'-'.join(options) or 'defaults'}" for name, options in CASES]


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 3)
    ).to(dtype)


def train(model, optimizer, steps, first=0, dtype=torch.float32):
    """Descend on a fresh random batch each step, the same for everyone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 12, generator=generator, dtype=torch.float64).to(dtype)
        targets = torch.randint(3, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-10)], ids=str)
def test_takes_torchs_trajectory_through_a_checkpoint(name, options, dtype, tolerance):
    model, theirs = make_model(dtype), make_model(dtype)
    mine = getattr(optimizers, name)(model.parameters(), **options)
    train(model, mine, 50, dtype=dtype)
    fresh = getattr(optimizers, name)(model.parameters())
    fresh.load_state_dict(copy.deepcopy(mine.state_dict()))
    train(model, fresh, 50, first=50, dtype=dtype)
    train(theirs, getattr(torch.optim, name)(theirs.parameters(), **options), 100, dtype=dtype)
    moved = (weights(theirs) - weights(make_model(dtype))).abs().max()
    assert moved > 100 * tolerance
    assert (weights(model) - weights(theirs)).abs().max() < tolerance * max(1, weights(theirs).abs().max())


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_momentum_keeps_the_rate_inside_the_velocity(weight_decay):
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    mine = optimizers.Momentum([weight], lr=0.1, beta=0.9, weight_decay=weight_decay)
    w, v = [1.0, -2.0], [0.0, 0.0]
    for step in range(20):
        lr = 0.1 / (1 + step)
        mine.param_groups[0]["lr"] = lr
        weight.grad = weight.detach() ** 3  # of Σw⁴/4
        mine.step()
        v = [0.9 * b + lr * (a**3 + weight_decay * a) for a, b in zip(w, v, strict=True)]
        w = [a - b for a, b in zip(w, v, strict=True)]
    torch.testing.assert_close(weight.detach(), torch.tensor(w, dtype=torch.float64), rtol=1e-12, atol=0)


def test_momentum_at_a_constant_rate_is_sgds():
    model, theirs = make_model(), make_model()
    train(model, optimizers.Momentum(model.parameters(), lr=0.05, beta=0.8), 100)
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.8), 100)
    torch.testing.assert_close(weights(model), weights(theirs), rtol=0, atol=1e-4)


def test_first_step_of_adam_by_hand():
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    weight.grad = torch.tensor([1e-3, -5.0, 0.0])
    optimizers.Adam([weight], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 1.1, 1.0]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_parameters_without_gradient_rest(name):
    model, theirs = make_model(), make_model()
    options = {"momentum": 0.9} if name == "SGD" else {}
    mine = getattr(optimizers, name)(model.parameters(), weight_decay=0.1, **options)
    if name == "Momentum":
        other = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    else:
        other = getattr(torch.optim, name)(theirs.parameters(), weight_decay=0.1, **options)
    frozen = model[0].weight
    for step in range(12):
        resting = step % 3 != 2  # so that its own count lags behind the others'
        before, state = frozen.detach().clone(), copy.deepcopy(mine.state[frozen])
        for net, optimizer in ((model, mine), (theirs, other)):
            net[0].weight.requires_grad_(not resting)
            train(net, optimizer, 1, first=step)
        if resting:
            assert torch.equal(frozen, before)
            assert all(torch.equal(mine.state[frozen][k], state[k]) for k in state)
    torch.testing.assert_close(weights(model), weights(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_groups_have_their_own_options(name):
    def grouped(net):
        return [
            {"params": net[0].parameters(), "lr": 0.03, "weight_decay": 0.2},
            {"params": [*net[2].parameters(), *net[4].parameters()]},
            {"params": net[5].parameters(), "lr": 0.0},
        ]

    model, theirs = make_model(), make_model()
    train(model, getattr(optimizers, name)(grouped(model), lr=0.01), 30)
    train(theirs, getattr(torch.optim, name)(grouped(theirs), lr=0.01), 30)
    torch.testing.assert_close(weights(model), weights(theirs), rtol=0, atol=1e-5)
    assert torch.equal(model[5].weight, make_model()[5].weight)


@pytest.mark.parametrize("name", sorted(registry.components("optimizer")))
def test_bf16_gradients_unchanged_closure_and_state_in_safetensors(name):
    model = make_model(torch.bfloat16)
    options = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    mine = registry.build("optimizer", name, options, runtime={"params": model.parameters()})
    inputs = torch.randn(4, 12, dtype=torch.bfloat16)

    def closure():
        mine.zero_grad(set_to_none=False)  # keeps the tensors, so that state which aliases them shows
        loss = model(inputs).float().pow(2).mean()
        loss.backward()
        return loss

    losses = [mine.step(closure) for _ in range(30)]
    assert losses[-1] < losses[0]
    grads = [p.grad.clone() for p in model.parameters()]
    mine.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))

    state = mine.state_dict()
    flat = {f"{i}.{k}": t for i, tensors in state["state"].items() for k, t in tensors.items()}
    assert flat
    assert all(torch.equal(t, flat[k]) for k, t in load(save(flat)).items())
    values = [v for group in state["param_groups"] for v in group.values()]
    assert all(isinstance(v, float | int | bool | tuple | list) for v in values)


def test_torchs_state_dict_is_taken_up():
    model, theirs = make_model(), make_model()
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, amsgrad=True)
    train(theirs, other, 20)
    model.load_state_dict(theirs.state_dict())
    mine = optimizers.AdamW(model.parameters())
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    train(model, mine, 20, first=20)
    train(theirs, other, 20, first=20)
    torch.testing.assert_close(weights(model), weights(theirs), rtol=0, atol=1e-5)


def test_torchs_schedulers_and_step_hooks_work():
    model = make_model()
    mine = optimizers.SGD(model.parameters(), lr=1.0)
    seen = []
    mine.register_step_post_hook(lambda *_: seen.append(mine.param_groups[0]["lr"]))
    schedule = torch.optim.lr_scheduler.StepLR(mine, step_size=2, gamma=0.5)
    for step in range(4):
        train(model, mine, 1, first=step)
        schedule.step()
    assert seen == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"lr": -1.0}, r"optimizer.lr must be >= 0, got -1"),
        ("adam", {"betas": [0.9, 1.0]}, r"optimizer.betas\[1\] must be >= 0 and < 1, got 1"),
        ("adam", {"betas": [0.9]}, "optimizer.betas must have 2 values"),
        ("momentum", {"beta": 1.0}, "optimizer.beta must be >= 0 and < 1"),
        ("rmsprop", {"alpha": 1.5}, "optimizer.alpha must be >= 0 and <= 1"),
        ("sgd", {"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0"),
        ("sgd", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening 0.1"),
        ("sgd", {"foreach": True}, "optimizer.foreach is not a setting"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("optimizer", name, options, runtime={"params": make_model().parameters()})


def test_bad_parameters_and_positional_rates_are_refused():
    for params in ([], torch.zeros(3), [torch.zeros(3, requires_grad=True) * 2]):
        with pytest.raises((ValueError, TypeError)):
            optimizers.SGD(params)
    with pytest.raises(TypeError):
        optimizers.SGD(make_model().parameters(), 0.1)
    with pytest.raises(ConfigError, match="optimizer 'adamw': weight_decay must be >= 0, got -1"):
        optimizers.AdamW(make_model().parameters(), weight_decay=-1.0)
    mine = optimizers.Adam(make_model().parameters())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        mine.load_state_dict({"state": {}, "param_groups": []})


def test_training_imports_no_compiler():
    code = (
        "import sys, torch\n"
        "from framework.optimizers import AdamW\n"
        "layer = torch.nn.Linear(3, 2)\n"
        "mine = AdamW(layer.parameters())\n"
        "for _ in range(2):\n"
        "    mine.zero_grad(); layer(torch.ones(1, 3)).sum().backward(); mine.step()\n"
        "mine.load_state_dict(mine.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
