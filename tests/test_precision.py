import pytest
import torch
from torch import nn

from framework import Trainer
from framework.losses import CrossEntropy
from framework.precision import Precision, masked

CPU = torch.device("cpu")


def test_scale_halves_on_overflow_and_doubles_after_the_interval():
    precision = Precision("fp16", CPU)
    precision.GROWTH_INTERVAL = 3
    assert precision.scale is not None
    start = precision.scale.item()
    bad = [torch.tensor([1.0, float("inf")]), torch.ones(2)]
    assert precision.unscale(bad).item() is True
    assert all((g == 0).all() for g in bad)
    assert precision.scale.item() == start / 2
    for expected in (start / 2, start / 2, start):
        good = [torch.full((2,), precision.scale.item())]
        assert precision.unscale(good).item() is False
        assert torch.equal(good[0], torch.ones(2))
        assert precision.scale.item() == expected


@pytest.mark.parametrize("name", [32, "bf16"])
def test_only_fp16_scales(name):
    precision = Precision(name, CPU)
    loss = torch.tensor(2.0)
    assert precision.scaled(loss) is loss
    assert precision.unscale([torch.ones(1)]) is None


@pytest.mark.parametrize("fused", [False, True])
def test_a_masked_step_is_no_step(fused):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)

    def step(skip: bool) -> None:
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if skip else torch.ones_like(p)
        masked(optimizer.step, optimizer, torch.tensor(skip))

    step(False)
    before = [p.detach().clone() for p in model.parameters()]
    state = [v.clone() for s in optimizer.state.values() for v in s.values()]
    step(True)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    now = [v for s in optimizer.state.values() for v in s.values()]
    assert all(torch.equal(v, old) for v, old in zip(now, state, strict=True))
    step(False)
    assert not torch.equal(before[0], next(iter(model.parameters())))


def test_a_first_step_that_is_skipped_counts_nothing():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(3)  # a penalty's, added after the others became zero
    masked(optimizer.step, optimizer, torch.tensor(True))
    state = optimizer.state[weight]
    assert torch.equal(weight, torch.ones(3))
    assert (state["step"].item(), state["exp_avg"].abs().sum().item()) == (0, 0)


def test_nothing_to_unscale():
    assert Precision("fp16", CPU).unscale([]).item() is False


def test_fp16_scaler_takes_the_steps_that_torch_s_takes():
    """The same scales and skips as torch.amp.GradScaler, whose growth and backoff factors are ours."""
    ours, theirs = Precision("fp16", CPU), torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
    ours.GROWTH_INTERVAL = 2
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for value in (1.0, float("nan"), 1.0, 1.0, 1.0, float("inf"), 1.0, 1.0):
        theirs.scale(torch.zeros(1))
        weight.grad = torch.tensor([value])
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        ours.unscale([torch.tensor([value])])
        assert ours.scale.item() == theirs.get_scale()


def test_a_loss_of_predictions_of_16_bits_has_all_its_digits():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    inputs, target = torch.randn(50, 6), torch.randint(0, 5, (50,))
    scores = Trainer(model, loss=CrossEntropy(), precision="bf16").evaluate((inputs, target))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
    assert logits.dtype is torch.bfloat16
    expected = torch.nn.functional.cross_entropy(logits.double(), target).item()
    assert scores["loss"] == pytest.approx(expected, rel=1e-6)
