"""Linear layer and cross-entropy in one: what the harness does not reach."""

import sys

import pytest
import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from framework.functions import FUNCTIONS, linear_cross_entropy

MODULE = sys.modules["framework.functions.linear_cross_entropy"]
ENTRY = FUNCTIONS["linear_cross_entropy"]
EXAMPLES = list(ENTRY.examples(torch.Generator().manual_seed(0)))


@pytest.fixture
def by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of seven classes in float64 a chunk, or one where a chunk takes two buffers."""
    monkeypatch.setattr(MODULE, "BYTES_OF_LOGITS", 2 * 7 * 8)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is multiplied, in order, by name."""
    done: list[str] = []

    def counted(name, original):
        def multiply(*arguments):
            done.append(name)
            original(*arguments)

        return multiply

    for name in ("multiply", "add_product"):
        monkeypatch.setattr(MODULE, name, counted(name, getattr(MODULE, name)))
    return done


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def problem():
    """Hidden, weight, target, and the gradients of their mean by torch."""
    hidden, weight, target = draw(5, 4), draw(7, 4, seed=1), torch.tensor([3, -100, 0, 6, 2])
    loss = functional.cross_entropy(functional.linear(hidden, weight), target)
    return hidden, weight, target, torch.autograd.grad(loss, (hidden, weight))


@pytest.mark.usefixtures("by_chunks")
@pytest.mark.parametrize("example", EXAMPLES)
def test_chunks_equal_torch(example: str):
    call = ENTRY.examples(torch.Generator().manual_seed(0))[example]
    leaves = [a for a in (*call.args, call.kwargs.get("bias")) if a is not None and a.requires_grad]
    loss, expected = ENTRY.call(*call.args, **call.kwargs), ENTRY.reference(*call.args, **call.kwargs)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = torch.autograd.grad(loss.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_forms_gradients_along_with_the_loss_in_three_products(problem, products):
    hidden, weight, target, _ = problem
    loss = linear_cross_entropy(hidden, weight, target)
    assert products == ["multiply", "multiply", "add_product"]
    loss.backward(retain_graph=True)
    assert len(products) == 3
    loss.backward()
    assert len(products) == 6
    linear_cross_entropy(hidden, weight, target, reduction="none").sum().backward()
    assert len(products) == 6 + 4


def test_forms_only_gradients_that_are_asked_for(problem, products):
    hidden, weight, target, (of_hidden, _) = problem
    with torch.no_grad():
        linear_cross_entropy(hidden, weight, target)
    assert products == ["multiply"]
    loss = linear_cross_entropy(hidden, weight.detach(), target)
    assert products[1:] == ["multiply", "multiply"]
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], of_hidden)


@pytest.mark.parametrize("touched", [False, True])
def test_gradients_accumulate_over_a_retained_graph(problem, touched: bool):
    """Its buffer becomes .grad, and may be written to before the second backward."""
    hidden, weight, target, expected = problem
    loss = linear_cross_entropy(hidden, weight, target)
    loss.backward(retain_graph=True)
    if touched:
        weight.grad.mul_(10)
    (3 * loss).backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(weight.grad, (14 if touched else 5) * expected[1])
    torch.testing.assert_close(hidden.grad, 5 * expected[0])


def test_one_gradient_and_then_the_other(problem):
    hidden, weight, target, expected = problem
    loss = linear_cross_entropy(hidden, weight, target)
    torch.testing.assert_close(torch.autograd.grad(2 * loss, hidden, retain_graph=True)[0], 2 * expected[0])
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], expected[1])


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_a_checkpoint(problem, reentrant: bool):
    hidden, weight, target, expected = problem
    loss = checkpoint(lambda h, w: 2 * linear_cross_entropy(h, w, target), hidden, weight, use_reentrant=reentrant)
    loss.backward()
    torch.testing.assert_close((hidden.grad, weight.grad), tuple(2 * e for e in expected))


