"""A step as one function of tensors: the loop's own numbers, and the rules by which it is one."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from framework import ConfigError, Trainer
from framework.losses import CrossEntropy
from framework.models import MLP, ConvNet
from framework.optimizers import SGD, Adagrad, AdamW, Momentum, RMSprop
from framework.regularizers import L2, GradientNoise
from framework.trainer import capture, whole_step, whole_step_choice

OPTIMIZERS = {
    "adamw": lambda params: AdamW(params, lr=0.01, amsgrad=True),
    "sgd": lambda params: SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "momentum": lambda params: Momentum(params, lr=0.05),
    "rmsprop": lambda params: RMSprop(params, momentum=0.5, centered=True),
    "adagrad": lambda params: Adagrad(params, lr=0.1, lr_decay=0.1, maximize=True),
}


def blobs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(70, 6, generator=generator), torch.randint(0, 3, (70,), generator=generator)


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 2, 8, 8, generator=generator), torch.randint(0, 3, (24,), generator=generator)


def mlp():
    return MLP((6,), 3, widths=(8,))


def convnet():
    return ConvNet((2, 8, 8), 3, channels=(4, 4), hidden=0)


def train(build=mlp, optimizer="adamw", data=blobs, **settings):
    """Return the weights, the optimizer's state and the trainer after two epochs with a ragged last batch."""
    torch.manual_seed(0)
    model = build()
    made = OPTIMIZERS[optimizer](model.parameters())
    ours = Trainer(
        model, loss=CrossEntropy(), optimizer=made, scheduler=lambda step: 1 / (1 + step), log_every=2, **settings
    )
    ours.result = ours.fit(data(), data(), batch_size=20)
    state = [value.reshape(-1) for state in made.state.values() for value in state.values()]
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), torch.cat(state), ours


@pytest.fixture
def plain(monkeypatch):
    """Have the step be one function, which nothing compiles or captures."""

    def choose(trainer, objective):
        return whole_step.WholeStep(trainer, objective, compiled=False, captured=False), ""

    monkeypatch.setattr(whole_step_choice, "choose", choose)


CASES = {
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    "clipped": {"clip_norm": 0.1},
    "clipped values": {"clip_value": 0.01, "clip_norm": 0.02},
    "penalty": {"regularizers": [L2(strength=0.1)]},
    "looked through": {"on_nonfinite": "skip"},
    "bf16": {"precision": "bf16"},
    "convolutions": {"build": convnet, "data": images},
}


@pytest.mark.parametrize("name", CASES)
def test_one_function_takes_the_loops_steps(name, plain, request):
    ours, state, trainer = train(max_epochs=2, **CASES[name])
    assert trainer.whole.function is not None
    request.getfixturevalue("monkeypatch").undo()
    theirs, their_state, loop = train(max_epochs=2, backprop="autograd", **CASES[name])
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert torch.allclose(state, their_state, rtol=1e-5, atol=1e-7)
    assert trainer.result.best.scores == pytest.approx(loop.result.best.scores, rel=1e-5)


def test_a_bad_step_changes_nothing(plain):
    before, state, ours = train(max_steps=2, on_nonfinite="skip")
    window = next(ours.train_batches.windows(1))
    inputs, targets = window.load(window.parts[0])
    ours.step(replace(window, load=lambda part: (inputs * math.inf, targets)))
    assert [step.step for step in ours.guard.judged] == [2]
    assert torch.equal(before, torch.cat([p.detach().reshape(-1) for p in ours.model.parameters()]))
    assert torch.equal(state, torch.cat([v.reshape(-1) for s in ours.optimizer.state.values() for v in s.values()]))
    ours.step(window)
    assert not torch.equal(before, torch.cat([p.detach().reshape(-1) for p in ours.model.parameters()]))


