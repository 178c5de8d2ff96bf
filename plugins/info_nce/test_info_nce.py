"""InfoNCE against torch's cross-entropy of the scores."""

import pytest
import torch
from chainrule_info_nce import InfoNCE
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from framework import ConfigError, Trainer, registry
from framework.testing import assert_gradients


def views(rows: int = 6, width: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, width, dtype=torch.float64), torch.randn(rows, width, dtype=torch.float64)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_is_the_cross_entropy_of_finding_the_partner(symmetric, scaled):
    first, second = views()
    scores = cosine_similarity(first[:, None], second[None], dim=2) if scaled else first @ second.T
    own = torch.arange(6)
    expected = cross_entropy(scores / 0.3, own)
    if symmetric:
        expected = (expected + cross_entropy(scores.T / 0.3, own)) / 2
    loss = InfoNCE(temperature=0.3, symmetric=symmetric, normalize=scaled)
    torch.testing.assert_close(loss(first, second), expected)
    torch.testing.assert_close(loss((first, second), torch.zeros(6)), expected)
    assert loss.weight(second) == 6


def test_views_that_tell_nothing_apart_cost_the_logarithm_of_the_batch():
    same = torch.ones(8, 3)
    torch.testing.assert_close(InfoNCE()(same, same), torch.tensor(8.0).log())


def test_is_no_mean_over_examples_and_says_so():
    first, second = views()
    parts = [InfoNCE()(a, b) for a, b in zip(first.split(3), second.split(3), strict=True)]
    assert not torch.isclose(InfoNCE()(first, second), sum(parts) / 2, rtol=0.05)
    assert InfoNCE.additive is False
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(InfoNCE()(first[order], second[order]), InfoNCE()(first, second))


def test_gradients():
    first, second = views(4, 3)
    assert_gradients(InfoNCE(temperature=0.5), first.requires_grad_(), second.requires_grad_())


def test_the_ends_of_numbers():
    empty = torch.zeros(0, 3)
    assert InfoNCE()(empty, empty).item() == 0.0
    zero = torch.zeros(3, 2, requires_grad=True)
    InfoNCE()(zero, torch.randn(3, 2)).backward()
    assert zero.grad.isfinite().all()
    half = torch.randn(4, 3, dtype=torch.bfloat16)
    assert InfoNCE()(half, half).dtype == torch.bfloat16


def test_bad_options_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="loss 'info_nce': temperature must be > 0, got 0"):
        InfoNCE(temperature=0.0)
    with pytest.raises(ValueError, match=r"both be floating-point and \(N, D\), got torch.float32 \(4, 3\) and"):
        InfoNCE()(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got torch.float32 \(4, 3\) and torch.float32 \(4, 2\)"):
        InfoNCE()((torch.zeros(4, 3), torch.zeros(4, 2)), torch.zeros(4))
    with pytest.raises(ValueError, match="one embedding or a pair of them, got 3"):
        InfoNCE()((torch.zeros(4, 3),) * 3, torch.zeros(4))


class TwoViews(nn.Module):
    """Embeddings of an image under two random masks of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(images), self.encode(images)


def test_trains_two_views_of_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = TwoViews()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(model, loss=InfoNCE(), optimizer=optimizer, max_epochs=1, device="cpu")
    result = trainer.fit(digits.train)
    assert result.status == "finished"
    assert trainer.history[-1].scores["loss/train"] < 0.6 * torch.tensor(64.0).log()
