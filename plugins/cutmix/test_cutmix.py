"""CutMix against what can be read off its batches."""

import math

import pytest
import torch
from chainrule_cutmix import CutMix
from torch import nn

from framework import ConfigError, Trainer, registry
from framework.losses import CrossEntropy

ROWS = 8


def owners(shape: tuple[int, ...]) -> torch.Tensor:
    """Return images whose every pixel is the number of its image."""
    return torch.arange(ROWS).view(-1, *[1] * len(shape)).expand(ROWS, *shape).double()


@pytest.mark.parametrize("shape", [(9, 7), (2, 9, 7), (1, 8, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_a_box_of_another_image_and_the_targets_by_its_area(shape, seed):
    torch.manual_seed(seed)
    classes = torch.arange(ROWS) % 5
    given = owners(shape)
    mixed, soft = CutMix(5).on_batch((given, classes))
    assert torch.equal(given, owners(shape))
    assert soft.shape == (ROWS, 5)
    foreign = mixed != given
    where = foreign.flatten(1, -3).any(1).any(0) if len(shape) == 3 else foreign.any(0)
    ys, xs = where.nonzero(as_tuple=True)
    area = 0
    if len(ys):
        top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
        assert where[top:bottom, left:right].all()
        area = int((bottom - top) * (right - left))
    share = area / (shape[-1] * shape[-2])
    partner = mixed[:, ..., ys[0], xs[0]].reshape(ROWS, -1)[:, 0].long() if area else torch.arange(ROWS)
    assert sorted(partner.tolist()) == list(range(ROWS))
    one_hot = torch.eye(5)
    torch.testing.assert_close(soft, (1 - share) * one_hot[classes] + share * one_hot[classes[partner]])


def test_mixes_losses():
    """Cross-entropy is linear in the target: λ CE(y) + (1 − λ) CE(y')."""
    torch.manual_seed(1)
    classes = torch.arange(ROWS)
    _, soft = CutMix(ROWS).on_batch((owners((8, 8)), classes))
    share = soft.diagonal()[soft.diagonal() < 1][0]
    partner = (soft - share * torch.eye(ROWS)).argmax(1)
    scores, loss = torch.randn(ROWS, ROWS), CrossEntropy()
    torch.testing.assert_close(
        loss(scores, soft), share * loss(scores, classes) + (1 - share) * loss(scores, classes[partner])
    )


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_boxes_area_before_cutting_has_betas_mean(alpha):
    """Sides are √(1 − λ) of a large image's, so that their product has the mean of 1 − λ, ½, and its variance."""
    torch.manual_seed(0)
    mixing = CutMix(2, alpha=alpha)
    draws = 2000
    # a centre is uniform: the part of a box that stays inside has the expected length s − s²/4 of side s
    spans = [mixing._box(1000, 1000) for _ in range(draws)]
    found = torch.tensor([(r.stop - r.start) * (c.stop - c.start) / 1e6 for r, c in spans]).mean().item()
    side = (1 - torch.distributions.Beta(alpha, alpha).sample((100_000,))).sqrt()
    assert found == pytest.approx((side - side**2 / 4).square().mean().item(), abs=5 * 0.35 / math.sqrt(draws))


def test_other_targets_and_the_same_seed():
    images = torch.randint(255, (ROWS, 3, 6, 6), dtype=torch.uint8)
    assert CutMix(2).on_batch((images, torch.rand(ROWS, 2)))[0].dtype == torch.uint8
    assert CutMix(1).on_batch((images, torch.arange(ROWS) % 2))[1].is_floating_point()
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(CutMix(3).on_batch((images, torch.arange(ROWS) % 3)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_nothing_is_read_from_the_device():
    """A tensor on the meta device has no values to read."""
    images, target = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, 3, device="meta")
    assert CutMix(3).on_batch((images, target))[0].is_meta


def test_bad_options_and_batches_are_refused():
    with pytest.raises(ConfigError, match="regularizer 'cutmix': alpha must be > 0, got 0"):
        CutMix(3, alpha=0.0)
    with pytest.raises(ValueError, match=r"needs images \(N, H, W\) or \(N, C, H, W\), got \(4, 64\)"):
        CutMix(3).on_batch((torch.rand(4, 64), torch.arange(4)))
    with pytest.raises(ValueError, match=r"needs images \(N, H, W\) or \(N, C, H, W\), got a dict"):
        CutMix(3).on_batch(({"image": torch.rand(4, 8, 8)}, torch.arange(4)))
    with pytest.raises(ValueError, match=r"'cutmix' changes batches of \(inputs, target\), got a dict"):
        CutMix(3).on_batch({"inputs": torch.rand(2, 2)})


def test_trains_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    metrics = {"accuracy": registry.build("metric", "accuracy", {}, runtime={"task": digits.task, "outputs": 10})}
    trainer = Trainer(
        model,
        loss=CrossEntropy(),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        regularizers=[CutMix(10)],
        metrics=metrics,
        max_epochs=1,
        device="cpu",
    )
    assert trainer.fit(digits.train).status == "finished"
    assert trainer.evaluate(digits.test)["accuracy"] > 0.6