REFUSED = {
    "accumulate": ({"accumulate": 2}, "several micro-batches"),
    "fp16": ({"precision": "fp16"}, "fp16 scales the loss"),
    "spikes": ({"spike_deviations": 3.0}, "spike_deviations judges"),
    "noise": ({"regularizers": [GradientNoise()]}, "GradientNoise changes gradients or weights"),
    "by hand": ({"backprop": "manual"}, "backprop=manual goes layer by layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_what_does_not_allow_it(name):
    settings, reason = REFUSED[name]
    with pytest.raises(ConfigError, match=rf"trainer.compile=step is not possible, since .*{reason}"):
        train(max_steps=1, compile="step", **settings)


def test_torchs_optimizers_are_refused():
    model = mlp()
    ours = Trainer(model, loss=CrossEntropy(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), compile="step")
    with pytest.raises(ConfigError, match="SGD is not one of this package's optimizers"):
        ours.fit(blobs())


def test_only_cuda_captures():
    with pytest.raises(ConfigError, match=r"trainer.capture=on is not possible, since only CUDA has graphs"):
        train(max_steps=1, capture="on")


class Place:
    type = "cuda"


@pytest.mark.parametrize(
    ("settings", "captures", "line"),
    [
        ({}, False, ""),
        ({"capture": "auto"}, True, "capture: the whole step is one CUDA graph"),
        ({"capture": "auto", "compile": "model"}, False, ""),
        ({"capture": "auto", "accumulate": 2}, False, "capture: none, since a step has several micro-batches"),
    ],
)
def test_captures_on_cuda_where_all_allows_it(settings, captures, line):
    model = mlp()
    settings = {"compile": "off", **settings}
    ours = Trainer(model, loss=CrossEntropy(), optimizer=AdamW(model.parameters()), max_steps=1)
    ours.fit(blobs())
    for name, value in settings.items():
        setattr(ours, name, value)
    cpu, ours.place = ours.place, Place()
    try:
        whole, said = _choose_on(ours, cpu)
    finally:
        ours.place = cpu
    assert (whole is not None) == captures
    assert said.startswith(line)


def _choose_on(trainer, cpu):
    """Return what is chosen, with the tensors of a CUDA machine on this one's CPU."""
    zeros = torch.zeros
    torch.zeros = lambda *shape, device=None, **options: zeros(*shape, device=cpu, **options)
    try:
        return whole_step_choice.choose(trainer, trainer.goal)
    finally:
        torch.zeros = zeros


class Nothing:
    """In place of CUDA's streams and contexts."""

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def wait_stream(self, other):
        pass


def test_a_captured_step_is_replayed_on_each_batch(monkeypatch):
    step = capture.Captured(lambda values, states, rates, batch: values[0].add_(batch[0]).sum())

    class Graph:
        def replay(self):
            """Run what was recorded on its own memory; the first time, the recording itself has."""
            self.replays = getattr(self, "replays", 0) + 1
            if self.replays > 1:
                step.outputs.copy_(step.function(values, [], [], step.batch))

    for name in ("graph", "Stream", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    values = [torch.zeros(2)]
    batches = [(torch.full((2,), float(i)),) for i in range(6)]
    found = [step(values, [], [], batch) for batch in batches]
    assert [float(value) for value in found] == [0.0, 2.0, 6.0, 12.0, 20.0, 30.0]
    assert step.graph.replays == 6 - capture.WARM_UP
    assert step.batch[0] is not batches[2][0]
    step([torch.zeros(2)], [], [], batches[5])
    assert step.graph is None


def failing(trainer, objective):
    """Choose a step whose capture fails, as one that reads a value does."""
    whole = whole_step.WholeStep(trainer, objective, compiled=False, captured=True)

    def fail(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    whole._call = fail
    return whole, ""


def test_the_loop_goes_on_where_a_capture_fails(monkeypatch):
    theirs, _, _ = train(max_epochs=2, backprop="autograd")
    monkeypatch.setattr(whole_step_choice, "choose", failing)
    with pytest.warns(UserWarning, match="not captured, since that fails: operation not permitted"):
        ours, _, trainer = train(max_epochs=2, backprop="autograd")
    assert trainer.whole is None
    assert torch.equal(ours, theirs)


def test_a_capture_that_was_asked_for_and_fails_ends_the_run(monkeypatch):
    monkeypatch.setattr(whole_step_choice, "choose", failing)
    with pytest.raises(ConfigError, match=r"trainer.capture=on is not possible, since it fails: operation"):
        train(max_epochs=2, capture="on")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "clipped", "bf16", "convolutions"])
def test_compiled_trains_alike(name):
    ours, state, trainer = train(max_epochs=2, compile="step", **CASES[name])
    theirs, their_state, _ = train(max_epochs=2, backprop="autograd", **CASES[name])
    close = {"rtol": 1e-2, "atol": 1e-2} if name == "bf16" else {"rtol": 1e-4, "atol": 1e-6}
    assert torch.allclose(ours, theirs, **close)
    assert torch.allclose(state, their_state, **close)
    assert trainer.whole.seconds > 0
    assert trainer.announcements[0].startswith("compile: the whole step, optimizer included, is one graph")


@pytest.mark.slow
def test_what_is_no_one_graph_is_refused():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, inputs):
            return self.layer(inputs) * (2.0 if inputs.sum().item() > 0 else 1.0)

    with pytest.raises(ConfigError, match="since the step is no one graph"):
        train(Reads, max_steps=2, compile="step")
