"""The range test against gradient descent in plain Python, and the run after it against one that was given its rate."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chainrule_lr_finder import LRFinder, smoothed, steepest
from torch import Tensor, nn

from framework import Callback, CheckpointOptions, ConfigError, Trainer, plugins, registry, run
from framework.config import parse

HERE = Path(__file__).parent


class KilledError(BaseException):
    """Ends a run as a kill does."""


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer) -> None:
        if trainer.progress.step == self.step:
            raise KilledError


def data(count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long()


def network(dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 2)).double()


def fit(*callbacks, lr=0.01, resume=False, model=None, scheduler=None, train=None, **settings) -> Trainer:
    model = model or network()
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters()}, {"params": model[1:].parameters(), "lr": 2 * lr}], lr=lr
    )
    settings = {"max_epochs": 3, "loss": nn.CrossEntropyLoss(), **settings}
    made = Trainer(
        model,
        optimizer=optimizer,
        scheduler=scheduler(optimizer) if scheduler else None,
        callbacks=callbacks,
        device="cpu",
        **settings,
    )
    made.fit(train or data(), data(20, seed=1), batch_size=8, resume=resume)
    return made


def assert_same(ours: Trainer, theirs: Trainer) -> None:
    assert ours.progress == theirs.progress
    assert repr(ours.history) == repr(theirs.history)
    for (name, a), b in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    one, two = (t.optimizer.state_dict() for t in (ours, theirs))
    assert [g["lr"] for g in one["param_groups"]] == [g["lr"] for g in two["param_groups"]]
    for place, state in one["state"].items():
        assert all(torch.equal(value, two["state"][place][key]) for key, value in state.items()), place


class Quadratic(nn.Module):
    """Predicts the same values, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


CURVATURE = [8.0, 2.0, 1.0]


def bowl(prediction: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (prediction.square() * torch.tensor(CURVATURE, dtype=torch.float64)).sum(1).mean()


@pytest.mark.parametrize("options", [{}, {"steps": 40, "smoothing": 0.5, "stop_at": 2.0, "low": 1e-3, "high": 100.0}])
def test_follows_gradient_descent_on_a_quadratic(tmp_path, options):
    model = Quadratic()
    trainer = Trainer(
        model,
        loss=bowl,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3),
        callbacks=[finder := LRFinder(apply=False, **options)],
        directory=tmp_path,
        device="cpu",
        max_epochs=1,
    )
    trainer.fit((torch.zeros(4, 1), torch.zeros(4, 1)), batch_size=4)
    full = {"low": 1e-7, "high": 10.0, "steps": 100, "smoothing": 0.9, "stop_at": 4.0, **options}
    w, rates, losses, curve, mean = [1.0, -2.0, 0.5], [], [], [], 0.0
    for step in range(full["steps"]):
        rates.append(full["low"] * (full["high"] / full["low"]) ** (step / (full["steps"] - 1)))
        losses.append(sum(0.5 * c * v * v for c, v in zip(CURVATURE, w, strict=True)))
        mean = full["smoothing"] * mean + (1 - full["smoothing"]) * losses[-1]
        curve.append(mean / (1 - full["smoothing"] ** (step + 1)))
        w = [v - rates[-1] * c * v for c, v in zip(CURVATURE, w, strict=True)]
        if curve[-1] > full["stop_at"] * min(curve):
            break
    assert len(losses) < full["steps"]
    written = json.loads((tmp_path / "lr_finder.json").read_text())
    assert written["lr"] == pytest.approx(rates, rel=1e-9)
    assert written["loss"] == pytest.approx(losses, rel=1e-9)
    assert written["smoothed"] == pytest.approx(curve, rel=1e-9)
    skipped = round(1 / (1 - full["smoothing"]))
    slopes = {rate: curve[i + 1] - curve[i - 1] for i, rate in enumerate(rates) if skipped <= i < len(rates) - 1}
    assert written["found"] == finder.found == pytest.approx(min(slopes, key=slopes.get), rel=1e-9)
    # gradient descent is stable below 2 / L, and fastest in one direction at 1 / L
    assert 0.1 / max(CURVATURE) < finder.found < 2 / max(CURVATURE)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("high", [10.0, 1e6])
def test_the_run_is_the_one_that_was_given_the_rate(tmp_path, policy, high):
    finder = LRFinder(low=1e-4, high=high, steps=60)
    settings = {"on_nonfinite": policy, "scheduler": lambda _: lambda step: 1 / (1 + step)}
    found = fit(finder, directory=tmp_path / "found", **settings)
    assert finder.found is not None
    assert finder.found != 0.01
    assert_same(found, fit(lr=finder.found, directory=tmp_path / "given", **settings))
    assert_same(fit(LRFinder(apply=False)), fit())
    assert not (tmp_path / "found" / "skipped.jsonl").exists()


