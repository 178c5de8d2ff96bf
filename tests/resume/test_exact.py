"""A run cut short anywhere and resumed is the run never interrupted, to the bit."""

import json
import random

import numpy as np
import pytest
import torch
from runs import Stop, assert_same, blobs, cut, maker, network, scalars, whole
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler
from torchmetrics.regression import MeanSquaredError

from framework import Callback, ConfigError, Regularizer, registry
from framework.checkpoint import CheckpointOptions
from framework.losses import CrossEntropy

EVERY_FIVE = CheckpointOptions(every_n_steps=5, keep_last=2)


def with_dropout() -> nn.Module:
    return network(dropout=0.3)


@pytest.mark.parametrize("way", ["kill", "terminate"])
@pytest.mark.parametrize("step", [1, 4, 5, 6, 7, 11, 12, 13, 18])
def test_at_any_step(tmp_path, way, step):
    make = maker(model=with_dropout, checkpoint=EVERY_FIVE)
    assert_same(cut(make, tmp_path / "b", Stop(step, way)), whole(make, tmp_path / "a"))


@pytest.mark.parametrize("way", ["kill", "terminate"])
@pytest.mark.parametrize("hook", ["on_evaluated", "on_saved"])
def test_between_an_evaluation_and_its_checkpoint_and_after_it(tmp_path, way, hook):
    make = maker(checkpoint=EVERY_FIVE)
    # a signal that comes in the last evaluation ends nothing that has not ended
    stops = [Stop(step, way, hook) for step in ((5, 11, 17) if way == "kill" else (5, 11))]
    assert_same(cut(make, tmp_path / "b", *stops), whole(make, tmp_path / "a"))


@pytest.mark.parametrize("way", ["kill", "terminate"])
def test_over_and_over(tmp_path, way):
    make = maker(model=with_dropout, checkpoint=CheckpointOptions(every_n_steps=1))
    stops = [Stop(step, way) for step in (2, 3, 6, 7, 9, 12, 13, 17)]
    assert_same(cut(make, tmp_path / "b", *stops), whole(make, tmp_path / "a"))


def same(tmp_path, make, *stops: Stop) -> None:
    """Assert it for a kill in an epoch's middle, and a signal in a later one."""
    assert_same(cut(make, tmp_path / "b", *(stops or (Stop(8), Stop(15, "terminate")))), whole(make, tmp_path / "a"))


@pytest.mark.parametrize("name", registry.components("optimizer"))
def test_every_optimizer(tmp_path, name):
    def build(model: nn.Module) -> torch.optim.Optimizer:
        return registry.build("optimizer", name, {"lr": 0.01}, runtime={"params": list(model.parameters())})

    same(tmp_path, maker(optimizer=build, checkpoint=EVERY_FIVE))


@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.AdamW, torch.optim.NAdam, torch.optim.ASGD])
def test_optimizers_of_torch(tmp_path, rule):
    options = {"momentum": 0.9} if rule is torch.optim.SGD else {}
    same(tmp_path, maker(optimizer=lambda m: rule(m.parameters(), lr=0.01, **options), checkpoint=EVERY_FIVE))


SCHEDULERS = {
    "plateau": {"patience": 0, "threshold": 0.5},
    "inverse_sqrt": {"warmup_steps": 4},
    "step": {"step_size": 1},
}


@pytest.mark.parametrize("name", registry.components("scheduler"))
def test_every_scheduler(tmp_path, name):
    runtime = {"total_steps": 18, "steps_per_epoch": 6}
    build = lambda _: registry.build("scheduler", name, SCHEDULERS.get(name, {}), runtime=runtime)  # noqa: E731
    same(tmp_path, maker(scheduler=build, checkpoint=EVERY_FIVE, evaluate_every="4 steps"))


OF_TORCH = {
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [3, 9, 14]),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=19),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=6), lr_scheduler.CosineAnnealingLR(o, 12)], [6]
    ),
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, anneal_epochs=9),
}


