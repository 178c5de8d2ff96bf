"""A loss or a gradient that is no finite number, planted: what the run does and says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import Keep, blobs, small_model, trainer, weights, without_steps
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from framework import ConfigError, Regularizer
from framework.batching.order import epoch_order
from framework.faults import guard as guards

NAN = float("nan")


def planted(example: int = 17, value: float = NAN) -> tuple[Tensor, Tensor]:
    inputs, target = blobs()
    inputs[example, 0] = value
    return inputs, target


def order_of(epoch: int) -> list[int]:
    return epoch_order(60, seed=0, epoch=epoch, sampling="shuffled").tolist()


def step_of(example: int, epoch: int) -> int:
    """The step, of batches of 10, that has an example."""
    return epoch * 6 + order_of(epoch).index(example) // 10


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "skipped.jsonl").read_text().splitlines()]


class Plant(Regularizer):
    """Puts a value into one parameter's gradient at some steps."""

    def __init__(self, name: str, *steps: int, value: float = NAN) -> None:
        self.name, self.steps, self.value = name, steps, value

    def on_gradients(self, params, step):
        if step in self.steps:
            params[self.name].grad.view(-1)[0] = self.value


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_a_skipped_step_is_one_without_an_update(decided_on, tmp_path, backprop, accumulate, norm):
    bad = {step_of(17, 0), step_of(17, 1)}
    settings = {"max_epochs": 2, "accumulate": accumulate, "backprop": backprop, "log_every": 4}
    kept, expected = Keep(), Keep()
    ours = trainer(small_model(norm=norm), on_nonfinite="skip", directory=tmp_path, callbacks=[kept], **settings)
    result = ours.fit(planted(), batch_size=10)
    without_steps(trainer(small_model(norm=norm), callbacks=[expected], **settings), bad).fit(blobs(), batch_size=10)
    assert (result.status, result.steps, ours.guard.skipped) == ("finished", 12, 2)
    assert all(torch.equal(a, b) for a, b in zip(kept.weights, expected.weights, strict=True))
    assert [(line["step"], line["epoch"], line["reason"]) for line in lines(tmp_path)] == [
        (step, epoch, "loss") for epoch, step in enumerate(sorted(bad))
    ]
    for line in lines(tmp_path):
        start = line["step"] % 6 * 10
        assert (line["positions"], line["of"]) == (order_of(line["epoch"])[start : start + 10], "training set")
        assert line["what"] == "the loss is nan"


@pytest.mark.parametrize("settings", [{}, {"clip_value": 1.0}, {"clip_norm": 1.0}, {"precision": "fp16"}])
def test_an_infinite_gradient_of_one_parameter_is_named(decided_on, tmp_path, settings):
    kept, expected = Keep(), Keep()
    plant = Plant("0.bias", 3, value=float("inf"))
    ours = trainer(
        on_nonfinite="skip", regularizers=[plant], directory=tmp_path, callbacks=[kept], max_epochs=1, **settings
    )
    ours.fit(blobs(), batch_size=10)
    without_steps(trainer(callbacks=[expected], max_epochs=1, **settings), {3}).fit(blobs(), batch_size=10)
    assert all(torch.equal(a, b) for a, b in zip(kept.weights, expected.weights, strict=True))
    (line,) = lines(tmp_path)
    assert (line["step"], line["reason"]) == (3, "gradient")
    assert line["what"].startswith("the gradient of 0.bias is not finite (1 of 4 parameters) with the loss is")


def test_the_curves_leave_a_skipped_step_out_and_count_it(decided_on):
    logged: list[dict[str, float]] = []
    for data, settings in [(planted(), {"on_nonfinite": "skip"}), (blobs(), {})]:
        ours = trainer(max_epochs=1, log_every=6, optimizer=torch.optim.SGD, **settings)
        for group in ours.optimizer.param_groups:
            group["lr"] = 0.0
        ours.fit(data, batch_size=10)
        logged.append(ours.history[0].scores["loss/train"])
    inputs, target = blobs()
    start = step_of(17, 0) * 10
    rest = [i for i in order_of(0) if i not in order_of(0)[start : start + 10]]
    expected = nn.functional.cross_entropy(small_model()(inputs[rest]), target[rest]).item()
    assert logged[0] == pytest.approx(expected, rel=1e-5)


