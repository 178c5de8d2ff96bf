"""Training by hand against training by autograd, and the choice between them."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from framework import Callback, ConfigError, Trainer
from framework import losses as ours
from framework.backprop import Autograd, Manual, manual
from framework.backprop.layers import RULES, ByHand
from framework.models import MLP, ConvNet, Linear, Transformer
from framework.optimizers import SGD, Adam
from framework.regularizers import L2, Mixup

CLASSES = 4


def vectors(count: int = 90):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % CLASSES
    return torch.randn(count, 6, generator=generator) + target[:, None], target


def images(count: int = 50):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % CLASSES
    return torch.randn(count, 1, 8, 8, generator=generator) + target[:, None, None, None], target


def flat_images():
    pixels, target = images()
    return pixels[:, 0], target


def tiny(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, CLASSES))


def twice() -> nn.Sequential:
    activation, shared = nn.Tanh(), nn.Linear(8, 8)
    return tiny(activation, shared, activation, shared, activation)


def frozen() -> nn.Sequential:
    model = tiny(nn.Sigmoid())
    model[0].requires_grad_(False)
    return model


def in_three_dimensions() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, CLASSES))


def averaging() -> nn.Sequential:
    pooled = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.AvgPool2d(2, stride=1), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(12, CLASSES))


def mlp(**options):
    return lambda: MLP((6,), CLASSES, widths=(16, 8), **options)


def convnet(**options):
    return lambda: ConvNet((1, 8, 8), CLASSES, channels=(4, 6), hidden=16, **options)


MODELS = {
    "linear": (lambda: Linear((6,), CLASSES), vectors),
    **{f"mlp {a}": (mlp(activation=a), vectors) for a in ("relu", "sigmoid", "tanh", "gelu", "silu")},
    "mlp, wide": (lambda: MLP((6,), CLASSES, widths=(512, 256)), vectors),
    "mlp dropout": (mlp(dropout=0.3), vectors),
    "mlp batch norm": (mlp(norm="batch"), vectors),
    "mlp layer norm": (mlp(norm="layer"), vectors),
    "convnet": (convnet(), images),
    "convnet batch norm dropout": (convnet(norm="batch", dropout=0.2), images),
    "images without channels": (lambda: ConvNet((8, 8), CLASSES, channels=(4,)), flat_images),
    "average pooling": (averaging, images),
    "rms norm and softmax": (lambda: tiny(nn.RMSNorm(8), nn.Softmax(1)), vectors),
    "a layer that stands twice": (twice, vectors),
    "layer norm in three dimensions": (
        lambda: nn.Sequential(nn.Unflatten(1, (3, 2)), nn.LayerNorm(2), nn.Flatten(), nn.Linear(6, CLASSES)),
        vectors,
    ),
    "nested": (lambda: tiny(nn.Sequential(nn.Tanh(), nn.Linear(8, 8)), nn.Identity(), nn.GELU("tanh")), vectors),
    "first layer frozen": (frozen, vectors),
    "three dimensions": (in_three_dimensions, vectors),
}


def fit(model: nn.Module, data, backprop: str, *, loss=None, lr: float = 0.01, optimizer=Adam, **settings) -> Trainer:
    model = copy.deepcopy(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    settings = {"max_steps": 100, "loss": loss or ours.CrossEntropy(), **settings}
    trainer = Trainer(model, optimizer=optimizer(trainable, lr=lr), backprop=backprop, device="cpu", **settings)
    trainer.result = trainer.fit(data, batch_size=16)
    return trainer


def by_both(model: nn.Module, data, **settings) -> tuple[Trainer, Trainer]:
    manual, autograd = (fit(model, data, how, **settings) for how in ("manual", "autograd"))
    assert isinstance(manual.backpropagate, Manual)
    assert isinstance(autograd.backpropagate, Autograd)
    return manual, autograd


def assert_same(model: nn.Module, data, **settings) -> None:
    manual, autograd = by_both(model, data, **settings)
    trained = autograd.model.state_dict()
    for name, tensor in manual.model.state_dict().items():
        torch.testing.assert_close(
            tensor, trained[name], rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("name", MODELS)
def test_same_weights_after_100_steps(name: str):
    """In float64, so that rounding cannot hide a difference; the last batch of an epoch is a ragged one."""
    factory, source = MODELS[name]
    torch.manual_seed(0)
    inputs, target = source()
    # a bias before batch norm has no gradient but rounding, which Adam would make a step of
    optimizer = SGD if "batch norm" in name else Adam
    assert_same(factory().double(), (inputs.double(), target), optimizer=optimizer)


LOSSES = {
    "cross entropy, smoothed and weighted": (
        ours.CrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 0.5, 1]),
        "classes",
    ),
    "cross entropy, ignoring": (ours.CrossEntropy(ignore_index=1), "classes"),
    "cross entropy of probabilities": (ours.CrossEntropy(), "probabilities"),
    "mse": (ours.MSE(), "values"),
    "huber": (ours.Huber(delta=0.7), "values"),
    "bce on logits": (ours.BCELogits(pos_weight=2.0), "binary"),
    "torch's cross entropy": (nn.CrossEntropyLoss(label_smoothing=0.1), "classes"),
    "torch's mse": (nn.MSELoss(), "values"),
    "torch's huber": (nn.HuberLoss(delta=0.5), "values"),
    "torch's bce on logits": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0, 4.0])), "binary"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name: str):
    loss, target = LOSSES[name]
    inputs, classes = vectors()
    values = torch.randn(len(inputs), CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = {
        "classes": classes,
        "values": values,
        "binary": (values > 0).double(),
        "probabilities": values.softmax(1),
    }
    assert_same(tiny(nn.Tanh()).double(), (inputs.double(), targets[target]), loss=copy.deepcopy(loss).double())


def test_bce_on_probabilities():
    inputs, target = vectors()
    data = (inputs.double(), (target[:, None] > 1).double())
    assert_same(nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()).double(), data, loss=ours.BCE())


def test_classes_in_the_second_dimension():
    inputs, _ = vectors()
    target = torch.arange(90 * 3).reshape(90, 3) % CLASSES
    model = nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (CLASSES, 3))).double()
    assert_same(model, (inputs.double(), target), loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 3},
        {"clip_norm": 0.5},
        {"clip_value": 0.01, "log_every": 7},
        {"regularizers": [L2(strength=1e-3)]},
        {"regularizers": [Mixup(CLASSES)]},
    ],
    ids=lambda s: next(iter(s)) if isinstance(s, dict) else str(s),
)
def test_every_setting(settings):
    torch.manual_seed(0)
    inputs, target = vectors()
    assert_same(MLP((6,), CLASSES, widths=(8,), dropout=0.2).double(), (inputs.double(), target), **settings)


def test_bitwise_where_the_same_kernels_run():
    torch.manual_seed(0)
    inputs, target = vectors()
    data = (inputs, nn.functional.one_hot(target).float())
    manual, autograd = by_both(mlp(dropout=0.2)(), data, loss=nn.MSELoss(), optimizer=SGD)
    for a, b in zip(manual.model.parameters(), autograd.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_graph_is_built_and_no_engine_runs(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("autograd ran")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        trainer = fit(mlp(dropout=0.1)(), vectors(), "manual", max_steps=5)
    assert trainer.result.steps == 5
    with pytest.raises(AssertionError, match="autograd ran"):
        fit(mlp(dropout=0.1)(), vectors(), "autograd", max_steps=5)


def test_the_chapters_network():
    """∂L/∂w₁ = (ŷ − y) · w₂ · a₁(1 − a₁) · x and ∂L/∂w₂ = (ŷ − y) · a₁, in numbers."""
    w1, b1, w2, b2, x, y = 0.6, -0.3, -1.2, 0.5, 1.5, 1.0
    a1 = 1 / (1 + math.exp(-(w1 * x + b1)))
    prediction = 1 / (1 + math.exp(-(w2 * a1 + b2)))
    expected = {
        "0.weight": (prediction - y) * w2 * a1 * (1 - a1) * x,
        "0.bias": (prediction - y) * w2 * a1 * (1 - a1),
        "2.weight": (prediction - y) * a1,
        "2.bias": prediction - y,
    }
    model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid(), nn.Linear(1, 1), nn.Sigmoid()).double()
    with torch.no_grad():
        for name, value in {"0.weight": w1, "0.bias": b1, "2.weight": w2, "2.bias": b2}.items():
            model.get_parameter(name).fill_(value)
    data = (torch.tensor([[x]], dtype=torch.float64), torch.tensor([[y]], dtype=torch.float64))
    trained = fit(model, data, "manual", loss=ours.BCE(), optimizer=SGD, lr=1.0, max_steps=1).model
    for name, gradient in expected.items():
        moved = model.get_parameter(name) - trained.get_parameter(name)
        assert moved.item() == pytest.approx(gradient, rel=1e-12)


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, CLASSES)

    def forward(self, inputs):
        return 2 * self.body(inputs)


class Overridden(MLP):
    def forward(self, inputs):
        return -super().forward(inputs)


def listened() -> nn.Module:
    model = tiny(nn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    return model


def heard() -> nn.Module:
    model = tiny(nn.ReLU())
    model[0].weight.register_hook(lambda gradient: gradient)
    return model


def half_frozen() -> nn.Module:
    model = tiny(nn.BatchNorm1d(8))
    model[1].eval()
    return model


def padded_by_name() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(12, 4))


def plain() -> nn.Module:
    return tiny(nn.ReLU())


def objective(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1]), len(batch[1]), None


ASIDE = {
    "a model that is more than layers": (Doubled, {}, "Doubled is not a sequence of layers"),
    "a forward of its own": (lambda: Overridden((6,), CLASSES), {}, "Overridden is not a sequence of layers"),
    "an unknown layer": (lambda: tiny(nn.Softplus()), {}, "Softplus has no hand-written backward"),
    "an unknown loss": (plain, {"loss": ours.Hinge()}, "Hinge has no hand-written backward"),
    "a function": (plain, {"loss": nn.functional.cross_entropy}, "cross_entropy has no hand-written backward"),
    "an objective": (plain, {"loss": None, "objective": objective}, "the objective is not a loss of"),
    "a hook on a layer": (listened, {}, "Linear has hooks"),
    "a hook on a parameter": (heard, {}, "Linear has hooks"),
    "mixed precision": (plain, {"precision": "bf16"}, "mixed precision"),
    "checkpointing": (mlp(), {"gradient_checkpointing": True}, "gradient checkpointing"),
    "frozen statistics": (half_frozen, {}, "BatchNorm1d is frozen in evaluation mode"),
    "padding by name": (padded_by_name, {}, "Conv2d pads by 'same'"),
}


@pytest.mark.parametrize("name", ASIDE)
def test_steps_aside_and_says_why(name: str):
    factory, settings, reason = ASIDE[name]
    given = {"loss": ours.CrossEntropy(), "max_steps": 2, "device": "cpu", **settings}

    def trainer(how: str) -> Trainer:
        model = factory()
        return Trainer(model, optimizer=SGD(model.parameters(), lr=0.1), backprop=how, **given)

    auto = trainer("auto")
    auto.fit(vectors())
    assert isinstance(auto.backpropagate, Autograd)
    assert reason in auto.backpropagate.why
    with pytest.raises(ConfigError, match=r"backprop=manual is not possible, since .*: use trainer\.backprop=auto"):
        trainer("manual").fit(vectors())


def test_a_transformer_goes_by_autograd():
    tokens = torch.randint(5, (20, 8), generator=torch.Generator().manual_seed(0))
    trainer = fit(Transformer((8,), 5, layers=1, heads=2, width=16), (tokens, tokens), "auto", max_steps=2)
    assert "Transformer is not a sequence of layers" in trainer.backpropagate.why


class ListensFromStepThree(Callback):
    def __init__(self):
        self.heard = 0

    def on_step_end(self, trainer):
        if trainer.progress.step == 3:
            trainer.model[0].register_forward_hook(self.hear)

    def hear(self, *_):
        self.heard += 1


def test_a_hook_registered_later_is_called():
    listener = ListensFromStepThree()
    fit(plain(), vectors(), "auto", callbacks=[listener], max_steps=6)
    assert listener.heard == 3


def test_a_hook_registered_later_is_refused_where_manual_was_asked_for():
    with pytest.raises(ConfigError, match="hooks were registered"):
        fit(plain(), vectors(), "manual", callbacks=[ListensFromStepThree()], max_steps=6)


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_pass_is_the_same_to_the_last_bit(name: str, monkeypatch: pytest.MonkeyPatch):
    """Draws and statistics included; ragged last batches are recorded by themselves."""
    factory, source = MODELS[name]
    torch.manual_seed(0)
    model = factory()
    recorded = fit(model, source(), "manual")
    assert sum(isinstance(found, manual.Recorded) for found in recorded.backpropagate.recordings.values()) == 2
    monkeypatch.setattr(manual, "AFTER", math.inf)
    plain = fit(model, source(), "manual")
    assert not any(isinstance(found, manual.Recorded) for found in plain.backpropagate.recordings.values())
    trained = plain.model.state_dict()
    for key, tensor in recorded.model.state_dict().items():
        assert torch.equal(tensor, trained[key]), key


@pytest.mark.parametrize("loss", [nn.MSELoss(), ours.MSE(), ours.Huber(), nn.BCEWithLogitsLoss(), nn.HuberLoss()])
def test_a_recorded_loss_over_elements_is_the_same_to_the_last_bit(loss: nn.Module, monkeypatch: pytest.MonkeyPatch):
    inputs, classes = vectors()
    data = (inputs, nn.functional.one_hot(classes, CLASSES).float())
    torch.manual_seed(0)
    model = tiny(nn.Tanh())
    settings = {"loss": loss, "accumulate": 2, "max_steps": 30}
    recorded = fit(model, data, "manual", **settings)
    assert any(isinstance(found, manual.Recorded) for found in recorded.backpropagate.recordings.values())
    monkeypatch.setattr(manual, "AFTER", math.inf)
    plain = fit(model, data, "manual", **settings)
    for a, b in zip(recorded.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [None, [1.0] * CLASSES])
def test_a_tensor_put_in_anothers_place_is_heard_by_a_recorded_pass(weights: list[float] | None):
    class Weigh(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.progress.step == 20:
                trainer.loss.class_weights = torch.tensor([5.0, 1.0, 1.0, 0.1])
            if trainer.progress.step == 30:
                trainer.loss.ignore_index = 2

    torch.manual_seed(0)
    model = tiny(nn.Tanh())
    found = [
        fit(model, vectors(), how, callbacks=[Weigh()], max_steps=40, loss=ours.CrossEntropy(class_weights=weights))
        for how in ("manual", "autograd")
    ]
    for a, b in zip(*(trainer.model.parameters() for trainer in found), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_changed_in_training_is_heard_by_a_recorded_pass():
    """A layer frozen, a rate of dropout and a loss's smoothing changed: each after the pass was recorded."""

    class Change(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.progress.step == 20:
                trainer.model[0].requires_grad_(False)
                self.first = trainer.model[0].weight.clone()
            if trainer.progress.step == 30:
                trainer.model[1].p = 0.0
                trainer.loss.label_smoothing = 0.5

    torch.manual_seed(0)
    change, model = Change(), tiny(nn.Dropout(0.4))
    settings = {"max_steps": 40, "loss": ours.CrossEntropy(label_smoothing=0.1)}
    by_hand = fit(model, vectors(), "manual", callbacks=[change], **settings)
    assert torch.equal(by_hand.model[0].weight, change.first)
    settings["loss"] = ours.CrossEntropy(label_smoothing=0.1)
    by_autograd = fit(model, vectors(), "autograd", callbacks=[Change()], **settings)
    for a, b in zip(by_hand.model.parameters(), by_autograd.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_recorded_goes_on_through_python(monkeypatch: pytest.MonkeyPatch):
    class Reading(nn.Tanh):
        pass

    def rule(layer: nn.Module, inputs: torch.Tensor) -> ByHand:
        assert inputs.sum().item() == inputs.sum().item()
        return RULES[nn.Tanh](layer, inputs)

    monkeypatch.setitem(RULES, Reading, rule)
    trainer = fit(tiny(Reading()), vectors(), "manual", max_steps=20)
    assert not trainer.backpropagate.recordable
    assert trainer.result.steps == 20


def test_shapes_that_go_on_changing_are_not_kept():
    model, loss = nn.Sequential(nn.Linear(6, CLASSES)), ours.CrossEntropy()
    trainer = Trainer(model, loss=loss, optimizer=Adam(model.parameters()), device="cpu", max_epochs=1)
    batches = [list(range(rows)) for rows in range(1, 60)]
    trainer.fit(DataLoader(TensorDataset(*vectors()), batch_sampler=batches))
    assert len(trainer.backpropagate.recordings) == manual.SHAPES