@pytest.mark.parametrize("name", OF_TORCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch's own, in SequentialLR
def test_schedulers_of_torch(tmp_path, name):
    same(tmp_path, maker(scheduler=OF_TORCH[name], checkpoint=EVERY_FIVE))


@pytest.mark.parametrize("name", registry.components("regularizer"))
def test_every_regularizer(tmp_path, name):
    build = lambda: [registry.build("regularizer", name, {}, runtime={"outputs": 2})]  # noqa: E731
    same(tmp_path, maker(regularizers=build, loss=CrossEntropy(), checkpoint=EVERY_FIVE))


SETTINGS = {
    "accumulation": {"accumulate": 3, "fit": {"batch_size": 11}},
    "clipping": {"clip_norm": 0.5, "clip_value": 0.1},
    "by hand": {"backprop": "manual", "loss": CrossEntropy()},
    "autograd": {"backprop": "autograd"},
    "half precision": {"precision": "fp16"},
    "patience": {"patience": 1, "min_delta": 0.05, "max_epochs": 20},
    "target": {"target": 0.6, "max_epochs": 20},
    "evaluation by steps": {"evaluate_every": "3 steps"},
    "evaluation in the middle of intervals": {"evaluate_every": "5 steps", "log_every": 3},
    "deterministic": {"deterministic": True},
    "limit on an epoch's last step": {"max_steps": 12},
    "limit within an epoch": {"max_steps": 16},
    "no metric": {"metrics": {}},
    "another monitor": {"monitor": "accuracy/val", "mode": "max"},
    "more kept": {"checkpoint": CheckpointOptions(every_n_steps=2, keep_last=4, keep_best=2, in_background=False)},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_every_setting(tmp_path, case):
    same(tmp_path, maker(**{"checkpoint": EVERY_FIVE, "model": with_dropout, **SETTINGS[case]}), Stop(3), Stop(8))


def test_sums_of_a_metric_that_are_no_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("framework.meters.BUFFER_BYTES", 100)  # updated now and then, beside a buffer
    inputs, _ = blobs()
    make = maker(
        model=lambda: nn.Sequential(network(), nn.Linear(2, 1)),
        loss=nn.MSELoss(),
        metrics={"mse": MeanSquaredError()},
        train=lambda: (inputs, inputs.sum(1, keepdim=True)),
        fit={"validation": None, "batch_size": 8},
        log_every=7,
        checkpoint=EVERY_FIVE,
    )
    same(tmp_path, make)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*blobs(), strict=True)


class Stateful(IterableDataset):
    def __init__(self) -> None:
        self.place = 0

    def __iter__(self):
        examples = list(zip(*blobs(), strict=True))
        while self.place < len(examples):
            self.place += 1
            yield examples[self.place - 1]
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def noisy(batch):
    inputs, target = torch.utils.data.default_collate(batch)
    return inputs + 0.1 * torch.randn_like(inputs), target


LOADERS = {
    "map": lambda: DataLoader(TensorDataset(*blobs()), batch_size=8, shuffle=True, collate_fn=noisy),
    "workers": lambda: DataLoader(TensorDataset(*blobs()), batch_size=8, shuffle=True, num_workers=4, collate_fn=noisy),
    "stateful": lambda: DataLoader(Stateful(), batch_size=8),
    "replayed": lambda: DataLoader(Stream(), batch_size=8),
    "sampler": lambda: DataLoader(TensorDataset(*blobs()), batch_size=8, sampler=WeightedRandomSampler([1.0] * 44, 44)),
}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.filterwarnings("ignore:the data is read over")
def test_every_kind_of_loader(tmp_path, kind):
    same(tmp_path, maker(train=LOADERS[kind], fit={"validation": blobs(20, seed=1)}, checkpoint=EVERY_FIVE))


class Memory(Callback):
    """A mean of the loss's own, logged: a state of tensors and plain values."""

    def __init__(self) -> None:
        self.mean, self.count = torch.zeros(()), 0

    def on_step_end(self, trainer) -> None:
        self.count += 1
        self.mean = 0.9 * self.mean + next(trainer.model.parameters()).detach().norm()
        trainer.log("memory", self.mean * self.count)

    def state(self):
        return {"mean": self.mean, "counts": [self.count, float("inf")]}

    def load_state(self, state) -> None:
        self.mean, (self.count, infinite) = state["mean"], state["counts"]
        assert infinite == float("inf")


class Anchor(Regularizer):
    """Pulls the weights to where they were before."""

    def __init__(self) -> None:
        self.anchors: dict[str, torch.Tensor] = {}

    def on_gradients(self, params, step) -> None:
        for name, param in params.items():
            anchor = self.anchors.get(name, param.detach().clone())
            param.grad += 0.1 * (param.detach() - anchor)
            self.anchors[name] = anchor.lerp(param.detach(), 0.1)

    def state(self):
        return self.anchors

    def load_state(self, state) -> None:
        self.anchors = dict(state)


def test_states_of_callbacks_and_regularizers(tmp_path):
    make = maker(callbacks=lambda: [Memory(), Memory()], regularizers=lambda: [Anchor()], checkpoint=EVERY_FIVE)
    same(tmp_path, make)
    assert "memory" in scalars(tmp_path / "b")


class Average(Callback):
    """A running mean of the weights, evaluated in their place."""

    every_rank = True

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, trainer) -> None:
        for name, param in trainer.model.named_parameters():
            self.weights[name] = self.weights.get(name, param.detach()).lerp(param.detach(), 0.2)

    def evaluation_weights(self, trainer):
        return self.weights

    def state(self):
        return self.weights

    def load_state(self, state) -> None:
        self.weights = dict(state)