def test_losses_that_are_no_numbers_end_the_test_and_not_the_run(tmp_path):
    class Steep(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return nn.functional.cross_entropy(prediction, target) + prediction.square().mean().exp() - 1

    for policy in ("stop", "skip", "rewind"):
        finder = LRFinder(low=1e-3, high=1e6, steps=12, smoothing=0.0, stop_at=1e300)
        folder = tmp_path / policy
        trainer = fit(finder, loss=Steep(), lr=1e-5, on_nonfinite=policy, directory=folder, max_epochs=1)
        curve = json.loads((folder / "lr_finder.json").read_text())
        assert 3 <= len(curve["loss"]) < 12
        assert all(map(math.isfinite, curve["loss"]))
        assert trainer.guard.skipped == 0
        assert not (folder / "skipped.jsonl").exists()


@pytest.mark.parametrize("kill", [1, 7])
def test_a_resumed_run_keeps_the_rate(tmp_path, kill):
    settings = {"checkpoint": CheckpointOptions(every_n_steps=3), "scheduler": lambda _: lambda step: 0.9**step}
    whole = fit(one := LRFinder(low=1e-4, steps=30), directory=tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        fit(LRFinder(low=1e-4, steps=30), KillAfterSearch(kill), directory=tmp_path / "cut", **settings)
    cut = fit(two := LRFinder(low=1e-4, steps=30), directory=tmp_path / "cut", resume=True, **settings)
    assert one.found == two.found
    assert_same(whole, cut)


class KillAfterSearch(Kill):
    """Counts from the run's first step on."""

    started = False

    def on_fit_start(self, trainer) -> None:
        self.started = True

    def on_step_end(self, trainer) -> None:
        if self.started:
            super().on_step_end(trainer)


def test_a_second_run_searches_again(tmp_path):
    finder = LRFinder(low=1e-4, steps=30)
    fit(finder)
    first, finder.found = finder.found, None
    fit(finder)
    assert finder.found == first


def test_a_loss_that_never_falls_leaves_the_rate(capfd):
    finder = LRFinder(low=1e-4, steps=10)
    trainer = fit(finder, loss=lambda prediction, target: prediction.sum() * 0 + 1)
    assert finder.found is None
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.01, 0.02]
    assert "lr_finder: the loss did not fall at 10 rates from 0.0001 on" in capfd.readouterr().err


def test_smoothing_and_slope_in_numbers():
    assert smoothed([2.0, 4.0, 1.0], 0.5) == pytest.approx([2.0, (0.5 * 4 + 0.25 * 2) / 0.75, (0.5 + 1 + 0.25) / 0.875])
    assert steepest([1, 10, 100, 1000], [5, 4, 1, 0]) == 10
    assert steepest([1, 10, 100, 1000, 10000], [9, 4, 3, 1, 0], skip=2) == 100
    assert steepest([1, 10, 100], [1, 2, 3]) is None
    assert steepest([1, 10], [1, 0]) is None


JOB = """
import os, pathlib, sys, test_lr_finder, torch.distributed as dist
test_lr_finder.job(pathlib.Path(sys.argv[1]))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group
"""


def job(folder: Path) -> None:
    finder = LRFinder(low=1e-4, steps=30)
    model = nn.Sequential(*[module for module in network(0.0) if not isinstance(module, nn.BatchNorm1d)])
    trainer = fit(finder, model=model, directory=folder / "run")
    (folder / f"{trainer.ranks.index}.json").write_text(json.dumps([finder.found, model[0].weight.tolist()]))


def test_two_ranks_find_the_rate_of_one(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    path = os.pathsep.join([str(HERE), str(Path(run.__file__).parents[2])])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, tmp_path / "job.py", tmp_path],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    (tmp_path / "alone").mkdir()
    job(tmp_path / "alone")
    found, weights = json.loads((tmp_path / "alone" / "0.json").read_text())
    assert one[0] == found
    torch.testing.assert_close(torch.tensor(one[1]), torch.tensor(weights))


def test_a_scheduler_of_torch_s_is_refused_unless_nothing_is_applied():
    def scheduler(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)

    with pytest.raises(ConfigError, match="a StepLR keeps base rates of its own, got a new one"):
        fit(LRFinder(), scheduler=scheduler)
    finder = LRFinder(apply=False, low=1e-4, steps=30)
    assert_same(fit(finder, scheduler=scheduler), fit(scheduler=scheduler))
    assert finder.found is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "lr_finder.low must be below lr_finder.high=0.1, got 1"),
        ({"steps": 2}, "callback.lr_finder.steps must be >= 3, got 2"),
        ({"smoothing": 1.0}, "callback.lr_finder.smoothing must be >= 0 and < 1, got 1"),
        ({"stop_at": 1.0}, "callback.lr_finder.stop_at must be > 1, got 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    plugins.discover(HERE.parent)
    with pytest.raises(ConfigError, match=message):
        registry.build("callback", "lr_finder", options)


def test_trains_digits_by_name(tmp_path, capfd):
    plugins.discover(HERE.parent)
    mapping = {
        "model": {"name": "mlp", "widths": [32], "norm": "batch"},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adamw", "lr": 1e-6},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "callback": {"lr_finder": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.7
    assert "lr_finder: the loss falls fastest at lr=" in capfd.readouterr().err
