import pytest
import torch

from framework.functions import distillation
from framework.functions.tiles import elements_at_once


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_is_the_divergence_of_two_distributions():
    """On log-probabilities of two classes, T = 1: log Σ e^x is 0, so that the divergence is written down."""
    teacher, student = torch.tensor([[0.8, 0.2]]).double(), torch.tensor([[0.5, 0.5]]).double()
    expected = 0.8 * torch.log(torch.tensor(0.8 / 0.5)) + 0.2 * torch.log(torch.tensor(0.2 / 0.5))
    assert distillation(student.log(), teacher.log()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_is_the_difference_of_the_distributions():
    student, teacher, temperature = draw(6, 4).requires_grad_(), draw(6, 4, seed=1), 2.5
    gradient = torch.autograd.grad(distillation(student, teacher, temperature=temperature), student)[0]
    s, p = (torch.exp(x / temperature) for x in (student.detach(), teacher))
    s, p = s / s.sum(1, keepdim=True), p / p.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, temperature / 6 * (s - p), rtol=1e-12, atol=1e-14)


def test_matches_logits_in_the_limit_of_heat():
    """Hinton et al. (2015), equation 4: for logits of mean 0, the gradient tends to (x − v) / C."""
    student, teacher = draw(1, 5), draw(1, 5, seed=1)
    student, teacher = (x - x.mean() for x in (student, teacher))
    student.requires_grad_()
    gradient = torch.autograd.grad(distillation(student, teacher, temperature=1e4), student)[0]
    torch.testing.assert_close(gradient, (student.detach() - teacher) / 5, rtol=1e-3, atol=1e-4)


def test_nothing_to_learn_from_oneself():
    logits = draw(3, 4).requires_grad_()
    loss = distillation(logits, logits.detach(), temperature=3.0)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-15


def test_large_logits_stay_finite():
    student = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1000.0], [-1000.0, 0.0]], requires_grad=True)
    losses = distillation(student, teacher, reduction="none")
    torch.testing.assert_close(losses, torch.tensor([1000.0, 0.0]))
    gradients = torch.autograd.grad(losses.sum(), (student, teacher))
    torch.testing.assert_close(gradients[0], torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    assert gradients[1].isfinite().all()


def test_more_rows_than_a_tile():
    classes = elements_at_once(torch.device("cpu")) // 3
    student, teacher = (draw(4, classes, seed=seed).requires_grad_() for seed in (0, 1))
    losses = distillation(student, teacher, reduction="none")
    gradients = torch.autograd.grad(losses.sum(), (student, teacher))
    for i in range(4):
        rows = [x[i].detach().requires_grad_() for x in (student, teacher)]
        loss = distillation(*rows)
        assert loss.item() == pytest.approx(losses[i].item(), rel=1e-12)
        for whole, row in zip(gradients, torch.autograd.grad(loss, rows), strict=True):
            torch.testing.assert_close(whole[i], row, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (
            ((3, 2), (3, 4)),
            {},
            r"distillation: the logits of student and teacher must both be .* \(3, 2\) and \(3, 4\)",
        ),
        (((), ()), {}, r"must both be \(\.\.\., C\), got \(\) and \(\)"),
        (((3, 2), (3, 2)), {"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        (((3, 2), (3, 2)), {"reduction": "batchmean"}, "reduction must be one of .*, got 'batchmean'"),
    ],
)
def test_refuses(shapes, options, message: str):
    with pytest.raises(ValueError, match=message):
        distillation(*(torch.zeros(shape) for shape in shapes), **options)
