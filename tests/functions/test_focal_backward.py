import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from framework.functions import focal
from framework.functions.tiles import elements_at_once


def logit(p: float) -> torch.Tensor:
    return torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)


@pytest.mark.parametrize(("p", "times"), [(0.9, 100), (0.968, 1000)])
def test_factors_of_the_paper(p: float, times: float):
    """Lin et al. (2017), section 3.2: with γ = 2 the loss at p = 0.9 is 100 times lower, at 0.968 some 1000 times."""
    plain = -math.log(p)
    assert plain / focal(logit(p), torch.ones(1)).item() == pytest.approx(times, rel=0.03)


@pytest.mark.parametrize("target", [0, 1])
def test_alpha_is_what_a_one_counts(target: int):
    logits, targets = logit(0.3), torch.tensor([target])
    counts = 0.25 if target else 0.75
    weighed = focal(logits, targets, alpha=0.25)
    assert weighed.item() == pytest.approx(counts * focal(logits, targets).item(), rel=1e-12)


def test_gamma_0_is_cross_entropy():
    logits = torch.linspace(-30, 30, 13, dtype=torch.float64, requires_grad=True)
    target = torch.arange(13) % 2 == 0
    ours = focal(logits, target, gamma=0.0, reduction="sum")
    theirs = binary_cross_entropy_with_logits(logits, target.double(), reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("target", [0, 1])
def test_saturated_in_float32(gamma: float, target: int):
    """Against the closed form of the derivative for a 1, −q^γ (q + γ (1 − q) (−log p)), in double precision."""
    points = [-100.0, -30.0, -10.0, 10.0, 20.0, 30.0, 80.0, 100.0]
    logits = torch.tensor(points, requires_grad=True)
    sign = 1 if target else -1
    losses, slopes = [], []
    for x in points:
        z = sign * x
        q = math.exp(-z) / (1 + math.exp(-z)) if z > 0 else 1 / (1 + math.exp(z))
        minus_log_p = max(-z, 0.0) + math.log1p(math.exp(-abs(z)))
        losses.append(q**gamma * minus_log_p)
        slopes.append(-sign * q**gamma * (q + gamma * (1 - q) * minus_log_p))
    found = focal(logits, torch.full((len(points),), target), gamma=gamma, reduction="none")
    torch.testing.assert_close(found, torch.tensor(losses), rtol=1e-5, atol=1e-40)
    for twice in (False, True):
        gradient = torch.autograd.grad(found.sum(), logits, retain_graph=True, create_graph=twice)[0]
        torch.testing.assert_close(gradient.detach(), torch.tensor(slopes), rtol=1e-5, atol=1e-36)
    assert torch.autograd.grad(gradient.sum(), logits)[0].isfinite().all()


def test_more_elements_than_a_tile_in_any_layout():
    elements = elements_at_once(torch.device("cpu")) + 6
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, elements // 2, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.rand(elements // 2, 2, generator=generator) < 0.1
    ours = focal(logits, target.t(), alpha=0.25)
    theirs = focal(logits.detach().t().contiguous().requires_grad_(), target, alpha=0.25)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    p = logits.detach().sigmoid()
    p = torch.where(target.t(), p, 1 - p)
    by_formula = torch.where(target.t(), 0.25, 0.75) * (1 - p) ** 2 * -p.log()
    assert ours.item() == pytest.approx(by_formula.mean().item(), rel=1e-10)


def test_autocast_computes_in_float32():
    logits = torch.tensor([3.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = focal(logits, torch.tensor([True, False]))
    assert torch.autograd.grad(loss, logits)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.zeros(3, 1), {}, r"focal: prediction and target must have the same shape, got \(3,\) and \(3, 1\)"),
        (torch.zeros(3, requires_grad=True), {}, "target is a constant here, got one that requires a gradient: detach"),
        (torch.zeros(3), {"gamma": -1.0}, "gamma must be at least 0 and finite, got -1.0"),
        (torch.zeros(3), {"gamma": float("nan")}, "gamma must be at least 0 and finite, got nan"),
        (torch.zeros(3), {"alpha": 1.5}, r"alpha must be None or in \[0, 1\], got 1.5"),
        (torch.zeros(3), {"reduction": "max"}, "reduction must be one of .*, got 'max'"),
    ],
)
def test_refuses(target, options, message: str):
    with pytest.raises(ValueError, match=message):
        focal(torch.zeros(3), target, **options)