@pytest.mark.parametrize(
    "hooks", [save_on_cpu, lambda: saved_tensors_hooks(lambda t: t, lambda t: t)], ids=["save_on_cpu", "identity"]
)
def test_where_saved_tensors_are_moved(problem, hooks):
    hidden, weight, target, expected = problem
    with hooks():
        loss = linear_cross_entropy(hidden, weight, target)
    (2 * loss).backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close((hidden.grad, weight.grad), tuple(3 * e for e in expected))


def test_several_gradients_at_once(problem):
    hidden, weight, target, expected = problem
    loss, factors = linear_cross_entropy(hidden, weight, target), torch.tensor([1.0, -2.0], dtype=torch.float64)
    for _ in range(2):
        found = torch.autograd.grad(loss, (hidden, weight), factors, is_grads_batched=True, retain_graph=True)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, torch.stack((theirs, -2 * theirs)))


def test_penalty_on_its_gradient(problem):
    """Differentiated twice in the middle of a network, as a gradient penalty does."""
    hidden, weight, target, _ = problem

    def penalty(function):
        (gradient,) = torch.autograd.grad(function(hidden * 2, weight, target), hidden, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    torch.testing.assert_close(penalty(linear_cross_entropy), penalty(ENTRY.reference))


def test_in_autocast_the_weight_gradient_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch):
    """Error against float64 of the same numbers: less than that of autocast's own operations."""
    monkeypatch.setattr(MODULE, "BYTES_OF_LOGITS", 16 * 64 * 4)
    hidden = draw(512, 32).detach().float().requires_grad_()
    weight = (draw(64, 32, seed=1).detach() / 4).float().requires_grad_()
    bias, target = draw(64, seed=2).detach().float().requires_grad_(), torch.arange(512) % 64
    leaves = (hidden, weight, bias)

    def found(function):
        with torch.autocast("cpu", torch.bfloat16):
            loss = function(hidden, weight, target, bias=bias)
        return loss, torch.autograd.grad(loss, leaves)

    (loss, ours), (_, theirs) = found(linear_cross_entropy), found(ENTRY.reference)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    truth = ENTRY.reference(exact[0], exact[1], target, bias=exact[2])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(truth.item(), rel=2e-3)
    for a, b, c in zip(ours, theirs, torch.autograd.grad(truth, exact), strict=True):
        assert a.dtype == torch.float32
        assert (a - c).norm() <= 1.1 * (b - c).norm()


def test_weights_of_another_type_get_gradients_of_theirs():
    hidden = draw(5, 4).detach().bfloat16().requires_grad_()
    weight = draw(7, 4).detach().float().requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2, 3, 4]))
    of_hidden, of_weight = torch.autograd.grad(loss, (hidden, weight))
    assert (of_hidden.dtype, of_weight.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.usefixtures("by_chunks")
@pytest.mark.parametrize("wrong", [7, -1])
def test_classes_out_of_range_are_refused(problem, wrong: int):
    hidden, weight, target, _ = problem
    target[4] = wrong
    with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
        linear_cross_entropy(hidden, weight, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(5, 3)}, r"hidden must be \(..., H\) and weight \(C, H\), got \(5, 3\) and \(7, 4\)"),
        ({"weight": torch.zeros(4)}, r"got \(5, 4\) and \(4,\)"),
        ({"bias": torch.zeros(4)}, r"bias must be one number for each of 7 classes, got \(4,\)"),
        (
            {"target": torch.zeros(4, dtype=torch.long)},
            r"class indices \(5,\) or probabilities \(5, 7\), got torch.int64",
        ),
        ({"target": torch.zeros(5, 4)}, r"class indices \(5,\) or probabilities \(5, 7\), got torch.float32 \(5, 4\)"),
        ({"softcap": -1.0}, "softcap must be positive, or None for none, got -1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be from 0 to 1, got -0.1"),
        ({"reduction": "all"}, "reduction must be one of mean, sum, none, got 'all'"),
    ],
)
def test_what_does_not_fit_is_refused(problem, change: dict, message: str):
    arguments = dict(zip(("hidden", "weight", "target"), problem, strict=False))
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{**arguments, **change})
