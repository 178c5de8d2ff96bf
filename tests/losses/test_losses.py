"""Every loss against torch's own, its weight against what torch divides by, and bad input."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from framework import registry
from framework.errors import ConfigError
from framework.losses import BCE, MAE, MSE, NLL, BCELogits, CrossEntropy, Hinge, Huber, KLDivergence

torch.manual_seed(0)
ROWS, CLASSES = 23, 5
SCORES = torch.randn(ROWS, CLASSES, dtype=torch.float64)
VALUES = torch.randn(ROWS, CLASSES, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (ROWS,))
IGNORING = LABELS.clone()
IGNORING[[0, 1, 2, 11, 22]] = -100
PROBABILITIES = torch.randn(ROWS, CLASSES, dtype=torch.float64).softmax(-1)
WEIGHTS = [0.25, 2.0, 0.0, 1.5, 4.0]
TENSOR = torch.tensor(WEIGHTS, dtype=torch.float64)
NO_ZERO = [0.25, 2.0, 0.5, 1.5, 4.0]
UNIT = torch.rand(ROWS, CLASSES, dtype=torch.float64)

CASES = {
    "mse": (MSE(), SCORES, VALUES, F.mse_loss),
    "mae": (MAE(), SCORES, VALUES, F.l1_loss),
    "huber": (Huber(delta=0.7), SCORES, VALUES, lambda p, t: F.huber_loss(p, t, delta=0.7)),
    "bce": (BCE(), SCORES.sigmoid(), UNIT, F.binary_cross_entropy),
    "bce_logits": (BCELogits(), SCORES, UNIT, F.binary_cross_entropy_with_logits),
    "bce_logits weighted": (
        BCELogits(pos_weight=3.5),
        SCORES,
        UNIT,
        lambda p, t: F.binary_cross_entropy_with_logits(p, t, pos_weight=torch.tensor(3.5)),
    ),
    "cross_entropy": (CrossEntropy(), SCORES, LABELS, F.cross_entropy),
    "cross_entropy ignoring": (CrossEntropy(), SCORES, IGNORING, F.cross_entropy),
    "cross_entropy ignoring a class": (
        CrossEntropy(ignore_index=3),
        SCORES,
        LABELS,
        lambda p, t: F.cross_entropy(p, t, ignore_index=3),
    ),
    "cross_entropy weighted": (
        CrossEntropy(class_weights=WEIGHTS),
        SCORES,
        IGNORING,
        lambda p, t: F.cross_entropy(p, t, TENSOR),
    ),
    "cross_entropy smoothed": (
        CrossEntropy(label_smoothing=0.1),
        SCORES,
        IGNORING,
        lambda p, t: F.cross_entropy(p, t, label_smoothing=0.1),
    ),
    "cross_entropy all": (
        CrossEntropy(class_weights=NO_ZERO, label_smoothing=0.3),
        SCORES,
        IGNORING,
        lambda p, t: F.cross_entropy(p, t, TENSOR.new_tensor(NO_ZERO), label_smoothing=0.3),
    ),
    "cross_entropy soft": (CrossEntropy(), SCORES, PROBABILITIES, F.cross_entropy),
    "cross_entropy soft all": (
        CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.3),
        SCORES,
        PROBABILITIES,
        lambda p, t: F.cross_entropy(p, t, TENSOR, label_smoothing=0.3),
    ),
    "nll": (NLL(), SCORES.log_softmax(-1), IGNORING, F.nll_loss),
    "nll weighted": (
        NLL(class_weights=WEIGHTS),
        SCORES.log_softmax(-1),
        IGNORING,
        lambda p, t: F.nll_loss(p, t, TENSOR),
    ),
    "kl_divergence": (
        KLDivergence(),
        SCORES.log_softmax(-1),
        PROBABILITIES,
        lambda p, t: F.kl_div(p, t, reduction="batchmean"),
    ),
    "hinge": (Hinge(margin=0.8), SCORES, LABELS, lambda p, t: F.multi_margin_loss(p, t, margin=0.8)),
}
each_case = pytest.mark.parametrize(("loss", "prediction", "target", "reference"), CASES.values(), ids=CASES)


def value_and_gradient(loss, prediction, target):
    prediction = prediction.clone().requires_grad_()
    value = loss(prediction, target)
    (gradient,) = torch.autograd.grad(value, prediction)
    return value.detach(), gradient


def test_every_loss_is_tested():
    assert {name.split()[0] for name in CASES} == set(registry.components("loss"))
    for name in registry.components("loss"):
        assert type(registry.build("loss", name, {})) is type(CASES[name][0])


@each_case
def test_equals_torch(loss, prediction, target, reference):
    ours, theirs = (value_and_gradient(f, prediction, target) for f in (loss, reference))
    assert ours[0].ndim == 0
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@each_case
@pytest.mark.parametrize("sizes", [[7, 1, 12, 3], [22, 1], [3, 20]])
def test_micro_batches_give_the_full_batch(loss, prediction, target, reference, sizes):
    """mean · weight summed over ragged parts, over the summed weight, is the whole's mean."""
    whole = value_and_gradient(loss, prediction, target)
    leaf = prediction.clone().requires_grad_()
    parts = list(zip(leaf.split(sizes), target.split(sizes), strict=True))
    total = sum(loss(p, t) * loss.weight(t) for p, t in parts) / sum(loss.weight(t) for _, t in parts)
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close((total.detach(), gradient), whole, rtol=1e-12, atol=1e-13)


