"""Cross-entropy by hand: what the harness does not reach."""

import math
import sys

import pytest
import torch
from torch.nn import functional

from framework.functions import FUNCTIONS, cross_entropy
from framework.functions.cross_entropy import CrossEntropy

MODULE = sys.modules["framework.functions.cross_entropy"]
ENTRY = FUNCTIONS["cross_entropy"]
EXAMPLES = list(ENTRY.examples(torch.Generator().manual_seed(0)))


@pytest.fixture
def by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of seven classes a chunk."""
    monkeypatch.setattr(MODULE, "LOGITS_PER_CHUNK", 14)
    monkeypatch.setattr(MODULE, "SMALL", 0)


@pytest.fixture(params=["small", "by chunks"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by chunks":
        monkeypatch.setattr(MODULE, "LOGITS_PER_CHUNK", 1)
        monkeypatch.setattr(MODULE, "SMALL", 0)


def gradients(function, call):
    leaves = [a for a in call.args if a.requires_grad]
    loss = function(*call.args, **call.kwargs)
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


@pytest.mark.usefixtures("by_chunks")
@pytest.mark.parametrize("example", EXAMPLES)
def test_chunks_equal_torch(example: str):
    call = ENTRY.examples(torch.Generator().manual_seed(0))[example]
    for ours, theirs in zip(gradients(ENTRY.call, call), gradients(ENTRY.reference, call), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("by_chunks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunks_in_low_precision_are_rounded_once(dtype: torch.dtype):
    """p_y − 1 is formed before the rounding: a p that rounds to 1 still has a gradient."""
    logits = torch.tensor([[9.0, 0, 0, 0, 0, 0, 0]] * 3, dtype=dtype, requires_grad=True)
    target = torch.zeros(3, dtype=torch.long)
    ours = torch.autograd.grad(cross_entropy(logits, target), logits)[0]
    exact = logits.detach().double().requires_grad_()
    truth = torch.autograd.grad(functional.cross_entropy(exact, target), exact)[0]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), truth, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.usefixtures("by_chunks")
def test_chunks_inside_torch_func_and_twice():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([[0, 1, 2, 3, -100]] * 3)
    ours = torch.func.vmap(torch.func.grad(cross_entropy))(logits, target)
    theirs = torch.stack([torch.func.grad(functional.cross_entropy)(x, y) for x, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy(x, target[0]), logits[0].requires_grad_())


@pytest.mark.usefixtures("each_path")
def test_by_hand():
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], dtype=torch.float64)
    logits = (probabilities.log() + 4).requires_grad_()
    loss = cross_entropy(logits, torch.tensor([2, 1]))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.tensor([[0.1, 0.15, -0.25], [0.05, -0.1, 0.05]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)
    # lse is 4 in both rows: the gradient of a lse² is 2 a lse p
    (of_z,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([2, 1]), z_loss=0.5), logits)
    torch.testing.assert_close(of_z, expected + 2 * 0.5 * 4 * probabilities / 2)


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_zero_where_nothing_counts(smoothing: float):
    logits = torch.randn(4, 3, requires_grad=True)
    ignored, target = torch.full((4,), -100), torch.tensor([0, 0, -100, 0])
    weights = torch.tensor([0.0, 1, 1])
    for loss in (
        cross_entropy(logits, ignored, label_smoothing=smoothing),
        cross_entropy(logits, ignored, label_smoothing=smoothing, z_loss=0.1, class_weights=weights),
        cross_entropy(logits, target, label_smoothing=smoothing, class_weights=weights),
        cross_entropy(logits[:0], ignored[:0], label_smoothing=smoothing),
    ):
        assert loss.item() == 0
        assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros(4, 3))


@pytest.mark.usefixtures("each_path")
def test_impossible_classes_cost_nothing_and_get_no_gradient():
    logits = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0]), z_loss=0.1)
    rest = logits.detach()[:, [0, 2]].requires_grad_()
    expected = cross_entropy(rest, torch.tensor([0]), z_loss=0.1)
    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[0, 1] == 0
    torch.testing.assert_close(gradient[:, [0, 2]], torch.autograd.grad(expected, rest)[0])


@pytest.mark.usefixtures("each_path")
def test_without_autograd():
    class Context:
        needs_input_grad = (True, *[False] * 7)

        def save_for_backward(self, *tensors):
            self.saved_tensors = tensors

    logits, target = torch.randn(5, 7), torch.tensor([0, 1, 2, -100, 6])
    for options in ((None, -100, 0.0, 0.0, None, "mean"), (torch.rand(7), 1, 0.1, 0.1, 9.0, "sum")):
        names = ("class_weights", "ignore_index", "label_smoothing", "z_loss", "softcap", "reduction")
        target[3] = options[1]
        with torch.no_grad():
            context, arguments = Context(), (logits, target, *options)
            output = CrossEntropy.forward(*arguments)
            CrossEntropy.setup_context(context, arguments, output)
            ours, *others = CrossEntropy.backward(context, torch.tensor(2.0))
        leaf = logits.clone().requires_grad_()
        expected = ENTRY.reference(leaf, target, **dict(zip(names, options, strict=True)))
        torch.testing.assert_close(output[0], expected)
        torch.testing.assert_close(ours, torch.autograd.grad(2 * expected, leaf)[0])
        assert others == [None] * 7


def test_in_autocast_the_loss_is_float32():
    logits = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(loss, functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0])))
    assert torch.autograd.grad(loss, logits)[0].dtype == torch.bfloat16


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("wrong", [3, -1])
def test_classes_out_of_range_are_refused(wrong: int):
    with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
        cross_entropy(torch.randn(2, 3), torch.tensor([0, wrong]))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.zeros(3, dtype=torch.long), {}, r"target must be class indices \(2,\) or probabilities \(2, 3\), got"),
        (torch.zeros(2), {}, r"got torch.float32 \(2,\)"),
        (
            torch.zeros(2, dtype=torch.long),
            {"class_weights": torch.ones(4)},
            r"each of the 3 classes, got shape \(4,\)",
        ),
        (
            torch.zeros(2, dtype=torch.long),
            {"class_weights": torch.ones(3, requires_grad=True)},
            r"one constant .* with requires_grad",
        ),
        (torch.zeros(2, dtype=torch.long), {"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1, got 1.5"),
        (torch.zeros(2, dtype=torch.long), {"softcap": 0.0}, "softcap must be positive, or None for none, got 0.0"),
        (torch.zeros(2, dtype=torch.long), {"reduction": "max"}, "must be one of mean, sum, none, got 'max'"),
    ],
)
def test_what_does_not_fit_is_refused(target: torch.Tensor, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        cross_entropy(torch.randn(2, 3), target, **options)