def test_weights_that_are_evaluated_in_place_of_the_trained(tmp_path):
    same(tmp_path, maker(callbacks=lambda: [Average()], checkpoint=EVERY_FIVE))


def test_a_user_s_draws_go_on(tmp_path):
    class Draws(Callback):
        def on_step_end(self, trainer) -> None:
            trainer.log("drawn", torch.tensor(random.random() + random.gauss(0, 1) + np.random.randn()))

    def make(*arguments):
        random.seed(3)
        np.random.seed(3)
        return maker(callbacks=lambda: [Draws()], checkpoint=EVERY_FIVE)(*arguments)

    same(tmp_path, make)


def test_a_loss_s_own_state(tmp_path):
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, prediction, target):
            self.scale.mul_(0.9)
            return self.scale * nn.functional.cross_entropy(prediction, target)

    def make(*arguments):
        return maker(loss=Moving(), checkpoint=EVERY_FIVE)(*arguments)

    same(tmp_path, make)


def test_without_a_checkpoint_it_begins(tmp_path):
    make = maker()
    same(tmp_path, make, Stop(2))
    trainer, fit = make(tmp_path / "new", ())
    trainer.fit(**fit, resume=True)
    assert_same(trainer, whole(make, tmp_path / "whole"))


def test_a_finished_run_is_finished_and_a_raised_limit_goes_on(tmp_path):
    trainer = whole(maker(), tmp_path)
    again, fit = maker()(tmp_path, ())
    result = again.fit(**fit, resume=True)
    assert (result.status, result.steps, len(again.history)) == ("finished", 18, 3)
    assert torch.equal(again.model[0].weight, trainer.model[0].weight)
    more, fit = maker(max_epochs=5)(tmp_path, ())
    result = more.fit(**fit, resume=True)
    assert (result.steps, result.epochs, [e.step for e in more.history]) == (30, 5, [6, 12, 18, 24, 30])
    assert [step for step, _ in scalars(tmp_path)["loss/val"]] == [6, 12, 18, 24, 30]


def test_another_batch_size_in_mid_epoch_takes_every_example_once(tmp_path):
    class Seen(Callback):
        seen: list[int] = []  # noqa: RUF012  # of all instances

        def on_step_end(self, trainer) -> None:
            self.seen.append(trainer.progress.samples)

    make = maker(max_epochs=2, callbacks=lambda: [Seen()])
    trainer, fit = make(tmp_path, (Stop(3, "terminate"),))
    trainer.fit(**fit)
    assert trainer.progress.offset == 24
    trainer, fit = make(tmp_path, ())
    trainer.fit(**{**fit, "batch_size": 5}, resume=True)
    assert Seen.seen == [8, 16, 24, 29, 34, 39, 44, *range(49, 88, 5), 88]
    assert trainer.progress.epoch == 2


def test_seconds_go_on_and_so_does_their_limit(tmp_path):
    trainer, fit = maker()(tmp_path, (Stop(3, "terminate"),))
    trainer.fit(**fit)
    used = json.loads((tmp_path / "last" / "state.json").read_text())["seconds"]
    again, fit = maker(max_time=used / 2)(tmp_path, ())
    result = again.fit(**fit, resume=True)
    assert (result.reason, result.steps) == ("max_time", 3)
    assert result.seconds > used


def test_other_weights_are_refused(tmp_path):
    trainer, fit = maker()(tmp_path, (Stop(3, "terminate"),))
    trainer.fit(**fit)
    wider, fit = maker(model=lambda: nn.Linear(6, 2))(tmp_path, ())
    with pytest.raises(ConfigError, match="differences"):
        wider.fit(**fit, resume=True)
    with pytest.raises(ConfigError, match="needs the folder"):
        maker()(None, ())[0].fit(blobs(), resume=True)