@each_case
def test_reads_no_value_on_the_host(loss, prediction, target, reference):
    """A tensor on the meta device has no values to read."""
    loss = deepcopy(loss).to("meta")
    value, gradient = value_and_gradient(loss, prediction.to("meta"), target.to("meta"))
    assert value.shape == ()
    assert gradient.shape == prediction.shape
    assert torch.as_tensor(loss.weight(target.to("meta"))).shape == ()


@each_case
def test_accepts_integers_and_half_precision(loss, prediction, target, reference):
    value = loss(prediction.bfloat16(), target.bfloat16() if target.is_floating_point() else target.int())
    assert value.isfinite()
    torch.testing.assert_close(value.double(), loss(prediction, target), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", [CrossEntropy, NLL])
def test_everything_ignored_is_nothing(loss, weights):
    loss = loss(class_weights=weights)
    target = torch.full((4,), -100)
    value, gradient = value_and_gradient(loss, torch.randn(4, 5), target)
    assert value == 0
    assert loss.weight(target) == 0
    assert not gradient.any()


def test_ignored_rows_may_hold_anything():
    scores = SCORES.clone()
    scores[:, 0] = -math.inf  # a class ruled out, which is where the ignored rows' index points
    target = IGNORING.clamp(max=4).where(IGNORING != 0, 1)
    torch.testing.assert_close(CrossEntropy()(scores, target), F.cross_entropy(scores, target))


def test_classes_in_the_last_or_the_second_dimension():
    scores, target = torch.randn(3, 7, 5), torch.randint(5, (3, 7))
    expected = F.cross_entropy(scores.reshape(-1, 5), target.reshape(-1), torch.tensor(WEIGHTS), label_smoothing=0.1)
    loss = CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1)
    torch.testing.assert_close(loss(scores, target), expected)
    torch.testing.assert_close(loss(scores.transpose(1, 2), target), expected)
    images, labels = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    torch.testing.assert_close(CrossEntropy()(images, labels), F.cross_entropy(images, labels))
    torch.testing.assert_close(NLL()(images, labels), F.nll_loss(images, labels))
    one, label = torch.randn(5), torch.tensor(3)
    torch.testing.assert_close(CrossEntropy()(one, label), F.cross_entropy(one, label))


def test_class_dim_decides_where_both_fit():
    scores, target = torch.randn(2, 5, 5), torch.randint(5, (2, 5))
    torch.testing.assert_close(CrossEntropy(class_dim="second")(scores, target), F.cross_entropy(scores, target))
    last = F.cross_entropy(scores.transpose(1, 2), target)
    torch.testing.assert_close(CrossEntropy(class_dim="last")(scores, target), last)
    torch.testing.assert_close(CrossEntropy()(scores, target), last)

    soft = torch.rand(2, 3, 4)
    second = CrossEntropy(class_dim="second")
    torch.testing.assert_close(second(soft, soft), F.cross_entropy(soft, soft))
    assert second.weight(soft) == 8
    assert CrossEntropy(class_dim="last").weight(soft) == 6
    for ambiguous in (lambda: CrossEntropy()(soft, soft), lambda: CrossEntropy().weight(soft)):
        with pytest.raises(ValueError, match=r"class_dim='last' or 'second'"):
            ambiguous()


