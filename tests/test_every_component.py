"""Every registered component trains by its name, from a configuration as the command line composes it."""

import pytest
import torch

from framework import registry, run
from framework.batching import TensorSet
from framework.config import parse, section_defaults
from framework.datasets import Data

CLASSES = 4


def images() -> Data:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(48) % CLASSES
    pixels = torch.randn(48, 1, 8, 8, generator=generator) + target[:, None, None, None]
    return Data("classification", (1, 8, 8), CLASSES, TensorSet((pixels, target)), TensorSet((pixels, target)))


def values(kind: str) -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 6, generator=generator)
    target = {
        "regression": inputs[:, :2] * 2,
        "binary": (inputs[:, :2] > 0).float(),
        "distribution": inputs[:, :2].softmax(-1),
    }[kind]
    return Data("regression", (6,), 2, TensorSet((inputs, target)), TensorSet((inputs, target)))


def tokens() -> Data:
    text = torch.arange(48 * 9).reshape(48, 9) % 5
    pairs = TensorSet((text[:, :-1], text[:, 1:]))
    return Data("language", (8,), 5, pairs, pairs, classes=tuple("abcde"))


def fit(data: Data, **changes):
    mapping = {
        "model": {"name": "mlp", "widths": [16], "dropout": 0.0},
        "data": {"name": "digits", "batch_size": 16},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adam"},
        "scheduler": {"name": "constant"},
        "trainer": {**section_defaults("trainer"), "max_epochs": 3, "device": "cpu"},
    }
    session = run.build(parse(mapping | changes), None, data)
    before = [p.detach().clone() for p in session.trainer.model.parameters()]
    result = session.trainer.fit(session.batches("train"), session.batches("validation"))
    assert (result.status, result.steps) == ("finished", 9)
    assert all(torch.isfinite(p).all() for p in session.trainer.model.parameters())
    after = session.trainer.model.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return session.trainer


PLAIN = {"loss": {"name": "mse"}}
BY_LOSS = {
    "mse": "regression",
    "mae": "regression",
    "huber": "regression",
    "bce_logits": "binary",
    "cross_entropy": "distribution",
}


@pytest.mark.parametrize("name", registry.components("optimizer"))
def test_optimizer(name):
    trainer = fit(images(), optimizer={"name": name, "lr": 0.01})
    losses = [e.scores["loss/train_slice"] for e in trainer.history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", registry.components("scheduler"))
def test_scheduler(name):
    required = {"multistep": {"milestones": [1, 2]}, "step": {"every": 1}}
    options = {o.name for o in registry.find("scheduler", name).signature.options}
    given = {k: v for k, v in required.get(name, {}).items() if k in options}
    fit(images(), scheduler={"name": name, **given})


@pytest.mark.parametrize("name", registry.components("initializer"))
def test_initializer(name):
    trainer = fit(images(), initializer={"name": name})
    # hidden units that start at zero stay alike: only the last bias learns
    assert bool(trainer.model.layers[1].weight.any()) == (name != "zeros")


@pytest.mark.parametrize("name", registry.components("regularizer"))
def test_regularizer(name):
    fit(images(), regularizer={name: {}})


@pytest.mark.parametrize("name", [n for n in registry.components("metric") if n != "perplexity"])
def test_metric(name):
    regression = name in ("mean_squared_error", "mean_absolute_error", "r2")
    options = {"k": 2} if name == "top_k_accuracy" else {}
    data = values("regression") if regression else images()
    trainer = fit(data, metric={name: options}, **(PLAIN if regression else {}))
    assert {f"{name}/train", f"{name}/val", f"{name}/train_slice"} <= trainer.history[-1].scores.keys()


@pytest.mark.parametrize("name", BY_LOSS)
def test_loss(name):
    fit(values(BY_LOSS[name]), loss={"name": name})


def test_hinge():
    fit(images(), loss={"name": "hinge"})


@pytest.mark.parametrize("name", registry.components("model"))
def test_model(name):
    if name == "transformer":
        options = {"layers": 1, "heads": 2, "width": 16}
        fit(tokens(), model={"name": name, **options}, metric={"accuracy": {}, "perplexity": {}})
    else:
        fit(images(), model={"name": name})


def test_a_transformer_needs_tokens_and_says_so():
    with pytest.raises(ValueError, match=r"transformer|token|block"):
        fit(images(), model={"name": "transformer"})
