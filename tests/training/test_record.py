"""What a run leaves, read back with TensorBoard's own loader."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from framework import Callback, ConfigError, Trainer, load
from framework.metrics import accuracy
from framework.schedulers import Cosine


def train(directory, **settings):
    torch.manual_seed(0)
    inputs = torch.randn(200, 5)
    data = (inputs, (inputs[:, 0] > 0).long())
    model = nn.Linear(5, 2)
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        scheduler=Cosine(60),
        metrics={"accuracy": accuracy("classification", 2)},
        directory=directory,
        device="cpu",
        **settings,
    )
    return trainer, trainer.fit(data, data, batch_size=10)


@pytest.fixture
def folder(tmp_path):
    train(tmp_path, max_epochs=3, log_every=8)
    return tmp_path


def test_scalars_are_there_each_with_the_steps_it_should_have(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    steps = {tag: [s.step for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    intervals = [8, 16, 20, 24, 32, 40, 48, 56, 60]
    for tag in ("loss/train", "accuracy/train", "lr", "grad_norm", "samples_per_second"):
        assert steps[tag] == intervals, tag
    for tag in ("loss/val", "accuracy/val", "gap/loss"):
        assert steps[tag] == [20, 40, 60], tag
    for scalar in events.Scalars("lr"):
        assert scalar.value == pytest.approx(0.5 * Cosine(60)(scalar.step - 1), rel=1e-6)
    gap = [s.value for s in events.Scalars("gap/loss")]
    sides = zip(events.Scalars("loss/val"), events.Scalars("loss/train_slice"), strict=True)
    assert gap == pytest.approx([val.value - train.value for val, train in sides], abs=1e-6)


def test_one_event_an_interval_holds_all_its_scalars(folder):
    (file,) = folder.glob("events.*")
    held: dict[int, list[int]] = {}
    for event in EventFileLoader(str(file)).Load():
        tags = [v.tag for v in event.summary.value]
        if "loss/train" in tags or "loss/val" in tags:
            held.setdefault(event.step, []).append(len(tags))
    assert len(held[8]) == 1
    assert len(held[20]) == 2, "the interval's, and the evaluation's"
    assert held[8][0] >= 6


def test_the_best_step_and_its_scores_are_the_result_s(tmp_path):
    trainer, result = train(tmp_path, max_epochs=3)
    written = json.loads((tmp_path / "result.json").read_text())
    best = min(trainer.history, key=lambda e: e.scores["loss/val"])
    assert written["best"]["step"] == best.step
    assert written["best"]["scores"] == pytest.approx(dict(best.scores))
    assert (tmp_path / "best").resolve().name == f"step-{best.step}"
    with pytest.raises(ConfigError, match=r"load\(DIR, model=…"):
        load(tmp_path)
    again = load(tmp_path, model=nn.Linear(5, 2))
    assert torch.equal(again.weight, trainer.model.weight)
    assert result.seconds == written["seconds"]


def test_listeners_hear_everything_in_order_and_log_by_name(tmp_path):
    heard: list[str] = []

    class Ear(Callback):
        def on_fit_start(self, trainer):
            heard.append("start")

        def on_step_end(self, trainer):
            trainer.log("twice", torch.tensor(2.0 * trainer.progress.step))

        def on_logged(self, trainer, scalars):
            heard.append(f"logged {scalars['twice']:g}")

        def on_evaluated(self, trainer, scalars):
            heard.append("evaluated")

        def on_saved(self, trainer):
            heard.append("saved")

        def on_fit_end(self, trainer, result):
            heard.append(result.status)

    train(tmp_path, max_epochs=1, log_every=10, callbacks=[Ear()])
    assert heard == ["start", "logged 11", "logged 31", "evaluated", "saved", "finished"]


def test_a_listener_that_fails_at_the_start_ends_the_others(tmp_path):
    ended: list[str] = []

    class First(Callback):
        def on_fit_end(self, trainer, result):
            ended.append(result.error)

    class Second(Callback):
        def on_fit_start(self, trainer):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        train(tmp_path, callbacks=[First(), Second()])
    assert ended == ["RuntimeError: no"]