def test_weights_by_hand():
    assert MSE().weight(VALUES) == ROWS * CLASSES
    assert CrossEntropy().weight(IGNORING) == ROWS - 5
    assert CrossEntropy(class_weights=WEIGHTS).weight(torch.tensor([0, 1, 1, 2, 3, -100])) == 5.75
    assert CrossEntropy(class_weights=WEIGHTS).weight(PROBABILITIES) == ROWS
    assert KLDivergence().weight(PROBABILITIES) == ROWS
    assert Hinge().weight(LABELS) == ROWS


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_logits_stay_finite(size):
    scores = torch.tensor([[size, -size], [size, -size]])
    value, gradient = value_and_gradient(CrossEntropy(), scores, torch.tensor([0, 1]))
    torch.testing.assert_close(value, torch.tensor(size), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [0.5, -0.5]]))
    logits = torch.tensor([size, -size, size, -size])
    value, gradient = value_and_gradient(BCELogits(), logits, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(value, torch.tensor(size / 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 0.25, -0.25]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bce_at_its_ends(dtype):
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=dtype)
    value, gradient = value_and_gradient(BCE(), p, y)
    assert value == F.binary_cross_entropy(p, y) == 50
    assert gradient.isfinite().all()
    for outside in (-0.1, 1.1):
        assert BCE()(torch.tensor([outside]), torch.tensor([0.0])).isnan()
    logits = torch.tensor([-95.0, -200.0, 60.0], dtype=dtype, requires_grad=True)
    (through,) = torch.autograd.grad(BCE()(logits.sigmoid(), torch.tensor([1.0, 1.0, 0.0], dtype=dtype)), logits)
    assert through.isfinite().all()


def test_kinks_and_the_chapters_numbers():
    for loss in (MAE(), Huber()):
        value, gradient = value_and_gradient(loss, torch.zeros(3), torch.zeros(3))
        assert value == 0
        assert not gradient.any()
    assert MSE()(torch.tensor([10.0]), torch.tensor([0.0])) == 100  # "an error of 10 contributes 100"
    for p, expected in [(0.9, 0.105), (0.1, 2.303)]:
        logits = torch.tensor([[p, 1 - p]]).log()
        assert CrossEntropy()(logits, torch.tensor([0])).item() == pytest.approx(expected, abs=5e-4)
        assert BCE()(torch.tensor([p]), torch.tensor([1.0])).item() == pytest.approx(expected, abs=5e-4)


def test_hinge_of_two_classes_is_twice_the_binary_one():
    x, sign = torch.randn(50), torch.randint(2, (50,)) * 2 - 1
    scores = torch.stack([-x / 2, x / 2], -1)
    binary = (1 - sign * x).clamp(min=0).mean()
    torch.testing.assert_close(2 * Hinge()(scores, (sign > 0).long()), binary)


def test_kl_divergence_of_certain_targets():
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert KLDivergence()(target.clamp(min=1e-9).log(), target).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("loss", [MSE(), MAE(), Huber(), BCE(), BCELogits(), KLDivergence()])
def test_never_broadcasts(loss):
    with pytest.raises(ValueError, match=r"got \(4, 1\) and \(4,\)"):
        loss(torch.rand(4, 1), torch.rand(4))


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "message"),
    [
        (CrossEntropy(), torch.rand(4, 3), torch.zeros(5, dtype=torch.long), r"got \(4, 3\) and torch.int64 \(5,\)"),
        (CrossEntropy(), torch.rand(4, 3), torch.zeros(4), r"got \(4, 3\) and torch.float32 \(4,\)"),
        (
            CrossEntropy(),
            torch.rand(4, 3),
            torch.zeros(4, 1, dtype=torch.long),
            r"got \(4, 3\) and torch.int64 \(4, 1\)",
        ),
        (CrossEntropy(class_weights=[1, 2]), torch.rand(4, 3), torch.zeros(4).long(), r"3 classes, got 2"),
        (NLL(), torch.rand(4, 3), torch.rand(4, 3), r"class indices, got torch.float32"),
        (Hinge(), torch.rand(4, 3), torch.zeros(3, dtype=torch.long), r"got \(4, 3\) and torch.int64 \(3,\)"),
        (Hinge(), torch.rand(4, 3), torch.zeros(4), r"torch.float32 \(4,\)"),
        (Hinge(), torch.rand(()), torch.zeros((), dtype=torch.long), r"got \(\) and"),
    ],
)
def test_shapes_that_do_not_fit(loss, prediction, target, message):
    with pytest.raises(ValueError, match=message):
        loss(prediction, target)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("huber", {"delta": 0}, "delta must be > 0"),
        ("hinge", {"margin": -1}, "margin must be > 0"),
        ("bce_logits", {"pos_weight": 0}, "pos_weight must be > 0"),
        ("cross_entropy", {"label_smoothing": 1.5}, "label_smoothing must be >= 0 and <= 1"),
        ("cross_entropy", {"class_weights": [1, -1]}, r"class_weights\[1\] must be >= 0"),
        ("cross_entropy", {"class_dim": "lost"}, "did you mean 'last'"),
        ("mse", {"delta": 1}, "delta is not a setting"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("loss", name, options)


def test_class_weights_move_with_the_loss_and_stay_out_of_its_state():
    loss = CrossEntropy(class_weights=WEIGHTS).to("meta")
    assert loss.class_weights.is_meta
    assert not loss.state_dict()
