"""Schedule-free AdamW against its paper's recursion; evaluated, kept and resumed through a Trainer."""

from pathlib import Path

import pytest
import torch
from chainrule_schedule_free_adamw import ScheduleFreeAdamW
from safetensors.torch import load_file
from torch import nn

from framework import Callback, ConfigError, Trainer, plugins, run
from framework.config import parse
from framework.precision import masked


def slope(step, y):
    """The gradient of a quadratic whose centre moves."""
    return torch.tensor([1.0, 3.0, 0.1], dtype=torch.float64) * (y - 0.3 * (step % 3))


def recursion(x, rates, betas, eps, decay, warmup, r, power):
    """Algorithm 1 with z, x and y apart; yields y and x after each step."""
    z, v, total = x, torch.zeros_like(x), 0.0
    y = x
    for t, rate in enumerate(rates, start=1):
        g = slope(t - 1, y)
        v = betas[1] * v + (1 - betas[1]) * g**2
        gamma = rate * (1 - betas[1] ** t) ** 0.5 * (min(1, t / warmup) if warmup else 1)
        z = z - gamma * g / (v.sqrt() + eps) - gamma * decay * y
        weight = t**r * gamma**power
        total += weight
        c = weight / total
        x = (1 - c) * x + c * z
        y = (1 - betas[0]) * z + betas[0] * x
        yield y, x


@pytest.mark.parametrize(
    ("decay", "warmup", "r", "power", "falling"),
    [(0.0, 0, 0.0, 2.0, False), (0.3, 7, 0.0, 2.0, False), (0.1, 3, 1.5, 1.0, True), (0.1, 0, 0.0, 0.0, True)],
)
def test_follows_the_papers_recursion(decay, warmup, r, power, falling):
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight, betas = nn.Parameter(start.clone()), (0.8, 0.95)
    mine = ScheduleFreeAdamW(
        [weight], betas=betas, eps=1e-3, weight_decay=decay, warmup_steps=warmup, r=r, weight_lr_power=power
    )
    assert mine.evaluation_weights() == {}
    rates = [0.1 * (1 - step / 40 if falling else 1) for step in range(30)]
    expected = recursion(start, rates, betas, 1e-3, decay, warmup, r, power)
    for step, (rate, (y, x)) in enumerate(zip(rates, expected, strict=True)):
        mine.param_groups[0]["lr"] = rate
        weight.grad = slope(step, weight.detach())
        mine.step()
        torch.testing.assert_close(weight.detach(), y, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(mine.evaluation_weights()[weight], x, rtol=1e-10, atol=1e-12)


def test_a_rate_of_zero_moves_nothing_and_weighs_nothing():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    mine = ScheduleFreeAdamW([weight], lr=0.0)
    weight.grad = torch.ones(2)
    mine.step()
    assert weight.tolist() == mine.evaluation_weights()[weight].tolist() == [1.0, 2.0]


def test_a_first_step_that_is_skipped_leaves_the_average_where_the_weights_are():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    mine = ScheduleFreeAdamW([weight])
    weight.grad = torch.ones(2)
    masked(mine.step, mine, torch.tensor(True))
    assert weight.tolist() == mine.evaluation_weights()[weight].tolist() == [1.0, 2.0]


def data(count=24, seed=0):
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0.2).long()


class KilledError(BaseException):
    """Ends a run as a kill does: nothing is saved after it."""


class Kill(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.progress.step == self.step:
            raise KilledError


class Watch(Callback):
    """Keeps the average and the trained weights of each evaluation."""

    def __init__(self):
        self.seen = {}

    def on_evaluated(self, trainer, scalars):
        average = trainer.optimizer.evaluation_weights()
        self.seen[trainer.progress.step] = {
            n: (average[p].clone(), p.detach().clone()) for n, p in trainer.params.items()
        }


def trainer_in(directory, callbacks=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    return Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=ScheduleFreeAdamW(model.parameters(), lr=0.05, warmup_steps=4),
        callbacks=callbacks,
        directory=directory,
        device="cpu",
        max_epochs=4,
    )


def fit(trainer, **options):
    return trainer.fit(data(), data(16, seed=1), batch_size=4, **options)


def test_evaluations_and_the_best_model_take_the_average(tmp_path):
    watch = Watch()
    trainer = trainer_in(tmp_path, [watch])
    result = fit(trainer)
    best = load_file(tmp_path / "best" / "model.safetensors")
    for name, (average, trained) in watch.seen[result.best.step].items():
        assert torch.equal(best[name], average)
        assert not torch.equal(average, trained)
    inputs, target = data(16, seed=1)
    outputs = torch.func.functional_call(trainer.model, best, (inputs,))
    assert result.best.scores["loss/val"] == pytest.approx(nn.functional.cross_entropy(outputs, target).item())


def test_resumes_to_the_bit(tmp_path):
    whole = trainer_in(tmp_path / "whole")
    fit(whole)
    with pytest.raises(KilledError):
        fit(trainer_in(tmp_path / "cut", [Kill(9)]))
    resumed = trainer_in(tmp_path / "cut")
    fit(resumed, resume=True)
    assert resumed.progress == whole.progress
    assert repr(resumed.history) == repr(whole.history)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
        states = whole.optimizer.state[one], resumed.optimizer.state[other]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_state_goes_through_torchs_form_in_bfloat16():
    def make():
        weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        return weight, ScheduleFreeAdamW([weight], lr=0.01)

    (whole, one), (cut, other) = make(), make()
    for step in range(8):
        if step == 5:
            before, saved = cut.detach().clone(), other.state_dict()
            cut, other = make()
            cut.data.copy_(before)
            other.load_state_dict(saved)
        for weight, optimizer in ((whole, one), (cut, other)):
            weight.grad = weight.detach() - step
            optimizer.step()
    assert torch.equal(whole, cut)
    assert torch.equal(one.state[whole]["step"], other.state[cut]["step"])


def test_bad_options_are_refused():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigError, match=r"'schedule_free_adamw': betas\[0\] must be > 0 and < 1, got 0"):
        ScheduleFreeAdamW([weight], betas=(0.0, 0.9))
    with pytest.raises(ConfigError, match="'schedule_free_adamw': warmup_steps must be >= 0, got -1"):
        ScheduleFreeAdamW([weight], warmup_steps=-1)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "schedule_free_adamw", "lr": 0.02},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
