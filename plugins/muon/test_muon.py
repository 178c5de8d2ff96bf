"""Muon against torch.optim's Muon and AdamW, each on the parameters that are its own."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from chainrule_muon import Muon, orthogonalize
from torch import nn

from framework import ConfigError, plugins, run
from framework.config import parse
from framework.models import ConvNet, Transformer
from framework.parameters import GroupOptions, named_parameters, parameter_groups


def network() -> nn.Module:
    torch.manual_seed(0)
    # two of one shape, and tall, wide and square ones
    sizes = [6, 24, 24, 24, 10]
    layers = [nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b)) for a, b in pairwise(sizes)]
    return nn.Sequential(nn.Embedding(8, 6), *layers, nn.Linear(10, 4))


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator)


def muons(mine: Muon, model: nn.Module) -> set[str]:
    held = {id(p) for group in mine.param_groups if group["orthogonal"] for p in group["params"]}
    return {name for name, param in named_parameters(model).items() if id(param) in held}


@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
@pytest.mark.parametrize(("nesterov", "weight_decay"), [(True, 0.0), (False, 0.1)])
def test_goes_as_torchs_two_optimizers(adjust_lr, nesterov, weight_decay):
    model, theirs = network(), network()
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    mine = Muon(model.parameters(), model, adjust_lr=adjust_lr, adamw_lr=0.01, **options)
    hidden = [p for n, p in theirs.named_parameters() if n in {f"{i}.0.weight" for i in (1, 2, 3, 4)}]
    rest = [p for n, p in theirs.named_parameters() if all(p is not h for h in hidden)]
    others = [
        torch.optim.Muon(hidden, adjust_lr_fn=adjust_lr, **options),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=weight_decay),
    ]
    for step in range(20):
        for net, optimizers in ((model, [mine]), (theirs, others)):
            give_gradients(net, step)
            for optimizer in optimizers:
                optimizer.step()
    for (name, a), b in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_convolution_kernels_are_matrices_with_a_row_for_each_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    flat = nn.Parameter(model[0].weight.detach().flatten(1).clone())
    mine, theirs = Muon(model.parameters(), model, lr=0.1), torch.optim.Muon([flat], lr=0.1, weight_decay=0.0)
    for step in range(3):
        give_gradients(model, step)
        flat.grad = model[0].weight.grad.flatten(1)
        mine.step()
        theirs.step()
    torch.testing.assert_close(model[0].weight.flatten(1), flat, rtol=1e-5, atol=1e-5)


def test_singular_values_come_near_one():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((32, 80), (80, 32), (32, 80))]
    matrices.append(matrices[0] * 1e-4)
    for matrix, near in zip(matrices, orthogonalize(matrices), strict=True):
        values = torch.linalg.svdvals(near.float())
        assert 0.6 < values.min() < values.max() < 1.3
        # the same singular vectors: what is left of UVᵀ is a diagonal
        U, _, V = torch.linalg.svd(matrix, full_matrices=False)
        inner = U.T @ near.float() @ V.T
        assert (inner - inner.diag().diag()).abs().max() < 0.1


def test_zero_gradient_leaves_the_weights_still():
    model = network()
    mine = Muon(model.parameters(), model)
    before = copy.deepcopy(model.state_dict())
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    mine.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)
        self.start = nn.Parameter(torch.zeros(1, 4))
        self.inner = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.tokens.weight


@pytest.mark.parametrize(
    ("make", "exclude", "expected"),
    [
        (network, (), {"1.0.weight", "2.0.weight", "3.0.weight", "4.0.weight"}),
        (network, ("2.*", "*4.0.weight"), {"1.0.weight", "3.0.weight"}),
        (Tied, (), {"inner.weight"}),
        (lambda: ConvNet((1, 8, 8), 10), (), {"layers.0.weight", "layers.3.weight", "layers.8.weight"}),
        (lambda: nn.Sequential(nn.Linear(3, 2)), (), set()),
    ],
    ids=["embedding, norms and output", "excluded", "tied", "convolutions", "output alone"],
)
def test_which_parameters_are_muons(make, exclude, expected):
    model = make()
    mine = Muon(parameter_groups(model, lr=0.02), model, exclude=exclude)
    assert muons(mine, model) == expected
    held = [p for group in mine.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    assert [n for g in mine.param_groups for n in g["param_names"]] == [
        next(n for n, p in named_parameters(model).items() if p is param) for param in held
    ]


def test_a_transformer_that_ends_in_its_embedding_keeps_its_last_block():
    model = Transformer((8,), 11, layers=2, heads=2, width=8)
    found = muons(Muon(model.parameters(), model), model)
    assert found == {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}


def test_multipliers_and_decay_reach_both_parts():
    model = network()
    options = GroupOptions(lr_multipliers={"1.*": 3.0, "5.*": 0.5})
    groups = parameter_groups(model, lr=0.04, weight_decay=0.2, options=options)
    mine = Muon(groups, model, lr=0.04, weight_decay=0.2, adamw_lr=0.002)
    rates = {n: (g["lr"], g["weight_decay"]) for g in mine.param_groups for n in g["param_names"]}
    assert rates["1.0.weight"] == pytest.approx((0.12, 0.2))
    assert rates["1.0.bias"] == pytest.approx((0.006, 0.0))
    assert rates["2.0.weight"] == pytest.approx((0.04, 0.2))
    assert rates["5.weight"] == pytest.approx((0.001, 0.2))
    assert mine.param_groups[0]["orthogonal"]


def test_a_group_added_later_is_divided_too():
    model = network()
    mine = Muon(model[:3].parameters(), model, lr=0.04, adamw_lr=0.002)
    mine.add_param_group({"params": list(model[3:].parameters()), "lr": 0.4})
    assert muons(mine, model) == {"1.0.weight", "2.0.weight", "3.0.weight", "4.0.weight"}
    assert [group["lr"] for group in mine.param_groups] == pytest.approx([0.04, 0.002, 0.4, 0.02])


def test_goes_on_from_its_state_to_the_bit():
    model, twin = network(), network()
    whole, begun = Muon(model.parameters(), model), Muon(twin.parameters(), twin)
    for step in range(6):
        give_gradients(model, step)
        whole.step()
        if step == 3:
            state, begun = copy.deepcopy(begun.state_dict()), Muon(twin.parameters(), twin)
            begun.load_state_dict(state)
        give_gradients(twin, step)
        begun.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_bad_options_are_refused():
    model = network()
    with pytest.raises(ConfigError, match=r"optimizer.exclude: '6.\*' matches no trainable parameter: .*5.weight"):
        Muon(model.parameters(), model, exclude=["6.*"])
    with pytest.raises(ConfigError, match="optimizer 'muon': momentum must be >= 0 and < 1, got 1"):
        Muon(model.parameters(), model, momentum=1.0)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "muon", "adamw_lr": 0.01},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
