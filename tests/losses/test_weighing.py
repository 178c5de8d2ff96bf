"""The weight of any loss, against what its mean divides by."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from framework.losses import CrossEntropy
from framework.losses.weighing import announce, weigh

TARGET = torch.tensor([0, 2, 1, -100, 2, 2])
SCORES = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)
VALUES = torch.rand(6, 3, dtype=torch.float64)
SOFT = VALUES / VALUES.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (nn.CrossEntropyLoss(), TARGET),
        (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), TARGET),
        (nn.CrossEntropyLoss(ignore_index=2), TARGET.clamp(min=0)),
        (nn.CrossEntropyLoss(weight=WEIGHT), SOFT),
        (nn.NLLLoss(weight=WEIGHT), TARGET),
        (nn.MSELoss(), VALUES),
        (nn.L1Loss(), VALUES),
        (nn.SmoothL1Loss(), VALUES),
        (nn.HuberLoss(), VALUES),
        (nn.BCEWithLogitsLoss(), VALUES),
        (nn.MultiMarginLoss(), TARGET.clamp(min=0)),
        (nn.KLDivLoss(reduction="batchmean"), SOFT),
        (lambda p, t: F.cross_entropy(p, t), TARGET.clamp(min=0)),
        (CrossEntropy(class_weights=WEIGHT.tolist()), TARGET),
    ],
)
def test_ragged_parts_give_the_whole(loss, target):
    parts = list(zip(SCORES.split([1, 2, 3]), target.split([1, 2, 3]), strict=True))
    total = sum(loss(p, t) * weigh(loss, t) for p, t in parts) / sum(weigh(loss, t) for _, t in parts)
    torch.testing.assert_close(total, loss(SCORES, target), rtol=1e-12, atol=0)


def test_by_hand():
    assert weigh(nn.CrossEntropyLoss(), TARGET) == 5
    assert weigh(nn.CrossEntropyLoss(weight=WEIGHT), TARGET) == 10.5
    assert weigh(nn.CrossEntropyLoss(), torch.rand(2, 3, 4)) == 8
    assert weigh(nn.CrossEntropyLoss(), torch.rand(3)) == 1
    assert weigh(nn.MSELoss(), VALUES) == 18
    assert weigh(F.mse_loss, VALUES) == 6
    assert weigh(F.mse_loss, torch.tensor(1.0)) == 1
    assert weigh(F.mse_loss, {"boxes": [VALUES[:4]], "labels": TARGET}) == 4


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_refuses_what_is_no_mean(reduction):
    with pytest.raises(ValueError, match=f"CrossEntropyLoss: reduction must be 'mean', got '{reduction}'"):
        weigh(nn.CrossEntropyLoss(reduction=reduction), TARGET)


def test_refuses_a_target_without_rows():
    with pytest.raises(ValueError, match=r"must hold a tensor.*got str"):
        weigh(F.mse_loss, "target")


def test_announces_only_what_it_guesses():
    class Silent(nn.Module):
        weight = None

    assert announce(CrossEntropy()) is None
    assert announce(nn.CrossEntropyLoss()) is None
    assert announce(nn.MSELoss()) is None
    assert "loss Silent does not say" in (announce(Silent()) or "")
    assert "loss mse_loss does not say" in (announce(F.mse_loss) or "")