def test_stop_keeps_the_weights_of_before_and_says_where(tmp_path):
    bad = step_of(17, 0)
    kept = Keep()
    ours = trainer(max_epochs=2, directory=tmp_path, callbacks=[kept])
    result = ours.fit(planted(), batch_size=10)
    assert (result.status, result.reason, result.steps) == ("failed", "nonfinite", bad + 1)
    assert torch.equal(weights(ours.model), kept.weights[bad - 1] if bad else weights(small_model()))
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["status"] == "failed"
    assert written["error"].startswith(f"step {bad} (epoch 0): the loss is nan: look at that batch")
    assert "trainer.on_nonfinite=skip" in written["error"]
    assert not (tmp_path / "skipped.jsonl").exists()


def test_stop_on_a_device_ends_at_the_log_point_with_the_first_weights(monkeypatch, tmp_path):
    made = guards.Guard.__init__
    monkeypatch.setattr(guards.Guard, "__init__", lambda self, *a: (made(self, *a), setattr(self, "on_host", False))[0])
    ours = trainer(max_epochs=3, log_every=4, regularizers=[Plant("2.weight", 5)], evaluate_every=2, directory=tmp_path)
    result = ours.fit(blobs(), batch_size=10)
    assert (result.status, result.steps) == ("failed", 8)
    assert "step 5 (epoch 0): the gradient of 2.weight is not finite (1 of 4 parameters)" in result.error
    assert torch.equal(weights(ours.model), weights(small_model()))
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize(("step", "settings"), [(5, {}), (3, {}), (3, {"clip_norm": 1.0}), (0, {})])
def test_stop_finds_a_gradient_s_step_on_the_host_by_the_weights_that_it_spoils(tmp_path, step, settings):
    ours = trainer(max_epochs=3, regularizers=[Plant("0.bias", step)], directory=tmp_path, **settings)
    result = ours.fit(blobs(), batch_size=10)
    assert (result.status, result.reason) == ("failed", "nonfinite")
    assert f"step {step} (epoch 0): the gradient of 0.bias is not finite" in result.error
    assert "(1 of 4 parameters)" in result.error
    assert torch.isfinite(weights(ours.model)).all()
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("step", [8, 11])
def test_the_best_weights_come_back_after_a_stop(decided_on, tmp_path, step):
    kept = Keep()
    ours = trainer(max_epochs=3, regularizers=[Plant("2.weight", step)], directory=tmp_path, callbacks=[kept])
    result = ours.fit(blobs(), blobs(seed=1), batch_size=10)
    assert (result.status, result.best.step) == ("failed", 6)
    assert torch.equal(weights(ours.model), kept.weights[5])
    assert (tmp_path / "last").resolve().name == "step-6"


