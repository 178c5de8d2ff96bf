"""An optimizer that went through its parts goes on as torch's own state dict would."""

import copy
import json

import pytest
import torch
from torch import nn

from framework import registry
from framework.checkpoint import load_optimizer, optimizer_parts
from framework.errors import ConfigError

OURS = {name: c.load() for name, c in registry.components("optimizer").items()}
TORCHS = {name: getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "Rprop")}


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
    optimizer.step()


def groups(net: nn.Module) -> list[dict]:
    first, *rest = net.parameters()
    return [{"params": rest}, {"params": [first], "lr": 0.03}]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


@pytest.mark.parametrize("name", [*OURS, *TORCHS])
def test_goes_on_bit_for_bit(name):
    make = OURS.get(name) or TORCHS[name]
    one = net()
    optimizer = make(groups(one), lr=0.01)
    for seed in range(3):
        step(one, optimizer, seed)
    optimizer.param_groups[0]["lr"] = 0.02
    tensors, values = optimizer_parts(optimizer)
    values = json.loads(json.dumps(values, allow_nan=False))
    two = copy.deepcopy(one)
    other = make(groups(two), lr=0.01)
    load_optimizer(other, tensors, values, hyperparameters=True)
    kinds = [{k: type(v) for k, v in g.items()} for g in other.param_groups]
    assert kinds == [{k: type(v) for k, v in g.items()} for g in optimizer.param_groups]
    for seed in range(3, 6):
        step(one, optimizer, seed)
        step(two, other, seed)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            found = other.state[b][key]
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


def test_dtypes_stay_and_the_copies_are_no_part_of_the_optimizer():
    one = net().to(torch.bfloat16)
    optimizer = torch.optim.Adam(one.parameters())
    step(one, optimizer, 0)
    wide = torch.tensor([1 / 3, 1e-300], dtype=torch.float64)
    optimizer.state[one[0].weight]["wide"] = wide  # torch's own load_state_dict would round it to bfloat16
    tensors, values = optimizer_parts(optimizer)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    step(one, optimizer, 1)
    assert not torch.equal(kept["0.exp_avg"], optimizer.state[one[0].weight]["exp_avg"])
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
    load_optimizer(optimizer, tensors, values, hyperparameters=True)
    loaded = optimizer.state[one[0].weight]
    assert torch.equal(loaded["wide"], wide)
    assert [loaded[key].dtype for key in ("exp_avg", "step")] == [torch.bfloat16, torch.float32]
    step(one, optimizer, 1)
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())


def test_hyperparameters_may_stay_as_they_are_now_and_a_tensor_stays_that_tensor():
    one = net()
    optimizer = torch.optim.Adam(one.parameters(), lr=torch.tensor(0.5), betas=(0.5, 0.6))
    step(one, optimizer, 0)
    tensors, values = optimizer_parts(optimizer)
    rate = torch.tensor(0.25)
    other = torch.optim.Adam(one.parameters(), lr=rate)
    load_optimizer(other, tensors, values, hyperparameters=False)
    assert (rate.item(), other.param_groups[0]["betas"]) == (0.25, (0.9, 0.999))
    assert other.state[one[0].weight]["step"] == 1
    load_optimizer(other, tensors, values, hyperparameters=True)
    assert other.param_groups[0]["lr"] is rate
    assert (rate.item(), other.param_groups[0]["betas"]) == (0.5, (0.5, 0.6))


def test_another_optimizer_is_refused():
    tensors, values = optimizer_parts(torch.optim.Adam(net().parameters()))
    with pytest.raises(ConfigError, match=r"groups of \[3, 1\] parameters, the checkpoint's has groups of \[4\]"):
        load_optimizer(torch.optim.Adam(groups(net())), tensors, values, hyperparameters=True)
    one = torch.optim.Adam(net().parameters())
    with pytest.raises(ConfigError, match=r"'9.exp_avg', and there is no parameter 9"):
        load_optimizer(one, {"9.exp_avg": torch.ones(1)}, values, hyperparameters=True)
