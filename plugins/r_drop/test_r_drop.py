"""R-Drop against its formula written out, through the trainer."""

import pytest
import torch
from chainrule_r_drop import RDrop
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from framework import ConfigError, Trainer, registry
from framework.objective import Supervised

ROWS = 24


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (ROWS,), generator=generator)


class Masks(nn.Module):
    """Dropout with one fixed mask for each half of a batch, so that a formula can have them too."""

    first = torch.tensor([2.0, 0, 2, 0], dtype=torch.float64)
    second = torch.tensor([0.0, 2, 2, 2], dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        first, second = inputs.chunk(2)
        return torch.cat((first * self.first, second * self.second))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Masks(), nn.Linear(4, 3)).double()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) = Σ p log(p / q), the mean over the rows."""
    return (p * (p / q).log()).sum(1).mean()


def published(layer: nn.Linear, inputs: Tensor, target: Tensor, strength: float) -> Tensor:
    """Liang et al., equations 2 to 4, with the mean of the two losses."""
    x1, x2 = (layer(inputs * mask) for mask in (Masks.first, Masks.second))
    p, q = x1.softmax(1), x2.softmax(1)
    loss = (cross_entropy(x1, target) + cross_entropy(x2, target)) / 2
    return loss + strength * (divergence(p, q) + divergence(q, p)) / 2


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_trains_as_the_formula_does(accumulate, strength):
    expected, ours = network(), network()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    inputs, target = data()
    for _ in range(4):
        optimizer.zero_grad()
        published(expected[1], inputs, target, strength).backward()
        optimizer.step()
    Trainer(
        ours,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(ours.parameters(), lr=0.1),
        regularizers=[RDrop("classification", strength=strength)],
        max_steps=4,
        device="cpu",
        accumulate=accumulate,
    ).fit(data(), batch_size=ROWS)
    for mine, theirs in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_returns_the_formula_the_weight_and_the_first_half():
    model, (inputs, target) = network(), data()
    doubled = RDrop("classification", strength=2.0).objective(Supervised(nn.CrossEntropyLoss()))
    mean, weight, (prediction, seen) = doubled(model, (inputs, target))
    torch.testing.assert_close(mean, published(model[1], inputs, target, 2.0))
    assert weight == ROWS
    torch.testing.assert_close(prediction, model[1](inputs * Masks.first))
    assert torch.equal(seen, target)


def test_where_the_masks_agree_the_loss_alone_is_left():
    model = nn.Linear(4, 3).double()
    inputs, target = data()
    doubled = RDrop("classification").objective(Supervised(nn.CrossEntropyLoss()))
    torch.testing.assert_close(doubled(model, data())[0], cross_entropy(model(inputs), target))


def test_strength_0_leaves_the_objective_alone():
    inner = Supervised(nn.CrossEntropyLoss())
    assert RDrop("classification", strength=0.0).objective(inner) is inner


def with_outputs(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the divergence that R-Drop adds to a loss of 0 for a prediction of both halves."""

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, tuple[Tensor, Tensor]]:
        return torch.zeros((), dtype=prediction.dtype), 2.0 * len(target), (prediction, batch[1])

    return RDrop("classification").objective(objective)(nn.Identity(), (torch.zeros(len(target)), target))[0]


def test_where_the_classes_are():
    torch.manual_seed(0)
    logits = torch.randn(8, 5, 3, dtype=torch.float64)
    p, q = logits.softmax(2).flatten(0, 1).chunk(2)
    expected = (divergence(p, q) + divergence(q, p)) / 2
    target = torch.zeros(4, 5, dtype=torch.long)
    torch.testing.assert_close(with_outputs(logits, target), expected)
    torch.testing.assert_close(with_outputs(logits.movedim(2, 1), target), expected)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_one_logit_is_two_classes(shape):
    torch.manual_seed(0)
    logit = torch.randn(shape, dtype=torch.float64)
    p = logit.reshape(-1, 1).sigmoid()
    p, q = torch.cat((1 - p, p), 1).chunk(2)
    target = torch.zeros(4, *shape[1:], dtype=torch.float64)
    torch.testing.assert_close(with_outputs(logit, target), (divergence(p, q) + divergence(q, p)) / 2)


def test_gradients_are_finite_at_saturated_logits():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    with_outputs(logits, torch.zeros(1, dtype=torch.long)).backward()
    assert logits.grad.isfinite().all()


def test_evaluation_keeps_its_own_objective():
    model = network()
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        regularizers=[RDrop("classification", strength=5.0)],
        max_steps=1,
        device="cpu",
    )
    trainer.fit(data(), data(), batch_size=ROWS)
    inputs, target = data()
    assert trainer.history[-1].scores["loss/val"] == pytest.approx(cross_entropy(model[1](inputs), target).item())


def test_bad_options_tasks_and_outputs_are_refused():
    with pytest.raises(ConfigError, match="regularizer 'r_drop': strength must be >= 0, got -1"):
        RDrop("classification", strength=-1.0)
    with pytest.raises(ConfigError, match="compares probabilities of classes, and regression has none"):
        RDrop("regression")
    target = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"outputs, one row for each of 8 examples, got torch.float32 \(4, 3\)"):
        with_outputs(torch.zeros(4, 3), target)
    with pytest.raises(ValueError, match=r"got torch.int64 \(8, 3\)"):
        with_outputs(torch.zeros(8, 3, dtype=torch.long), target)

    def silent(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, None]:
        return torch.zeros(()), 1.0, None

    with pytest.raises(ValueError, match="got a NoneType: leave it out"):
        RDrop("language").objective(silent)(nn.Identity(), (target, target))


def test_trains_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    metrics = {"accuracy": registry.build("metric", "accuracy", {}, runtime={"task": digits.task, "outputs": 10})}
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        regularizers=[RDrop(digits.task)],
        metrics=metrics,
        max_epochs=1,
        device="cpu",
    )
    assert trainer.fit(digits.train).status == "finished"
    assert trainer.evaluate(digits.test)["accuracy"] > 0.7
