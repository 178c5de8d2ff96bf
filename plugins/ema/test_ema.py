"""The moving average against its recursion in plain Python, and what is evaluated, saved and resumed of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chainrule_ema import EMA
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

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


class Trace(Callback):
    """The model's tensors after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_step_end(self, trainer) -> None:
        self.steps.append({name: t.clone() for name, t in trainer.model.state_dict().items()})


def data(count: int = 44, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long()


def network(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(5), nn.Dropout(0.2)] if norm else []
    return nn.Sequential(nn.Linear(6, 5), *middle, nn.Tanh(), nn.Linear(5, 2)).double()


def fit(*callbacks, model=None, resume=False, **settings) -> Trainer:
    model = model or network()
    settings = {
        "max_epochs": 3,
        "loss": nn.CrossEntropyLoss(),
        "checkpoint": CheckpointOptions(every_n_steps=4),
        **settings,
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    made = Trainer(model, optimizer=optimizer, callbacks=callbacks, device="cpu", **settings)
    made.fit(data(), data(20, seed=1), batch_size=8, resume=resume)
    return made


def recursion(steps, name, *, decay, warmup=False, start_step=0, every=1) -> list[float]:
    """Return a tensor's average, number by number."""
    average: list[float] = []
    for count, tensors in enumerate(steps[start_step::every]):
        values = tensors[name].flatten().tolist()
        d = min(decay, (1 + count) / (10 + count)) if warmup else decay
        average = [d * a + (1 - d) * v for a, v in zip(average, values, strict=True)] if count else values
    return average


OPTIONS = [
    {"decay": 0.9, "warmup": False},
    {"decay": 0.5, "warmup": True},
    {"decay": 0.8, "warmup": True, "start_step": 5, "every": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_follows_the_recursion_and_leaves_training_alone(options, accumulate):
    plain, traced, ema = Trace(), Trace(), EMA(**options)
    fit(plain, accumulate=accumulate)
    trainer = fit(traced, ema, accumulate=accumulate)
    for one, two in zip(plain.steps, traced.steps, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    averages = ema.evaluation_weights(trainer)
    assert averages.keys() == plain.steps[0].keys() - {"1.num_batches_tracked"}
    for name, average in averages.items():
        expected = torch.tensor(recursion(plain.steps, name, **options), dtype=torch.float64)
        torch.testing.assert_close(average.flatten(), expected, rtol=1e-12, atol=1e-14)


def test_averages_are_evaluated_and_saved_and_the_trained_weights_before_them(tmp_path):
    plain = Trace()
    fit(plain)
    trainer = fit(EMA(decay=0.8, start_step=8), directory=tmp_path / "run")
    for evaluation in trainer.history:
        expected = network().eval()
        last = plain.steps[evaluation.step - 1]
        values = {
            name: torch.tensor(recursion(plain.steps[: evaluation.step], name, decay=0.8, warmup=True, start_step=8))
            if t.is_floating_point() and evaluation.step > 8
            else t
            for name, t in last.items()
        }
        expected.load_state_dict({name: v.reshape(last[name].shape) for name, v in values.items()})
        inputs, target = data(20, seed=1)
        scored = F.cross_entropy(expected(inputs), target).item()
        assert evaluation.scores["loss/val"] == pytest.approx(scored, rel=1e-6), evaluation.step
    saved = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert all(torch.equal(saved[name], t) for name, t in trainer.model.state_dict().items())
    assert trainer.evaluate(data(20, seed=1))["loss"] == pytest.approx(trainer.score.best.scores["loss/val"], rel=1e-12)


@pytest.mark.parametrize("kills", [(1,), (5,), (12,), (6, 13)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, kills):
    options = {"decay": 0.8, "start_step": 3, "every": 2}
    whole, again = EMA(**options), EMA(**options)
    one = fit(whole, directory=tmp_path / "whole")
    for number, step in enumerate(kills):
        with pytest.raises(KilledError):
            fit(EMA(**options), Kill(step), directory=tmp_path / "cut", resume=number > 0)
    two = fit(again, directory=tmp_path / "cut", resume=True)
    assert repr(one.history) == repr(two.history)
    for file in ("best/model", "last/model", "last/run", "last/optimizer"):
        a, b = (load_file(tmp_path / run / f"{file}.safetensors") for run in ("whole", "cut"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), file
    assert whole.state()["count"] == again.state()["count"] > 1


class OnceBad(nn.CrossEntropyLoss):
    """No number, the tenth time that it trains."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + prediction.requires_grad
        bad = prediction.requires_grad and self.calls == 10
        return super().forward(prediction, target) * (float("nan") if bad else 1)


def test_a_run_that_goes_back_has_the_average_of_one_that_leaves_the_step_out(tmp_path):
    back, out = EMA(decay=0.8), EMA(decay=0.8)
    one = fit(back, loss=OnceBad(), on_nonfinite="rewind", directory=tmp_path / "back")
    two = fit(out, loss=OnceBad(), on_nonfinite="skip", directory=tmp_path / "out")
    assert one.guard.rewinds == 1
    assert two.guard.skipped == 1
    assert [e.scores["loss/val"] for e in one.history] == [e.scores["loss/val"] for e in two.history]
    for name, average in back.state()["averages"].items():
        assert torch.equal(average, out.state()["averages"][name]), name


def test_nothing_before_the_start_and_a_new_run_begins_anew():
    ema = EMA(start_step=1000)
    assert ema.evaluation_weights(fit(ema)) is None
    ema = EMA(decay=0.9)
    first = dict(ema.evaluation_weights(fit(ema)))
    assert all(torch.equal(first[name], average) for name, average in ema.evaluation_weights(fit(ema)).items())


def test_tied_and_half_precision_weights():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 6).bfloat16(), nn.Linear(6, 6).bfloat16()
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.bfloat16())).double()

    ema = EMA(decay=0.999, warmup=False)
    trainer = fit(ema, model=Tied())
    averages = ema.evaluation_weights(trainer)
    assert set(averages) == {"first.weight", "first.bias", "second.bias"}
    assert averages["first.weight"].dtype == torch.float32


JOB = """
import os, pathlib, sys, test_ema, torch.distributed as dist
test_ema.job(pathlib.Path(sys.argv[1]))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group
"""


def job(folder: Path) -> None:
    ema = EMA(decay=0.8)
    trainer = fit(ema, model=network(norm=False), directory=folder / "run")
    averages = {name: t.tolist() for name, t in ema.evaluation_weights(trainer).items()}
    scores = [dict(e.scores) for e in trainer.history]
    (folder / f"{trainer.ranks.index}.json").write_text(json.dumps([averages, scores]))


def test_two_ranks_average_as_one_does(tmp_path):
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
    ema = EMA(decay=0.8)
    alone = fit(ema, model=network(norm=False))
    for name, average in ema.evaluation_weights(alone).items():
        torch.testing.assert_close(torch.tensor(one[0][name], dtype=torch.float64), average, rtol=1e-9, atol=1e-12)
    assert one[1][-1]["loss/val"] == pytest.approx(alone.history[-1].scores["loss/val"], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, "callback.ema.decay must be >= 0 and < 1, got 1"),
        ({"every": 0}, "callback.ema.every must be >= 1, got 0"),
        ({"start_step": -1}, "callback.ema.start_step must be >= 0, got -1"),
        ({"momentum": 0.9}, "callback.ema.momentum is not a setting"),
    ],
)
def test_bad_options_are_refused(options, message):
    plugins.discover(HERE.parent)
    with pytest.raises(ConfigError, match=message):
        registry.build("callback", "ema", options)


def test_trains_digits_by_name_and_evaluates_to_the_same_figures(tmp_path):
    plugins.discover(HERE.parent)
    mapping = {
        "model": {"name": "mlp", "widths": [32], "norm": "batch"},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "callback": {"ema": {"decay": 0.8}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.7
    assert run.evaluate(tmp_path) == json.loads((tmp_path / "result.json").read_text())["test"]
