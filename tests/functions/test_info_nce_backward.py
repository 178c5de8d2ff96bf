import math

import pytest
import torch

from framework.functions import info_nce
from framework.functions.info_nce import ROWS


def unit(rows: int, features: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def by_loops(queries, keys, temperature: float, symmetric: bool) -> list[float]:
    scores = [[sum(a * b for a, b in zip(q, k, strict=True)) / temperature for k in keys] for q in queries]
    losses = []
    for i in range(len(scores)):
        row = math.log(sum(math.exp(s) for s in scores[i])) - scores[i][i]
        column = math.log(sum(math.exp(line[i]) for line in scores)) - scores[i][i]
        losses.append((row + column) / 2 if symmetric else row)
    return losses


@pytest.mark.parametrize("symmetric", [True, False])
def test_is_the_definition(symmetric: bool):
    queries, keys = unit(5, 3, 0), unit(5, 3, 1)
    expected = by_loops(queries.tolist(), keys.tolist(), 0.2, symmetric)
    losses = info_nce(queries, keys, temperature=0.2, symmetric=symmetric, reduction="none")
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    mean = info_nce(queries, keys, temperature=0.2, symmetric=symmetric)
    assert mean.item() == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_indistinguishable_pairs_cost_log_n():
    alike = torch.ones(7, 4)
    assert info_nce(alike, alike).item() == pytest.approx(math.log(7), rel=1e-6)


def test_scores_far_apart_stay_finite():
    """A key that the queries score 200 below another: beside the rows' maxima its column would vanish."""
    queries = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, -100.0]], requires_grad=True)
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 1.0]], requires_grad=True)
    losses = info_nce(queries, keys, temperature=1.0, reduction="none")
    row = (math.log(2), math.log(2), 100.0 + math.log(2))
    column = (math.log(2), math.log(2), math.log(3))
    expected = torch.tensor([(a + b) / 2 for a, b in zip(row, column, strict=True)])
    torch.testing.assert_close(losses, expected)
    gradients = torch.autograd.grad(losses.sum(), (queries, keys))
    assert all(g.isfinite().all() for g in gradients)


def test_learned_temperature_as_in_clip():
    """The temperature is e^−s of a parameter s: its gradient against the difference of two losses."""
    queries, keys = unit(6, 4, 2), unit(6, 4, 3)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def loss(s: torch.Tensor) -> torch.Tensor:
        return info_nce(queries, keys, temperature=torch.exp(-s))

    loss(scale).backward()
    step = 1e-5
    numeric = (loss(scale.detach() + step) - loss(scale.detach() - step)) / (2 * step)
    assert scale.grad.item() == pytest.approx(numeric.item(), rel=1e-8)


def test_autocast_multiplies_in_bfloat16_and_returns_float32():
    rows = ROWS + 5
    queries, keys = unit(rows, 16, 4).float().requires_grad_(), unit(rows, 16, 5).float().requires_grad_()
    exact = torch.autograd.grad(info_nce(queries, keys), (queries, keys))
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(queries, keys)
    rounded = torch.autograd.grad(loss, (queries, keys))
    assert loss.dtype == torch.float32
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((3, 2), (4, 2)), {}, r"info_nce: queries and keys must both be \(N, D\), got \(3, 2\) and \(4, 2\)"),
        (((3,), (3,)), {}, r"must both be \(N, D\)"),
        (((3, 2), (3, 2)), {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        (((3, 2), (3, 2)), {"temperature": float("nan")}, "temperature must be above 0, got nan"),
        (((3, 2), (3, 2)), {"temperature": torch.ones(2)}, r"a number or 0-d, got shape \(2,\)"),
        (((3, 2), (3, 2)), {"reduction": "max"}, "reduction must be one of .*, got 'max'"),
    ],
)
def test_refuses(arguments, options, message: str):
    with pytest.raises(ValueError, match=message):
        info_nce(*(torch.zeros(shape) for shape in arguments), **options)
