"""Parameter groups: who decays, who learns faster, and by which names."""

import pytest
import torch
from torch import nn

import framework
from framework import optimizers
from framework.errors import ConfigError
from framework.parameters import GroupOptions, exempt_from_decay, named_parameters, parameter_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.GroupNorm(2, 4))
        self.norm = nn.LayerNorm((4, 3))  # two-dimensional weights
        self.head = nn.Linear(4, 7, bias=True)
        self.head.weight = self.embed.weight  # tied
        self.scale = nn.Parameter(torch.ones(()))
        self.relative = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(3, 3))})
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


ALL = [
    "scale",
    "embed.weight",
    "body.0.weight",
    "body.0.bias",
    "body.1.weight",
    "body.1.bias",
    "body.2.weight",
    "body.2.bias",
    "norm.weight",
    "norm.bias",
    "head.bias",
    "relative.bias",
]
DECAYING = {"embed.weight", "body.0.weight"}


def by_name(groups, key):
    return {n: g[key] for g in groups for n in g["param_names"]}


def test_names_are_canonical_trainable_and_tied_once():
    net = Net()
    named = named_parameters(net)
    assert list(named) == ALL
    assert named["embed.weight"] is net.head.weight


def test_prefixes_of_wrappers_are_taken_off():
    class Compiled(nn.Module):  # what torch.compile returns holds the model by this name
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        net = Net()
        ddp = nn.parallel.DistributedDataParallel
        for wrapped in (ddp(net), Compiled(net), Compiled(ddp(net)), ddp(Compiled(net))):
            assert list(named_parameters(wrapped)) == ALL
            assert exempt_from_decay(wrapped) == set(ALL) - DECAYING
        net.body = Compiled(net.body)
        assert set(named_parameters(net)) == set(ALL)
    finally:
        torch.distributed.destroy_process_group()
    own = nn.ModuleDict({"module": nn.Linear(1, 1)})  # a user's own name stays
    assert list(named_parameters(own)) == ["module.weight", "module.bias"]


def test_biases_norms_and_vectors_are_exempt():
    net = Net()
    assert exempt_from_decay(net) == set(ALL) - DECAYING
    groups = parameter_groups(net, lr=0.1, weight_decay=0.5)
    assert len(groups) == 2
    assert by_name(groups, "weight_decay") == {n: 0.5 if n in DECAYING else 0.0 for n in ALL}
    assert set(by_name(groups, "lr").values()) == {0.1}
    everything = parameter_groups(net, lr=0.1, weight_decay=0.5, options=GroupOptions(decay_exempt=False))
    assert [g["weight_decay"] for g in everything] == [0.5]
    assert everything[0]["param_names"] == ALL


def test_groups_are_few():
    assert len(parameter_groups(Net(), lr=0.1)) == 1
    options = GroupOptions(lr_multipliers={"body.*": 1.0})
    assert len(parameter_groups(Net(), lr=0.1, weight_decay=0.0, options=options)) == 1


def test_multipliers_go_by_pattern_and_the_last_counts():
    options = GroupOptions(
        lr_multipliers={"body.*": 0.5, "*.0.weight": 3.0, "scale": 0}, decay_multipliers={"embed.*": 2.0}
    )
    groups = parameter_groups(Net(), lr=0.1, weight_decay=0.5, options=options)
    rates = by_name(groups, "lr")
    assert rates["body.0.weight"] == pytest.approx(0.3)
    assert rates["body.0.bias"] == rates["body.1.weight"] == pytest.approx(0.05)
    assert rates["embed.weight"] == 0.1
    assert rates["scale"] == 0
    decays = by_name(groups, "weight_decay")
    assert (decays["embed.weight"], decays["body.0.weight"], decays["head.bias"]) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_multipliers": {"haed.*": 10.0}}, r"lr_multipliers: 'haed.\*' matches no .*mean 'head.\*'"),
        ({"decay_multipliers": {"embed.wieght": 2.0}}, "decay_multipliers: .*mean 'embed.weight'"),
        ({"lr_multipliers": {"frozen.*": 2.0}}, "matches no trainable parameter"),
        ({"lr_multipliers": {"head.*": -2.0}}, r"'head.\*' must be >= 0, got -2"),
    ],
)
def test_bad_patterns_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        parameter_groups(Net(), lr=0.1, options=GroupOptions(**options))


@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, torch.optim.SGD, optimizers.AdamW, optimizers.Momentum], ids=str
)
def test_any_optimizer_takes_the_groups(optimizer):
    net = Net()
    mine = optimizer(framework.parameter_groups(net, lr=0.1, weight_decay=0.5))
    before = {n: p.detach().clone() for n, p in named_parameters(net).items()}
    for param in net.parameters():
        param.grad = torch.zeros_like(param) if param.requires_grad else None
    mine.step()
    moved = {n for n, p in named_parameters(net).items() if not torch.equal(p, before[n])}
    assert moved == DECAYING
    assert sorted(n for g in mine.state_dict()["param_groups"] for n in g["param_names"]) == sorted(ALL)


def test_an_optimizer_without_decay_hears_nothing_of_it():
    groups = parameter_groups(Net(), lr=0.1, weight_decay=None)
    assert len(groups) == 1
    assert "weight_decay" not in groups[0]
    torch.optim.Rprop(groups)
