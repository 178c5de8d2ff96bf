"""The mean of weights against torch's AveragedModel and update_bn, and what is evaluated, saved and resumed of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chainrule_swa import SWA
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from framework import Callback, CheckpointOptions, ConfigError, Trainer, plugins, registry, run
from framework.config import parse

HERE = Path(__file__).parent
PER_EPOCH = 6
"""Steps in an epoch of the data."""


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


class Count(nn.BatchNorm1d):
    """Counts the passes in training mode."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return super().forward(x)


def data(count: int = 44, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long()


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), Count(5), nn.ReLU(), nn.Dropout(dropout), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    ).double()


def fit(*callbacks, model=None, lr=0.02, resume=False, train=None, batch_size=8, **settings) -> Trainer:
    model = model or network()
    settings = {"max_epochs": 5, "checkpoint": CheckpointOptions(every_n_steps=4), **settings}
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    made = Trainer(
        model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, callbacks=callbacks, device="cpu", **settings
    )
    made.fit(train or data(), data(20, seed=1), batch_size=batch_size, resume=resume)
    return made


def averaged(steps, epochs) -> AveragedModel:
    """Return torch's average of the weights after these epochs, with its batch norms' statistics."""
    model = network()
    average = AveragedModel(model)
    for epoch in epochs:
        model.load_state_dict(steps[epoch * PER_EPOCH - 1])
        average.update_parameters(model)
    update_bn([data()], average)
    return average.eval()


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"start": 0.6}, [3, 4, 5]),
        ({"start_epoch": 2, "every": 2}, [2, 4]),
        ({"start": 0.0}, [1, 2, 3, 4, 5]),
        ({"start": 1.0}, [5]),
    ],
)
def test_agrees_with_torch_and_leaves_training_alone(options, epochs):
    plain, traced = Trace(), Trace()
    fit(plain)
    trainer = fit(traced, SWA(**options))
    for one, two in zip(plain.steps, traced.steps, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    inputs, target = data(20, seed=1)
    for evaluation in trainer.history:
        counted = [epoch for epoch in epochs if epoch <= evaluation.epoch]
        if counted:
            scored = F.cross_entropy(averaged(plain.steps, counted)(inputs), target).item()
            assert evaluation.scores["loss/val"] == pytest.approx(scored, rel=1e-6), evaluation.epoch


def test_the_mean_and_the_statistics_in_numbers():
    plain, swa = Trace(), SWA(start_epoch=3)
    fit(plain)
    given = swa.evaluation_weights(fit(swa))
    expected = averaged(plain.steps, [3, 4, 5]).module.state_dict()
    assert given.keys() == expected.keys() - {"1.num_batches_tracked", "5.num_batches_tracked"}
    for name, tensor in given.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-12)


def test_averages_are_saved_and_the_model_ends_with_them(tmp_path):
    trainer = fit(SWA(start_epoch=1), directory=tmp_path)
    saved = load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(saved[name], t) for name, t in trainer.model.state_dict().items())
    best = trainer.score.best.scores["loss/val"]
    assert trainer.evaluate(data(20, seed=1))["loss"] == pytest.approx(best, rel=1e-12)


def test_one_pass_for_each_average_and_none_without_batch_norms(tmp_path):
    model = network()
    fit(SWA(start_epoch=4), model=model, directory=tmp_path)
    assert model[1].passes == 5 * PER_EPOCH + 2  # 44 examples are one batch of evaluation
    plain = nn.Sequential(nn.Linear(6, 2)).double()
    swa = SWA(start_epoch=4)
    assert swa.evaluation_weights(fit(swa, model=plain)).keys() == {"0.weight", "0.bias"}


@pytest.mark.parametrize("kills", [(1,), (12,), (20,), (18, 27)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, kills):
    options = {"start_epoch": 2}
    one = fit(SWA(**options), model=network(dropout=0.2), directory=tmp_path / "whole")
    for number, step in enumerate(kills):
        model = network(dropout=0.2)
        with pytest.raises(KilledError):
            fit(SWA(**options), Kill(step), model=model, directory=tmp_path / "cut", resume=number > 0)
    two = fit(SWA(**options), model=network(dropout=0.2), directory=tmp_path / "cut", resume=True)
    assert repr(one.history) == repr(two.history)
    for file in ("best/model", "last/model", "last/run", "last/optimizer"):
        a, b = (load_file(tmp_path / run / f"{file}.safetensors") for run in ("whole", "cut"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), file


def test_a_run_made_longer_begins_its_average_anew(tmp_path):
    whole, swa = SWA(start=0.5), SWA(start=0.5)
    one = fit(whole, max_epochs=8)
    fit(SWA(start=0.5), directory=tmp_path, max_epochs=3)
    two = fit(swa, directory=tmp_path, max_epochs=8, resume=True)
    assert repr(one.history[3:]) == repr(two.history[3:])
    assert repr(one.history[2]) != repr(two.history[2])
    assert swa.state()["count"] == whole.state()["count"] == 5


def test_a_last_batch_of_one_example_is_left_out():
    inputs, target = data(1025)
    model, swa = network(), SWA(start=0.0)
    trainer = fit(swa, model=model, lr=0.0, train=(inputs, target), batch_size=41, max_epochs=1)
    expected = model[0](inputs[:1024]).mean(0)
    torch.testing.assert_close(swa.evaluation_weights(trainer)["1.running_mean"], expected)


JOB = """
import os, pathlib, sys, test_swa, torch.distributed as dist
test_swa.job(pathlib.Path(sys.argv[1]))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group
"""


def job(folder: Path) -> None:
    swa = SWA(start=0.0)
    trainer = fit(swa, lr=0.0, train=data(2500), batch_size=500, directory=folder / "run", max_epochs=1)
    weights = {name: t.tolist() for name, t in swa.evaluation_weights(trainer).items()}
    (folder / f"{trainer.ranks.index}.json").write_text(json.dumps([weights, trainer.history[0].scores["loss/val"]]))


def test_two_ranks_measure_as_one_does(tmp_path):
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
    swa = SWA(start=0.0)
    alone = fit(swa, lr=0.0, train=data(2500), batch_size=500, max_epochs=1)
    for name, tensor in swa.evaluation_weights(alone).items():
        torch.testing.assert_close(torch.tensor(one[0][name], dtype=torch.float64), tensor, rtol=1e-9, atol=1e-12)
    assert one[1] == pytest.approx(alone.history[0].scores["loss/val"], rel=1e-9)


def test_a_run_of_unknown_length_needs_an_epoch(tmp_path):
    with pytest.raises(ConfigError, match=r"swa.start=0.75 is a fraction of .* set swa.start_epoch, or"):
        fit(SWA(), max_epochs=None, max_time=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.5}, "callback.swa.start must be >= 0 and <= 1, got 1.5"),
        ({"start_epoch": -1}, "callback.swa.start_epoch must be >= 0"),
        ({"every": 0}, "callback.swa.every must be >= 1, got 0"),
        ({"lr": 0.1}, "callback.swa.lr is not a setting"),
    ],
)
def test_bad_options_are_refused(options, message):
    plugins.discover(HERE.parent)
    with pytest.raises(ConfigError, match=message):
        registry.build("callback", "swa", options)


def test_trains_digits_by_name_and_evaluates_to_the_same_figures(tmp_path):
    plugins.discover(HERE.parent)
    mapping = {
        "model": {"name": "mlp", "widths": [32], "norm": "batch"},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "callback": {"swa": {"start": 0.0}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.7
    assert run.evaluate(tmp_path) == json.loads((tmp_path / "result.json").read_text())["test"]
