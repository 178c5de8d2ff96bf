"""The focal loss against its formula in torch's operations."""

import pytest
import torch
from chainrule_focal import Focal
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from framework import ConfigError, Trainer, registry
from framework.testing import assert_gradients


def published(logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Lin et al., equation 5: −α_t (1 − p_t)^γ log p_t of each element."""
    p_t = torch.where(target.bool(), logits.sigmoid(), 1 - logits.sigmoid())
    alpha_t = 1.0 if alpha is None else torch.where(target.bool(), alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * p_t.log()


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (2.0, 0.25), (0.5, 0.9), (0.0, None)])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (4, 3, 5)])
def test_decisions_of_one_shape(gamma, alpha, shape):
    torch.manual_seed(0)
    logits, target = torch.randn(shape, dtype=torch.float64) * 3, torch.rand(shape) < 0.4
    loss = Focal(gamma=gamma, alpha=alpha)
    expected = published(logits, target, gamma, alpha).mean()
    for given in (target, target.double(), target.long()):
        torch.testing.assert_close(loss(logits, given), expected)
        assert int(loss.weight(given)) == logits.numel()


@pytest.mark.parametrize("second", [False, True])
def test_class_indices_are_taken_one_hot_and_ignored_ones_left_out(second):
    torch.manual_seed(0)
    logits, target = torch.randn(4, 7, 5, dtype=torch.float64), torch.randint(5, (4, 7))
    target[0, :3] = -1
    kept = target >= 0
    expected = published(logits[kept], one_hot(target[kept], 5), 2.0, 0.25).mean()
    loss = Focal(alpha=0.25, ignore_index=-1)
    torch.testing.assert_close(loss(logits.movedim(2, 1) if second else logits, target), expected)
    assert int(loss.weight(target)) == int(kept.sum()) == 25


def test_at_gamma_0_it_is_cross_entropy_of_the_sigmoid():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 4), torch.randint(4, (5,))
    expected = binary_cross_entropy_with_logits(logits, one_hot(target, 4).float())
    torch.testing.assert_close(Focal(gamma=0.0)(logits, target), expected)


def test_probabilities_are_soft_decisions():
    """Linear in the target where gamma is 0, as mixed targets need."""
    torch.manual_seed(0)
    logits, target = torch.randn(5, 4), torch.rand(5, 4)
    torch.testing.assert_close(Focal(gamma=0.0)(logits, target), binary_cross_entropy_with_logits(logits, target))


def test_what_is_ignored_leaves_no_trace_and_nothing_left_is_0():
    logits = torch.full((3, 2), 1e4, requires_grad=True)
    loss = Focal()(logits, torch.full((3,), -100))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.tolist() == [[0.0, 0.0]] * 3
    assert Focal()(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)).item() == 0.0
    assert Focal()(torch.zeros(0), torch.zeros(0)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_logits_stay_finite(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    loss = Focal(gamma=0.5)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_gradients():
    torch.manual_seed(0)
    indices = torch.tensor([0, 2, -100, 1])
    assert_gradients(lambda x: Focal(alpha=0.25)(x, indices), torch.randn(4, 3))
    decisions = torch.rand(4, 3)
    assert_gradients(lambda x: Focal(gamma=1.5)(x, decisions), torch.randn(4, 3))


def test_bad_options_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="loss 'focal': gamma must be >= 0, got -1"):
        Focal(gamma=-1.0)
    with pytest.raises(ConfigError, match="loss 'focal': alpha must be >= 0 and <= 1, got 2"):
        Focal(alpha=2.0)
    with pytest.raises(ValueError, match=r"Focal: prediction must be \(\.\.\., classes\).*got \(4, 3\) and"):
        Focal()(torch.zeros(4, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="give the target the prediction's shape"):
        Focal()(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


def test_trains_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    metrics = {"accuracy": registry.build("metric", "accuracy", {}, runtime={"task": digits.task, "outputs": 10})}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = Trainer(model, loss=Focal(), optimizer=optimizer, metrics=metrics, max_epochs=1, device="cpu")
    assert trainer.fit(digits.train, test=digits.test).status == "finished"
    assert trainer.evaluate(digits.test)["accuracy"] > 0.7