def test_the_gradient_nearest_to_the_loss_is_named_first():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient / 0

    class Spoilt(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.third = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.third(Bad.apply(self.second(self.first(x))))

    result = trainer(Spoilt(), max_epochs=1).fit(blobs(), batch_size=10)
    assert "step 0 (epoch 0): the gradient of second.bias is not finite (4 of 6 parameters)" in result.error


@pytest.mark.parametrize("resumed", [False, True])
def test_rewind_leaves_the_step_out_and_a_resume_too(decided_on, tmp_path, resumed):
    bad = {step_of(17, 0), step_of(17, 1)}
    kept, expected = Keep(), Keep()
    settings = {"optimizer": torch.optim.AdamW, "log_every": 4, "directory": tmp_path, "on_nonfinite": "rewind"}
    ours = trainer(callbacks=[kept], max_epochs=2 if not resumed else 1, **settings)
    ours.fit(planted(), batch_size=10)
    if resumed:
        assert ours.guard.left_out == {min(bad)}
        ours = trainer(callbacks=[kept], max_epochs=2, **settings)
        ours.fit(planted(), batch_size=10, resume=True)
    without_steps(trainer(callbacks=[expected], max_epochs=2), bad).fit(blobs(), batch_size=10)
    assert torch.equal(kept.weights[-1], expected.weights[-1])
    assert ours.guard.left_out == bad
    assert ours.progress.step == 12
    assert [line["step"] for line in lines(tmp_path)] == sorted(bad)


def test_rewinding_without_end_ends(tmp_path):
    plant = Plant("0.bias", *range(99))
    ours = trainer(max_epochs=9, on_nonfinite="rewind", directory=tmp_path, regularizers=[plant], evaluate_every=9)
    result = ours.fit(blobs(), batch_size=10)
    assert result.status == "failed"
    assert "the run went back to step 0 10 times, the last for step 10" in result.error
    with pytest.raises(ConfigError, match="needs checkpoints to go back to"):
        trainer(on_nonfinite="rewind")


def test_skipping_without_end_ends(monkeypatch, decided_on):
    monkeypatch.setattr(guards, "IN_A_ROW", 5)
    ours = trainer(max_epochs=9, on_nonfinite="skip", log_every=5, regularizers=[Plant("0.bias", 1, *range(3, 99))])
    result = ours.fit(blobs(), batch_size=10)
    assert result.status == "failed"
    assert "steps in a row were skipped, the last being step" in result.error


def test_positions_of_loaders_and_streams(tmp_path):
    dataset = TensorDataset(*planted())

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(dataset)

    found = []
    for number, source in enumerate(
        [DataLoader(dataset, batch_size=10, shuffle=True), DataLoader(Stream(), batch_size=10)]
    ):
        trainer(max_epochs=1, on_nonfinite="skip", directory=tmp_path / str(number)).fit(source)
        (line,) = lines(tmp_path / str(number))
        found.append((line["step"], line["positions"], line["of"]))
    start = step_of(17, 0) * 10
    assert found == [
        (start // 10, order_of(0)[start : start + 10], "training set"),
        (1, list(range(10, 20)), "epoch"),
    ]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_nothing_is_read_between_log_points_on_a_device(monkeypatch, policy):
    made = guards.Guard.__init__
    monkeypatch.setattr(guards.Guard, "__init__", lambda self, *a: (made(self, *a), setattr(self, "on_host", False))[0])
    monkeypatch.setattr(Tensor, "tolist", lambda self: pytest.fail("a value is read"))
    reads = 0

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal reads
            reads += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    ours = trainer(
        small_model(norm=True), max_steps=5, log_every=100, spike_deviations=3.0, on_nonfinite=policy, accumulate=2,
        optimizer=torch.optim.SGD,
    )  # fmt: skip
    ours._evaluate = lambda: ""
    with Counting():
        ours.fit(blobs(), batch_size=10)
    assert (ours.progress.step, reads) == (5, 0)


RANKS = """
import sys, json, os, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faulty import Keep, blobs, small_model, trainer, weights
from framework.distributed import leave
from framework import Regularizer

class OneRank(Regularizer):
    def on_batch(self, batch):
        if ours.ranks.index == 1 and ours.progress.step == 2:
            return batch[0] * float("nan"), batch[1]
        return batch

ours = trainer(max_epochs=1, on_nonfinite="skip", regularizers=[OneRank()], directory=sys.argv[2], log_every=2)
ours.fit(blobs(), batch_size=10)
Path(sys.argv[2], f"rank-{ours.ranks.index}.json").write_text(json.dumps(weights(ours.model).tolist()))
ours.ranks.barrier()
leave()
os._exit(0)  # gloo's threads may outlive the group
"""


def test_a_bad_number_on_one_rank_is_skipped_on_both(tmp_path):
    (tmp_path / "job.py").write_text(RANKS)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent.parent), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, tmp_path / "job.py", here, tmp_path / "run"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads((tmp_path / "run" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    expected = Keep()
    alone = without_steps(trainer(max_epochs=1, callbacks=[expected], accumulate=2), {2})
    alone.fit(blobs(), batch_size=10)
    torch.testing.assert_close(torch.tensor(found[0]), expected.weights[-1])
    (line,) = lines(tmp_path / "run")
    assert (line["step"], line["positions"]) == (2, order_of(0)[20:30])
