"""The soft Dice loss against sets, and against loops over regions."""

import pytest
import torch
from chainrule_dice import Dice
from torch import Tensor, nn

from framework import ConfigError, Trainer, registry
from framework.testing import assert_gradients


def overlap(p: list[float], y: list[float], smooth: float) -> float:
    return (2 * sum(a * b for a, b in zip(p, y, strict=True)) + smooth) / (sum(p) + sum(y) + smooth)


def by_loops(logits: Tensor, target: Tensor, smooth: float) -> float:
    """Of logits (rows, classes) with class indices."""
    p = logits.softmax(1).tolist()
    scores = [
        overlap([row[c] for row in p], [float(y == c) for y in target.tolist()], smooth) for c in range(len(p[0]))
    ]
    return 1 - sum(scores) / len(scores)


@pytest.mark.parametrize("smooth", [1.0, 1e-3])
@pytest.mark.parametrize("second", [False, True])
def test_classes(smooth, second):
    torch.manual_seed(0)
    logits, target = torch.randn(4, 7, 5, dtype=torch.float64), torch.randint(5, (4, 7))
    loss = Dice(smooth=smooth)
    found = loss(logits.movedim(2, 1) if second else logits, target)
    assert found.item() == pytest.approx(by_loops(logits.flatten(0, 1), target.flatten(), smooth))
    assert int(loss.weight(target)) == 28


def test_one_region():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.rand(3, 1, 4, 4) < 0.3
    expected = 1 - overlap(logits.sigmoid().flatten().tolist(), target.double().flatten().tolist(), 1.0)
    loss = Dice(activation="sigmoid")
    for given in (target, target.double(), target.long()):
        assert loss(logits, given).item() == pytest.approx(expected)
        assert loss.weight(given) == 48


def test_certain_predictions_give_dices_coefficient_of_sets():
    """2 |A ∩ B| / (|A| + |B|) of A = {0, 1, 2} and B = {1, 2, 3, 4} is 4/7."""
    logits = torch.tensor([1.0, 1, 1, -1, -1, -1]) * 100
    target = torch.tensor([0.0, 1, 1, 1, 1, 0])
    assert Dice(activation="sigmoid", smooth=1e-6)(logits, target).item() == pytest.approx(1 - 4 / 7, abs=1e-5)


def test_probabilities_are_what_indices_are_one_hot():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(Dice()(logits, nn.functional.one_hot(target, 3).float()), Dice()(logits, target))
    assert Dice().weight(torch.rand(6, 3)) == 6


def test_ignored_targets_are_as_if_they_were_not_there():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 3), torch.tensor([0, -1, 2, 2, -1, 0])
    loss = Dice(ignore_index=-1)
    torch.testing.assert_close(loss(logits, target), loss(logits[target >= 0], target[target >= 0]))
    assert int(loss.weight(target)) == 4
    assert loss(logits, torch.full((6,), -1)).item() == 0.0
    assert loss(logits[:0], target[:0]).item() == 0.0


def test_is_no_mean_over_examples_and_says_so():
    torch.manual_seed(0)
    logits, target = torch.randn(8, 3) * 3, torch.randint(3, (8,))
    parts = sum(Dice()(x, y) for x, y in zip(logits.split(2), target.split(2), strict=True)) / 4
    assert not torch.isclose(Dice()(logits, target), parts, rtol=0.01)
    assert Dice.additive is False
    torch.testing.assert_close(Dice()(logits.flip(0), target.flip(0)), Dice()(logits, target))


def test_gradients():
    torch.manual_seed(0)
    indices, region = torch.tensor([0, 2, -100, 1]), torch.rand(4, 3)
    assert_gradients(lambda x: Dice()(x, indices), torch.randn(4, 3))
    assert_gradients(lambda x: Dice(activation="sigmoid")(x, region), torch.randn(4, 3))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_saturated_logits_stay_finite(activation):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.bfloat16, requires_grad=True)
    loss = Dice(activation=activation)(logits, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_bad_options_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="loss 'dice': smooth must be > 0, got 0"):
        Dice(smooth=0.0)
    with pytest.raises(ValueError, match=r"same shape, got \(4, 3\) and \(4,\): reshape one, or take 'softmax'"):
        Dice(activation="sigmoid")(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"Dice: prediction must be \(\.\.\., classes\).*got \(4, 3\) and"):
        Dice()(torch.zeros(4, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="take activation='sigmoid' for one region"):
        Dice()(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


def test_trains_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    metrics = {"accuracy": registry.build("metric", "accuracy", {}, runtime={"task": digits.task, "outputs": 10})}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = Trainer(model, loss=Dice(), optimizer=optimizer, metrics=metrics, max_epochs=1, device="cpu")
    assert trainer.fit(digits.train, test=digits.test).status == "finished"
    assert trainer.evaluate(digits.test)["accuracy"] > 0.7
