"""Every metric against a formula of its own, on the shapes that models give."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import Metric

from framework import registry
from framework.errors import ConfigError
from framework.metrics.quotient import Quotient
from framework.metrics.tasks import FITTING

torch.manual_seed(0)
N, C = 200, 6
LOGITS, LABELS = torch.randn(N, C), torch.randint(C - 1, (N,))  # the last class never occurs
LOGITS[torch.arange(N), LABELS] += 1
TOKENS, SCORES = torch.randint(C, (4, 9)), torch.randn(4, 9, C)
TOKENS[0, 5:] = -100
ONE, SIDES = torch.randn(N, 1), torch.randint(2, (N,))


def build(name: str, task: str = "classification", outputs: int = C, **options: object) -> Metric | Quotient:
    return registry.build("metric", name, options, runtime={"task": task, "outputs": outputs})


def measure(metric: Metric | Quotient, prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Return the metric after updates with ragged parts, which sums and counts do not notice."""
    for p, t in zip(prediction.split([1, len(target) - 1]), target.split([1, len(target) - 1]), strict=True):
        metric.update(p, t)
    return float(metric.compute())


def counts(predicted: torch.Tensor, target: torch.Tensor, c: int) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives of a class."""
    hit, said, is_ = (predicted == c) & (target == c), predicted == c, target == c
    return int(hit.sum()), int((said & ~is_).sum()), int((is_ & ~said).sum())


def area(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the chance that a positive example scores above a negative one (Mann-Whitney)."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0).double() + 0.5 * (above == 0)).mean())


FORMULAS = {
    "precision": lambda tp, fp, fn: tp / (tp + fp),
    "recall": lambda tp, fp, fn: tp / (tp + fn) if tp + fn else 0.0,
    "f1": lambda tp, fp, fn: 2 * tp / (2 * tp + fp + fn),
}


def test_every_metric_fits_a_task_and_says_what_is_better():
    names = set(registry.components("metric"))
    assert names == {name for fitting in FITTING.values() for name in fitting}
    lower = {"mean_squared_error", "mean_absolute_error", "perplexity"}
    for task, fitting in FITTING.items():
        for name in fitting:
            metric = build(name, task)
            assert isinstance(metric, Metric | Quotient)
            assert metric.higher_is_better is (name not in lower)


def test_accuracy():
    right = LOGITS.argmax(-1) == LABELS
    assert measure(build("accuracy"), LOGITS, LABELS) == pytest.approx(right.double().mean().item())
    by_class = [right[c == LABELS].double().mean().item() for c in range(C - 1)]
    predicted_last = bool((LOGITS.argmax(-1) == C - 1).any())
    assert predicted_last
    macro = sum(by_class) / C  # a class that is predicted and never occurs counts as 0
    assert measure(build("accuracy", average="macro"), LOGITS, LABELS) == pytest.approx(macro)
    half = (ONE[:, 0] > 0) == (SIDES == 1)
    for prediction, target in [(ONE, SIDES), (ONE[:, 0], SIDES[:, None]), (ONE, SIDES.float())]:
        assert measure(build("accuracy", outputs=1), prediction, target) == pytest.approx(half.double().mean().item())


def test_logits_between_0_and_1_are_logits():
    metric = build("accuracy", outputs=1)
    metric.update(torch.tensor([0.2, 0.4]), torch.tensor([1, 1]))
    assert metric.compute() == 1


def test_accuracy_of_tokens_leaves_out_ignored_ones():
    kept = TOKENS != -100
    expected = (SCORES.argmax(-1) == TOKENS)[kept].double().mean().item()
    assert measure(build("accuracy", "language"), SCORES, TOKENS) == pytest.approx(expected)
    assert measure(build("accuracy", "language"), SCORES.transpose(1, 2), TOKENS) == pytest.approx(expected)


def test_probabilities_as_target_count_as_their_likeliest_class():
    labels = torch.arange(N) % C
    soft = 0.7 * F.one_hot(labels, C) + 0.3 * F.one_hot(labels.flip(0), C)
    for name in FITTING["classification"]:
        assert measure(build(name), LOGITS, soft) == measure(build(name), LOGITS, labels)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy(k):
    rank = (LOGITS.gather(1, LABELS[:, None]) < LOGITS).sum(1)  # how many classes beat the right one
    expected = (rank < k).double().mean().item()
    assert measure(build("top_k_accuracy", k=k), LOGITS, LABELS) == pytest.approx(expected)
    rank = (SCORES.gather(2, TOKENS.clamp(min=0)[..., None]) < SCORES).sum(2)[TOKENS != -100]
    expected = (rank < k).double().mean().item()
    assert measure(build("top_k_accuracy", "language", k=k), SCORES, TOKENS) == pytest.approx(expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_precision_recall_and_f1(name):
    predicted = LOGITS.argmax(-1)
    each = [FORMULAS[name](*counts(predicted, LABELS, c)) for c in range(C)]
    sizes = LABELS.bincount(minlength=C).double()
    assert measure(build(name), LOGITS, LABELS) == pytest.approx(sum(each) / C)
    weighted = float((torch.tensor(each) * sizes).sum() / N)
    assert measure(build(name, average="weighted"), LOGITS, LABELS) == pytest.approx(weighted)
    accuracy = measure(build("accuracy"), LOGITS, LABELS)
    assert measure(build(name, average="micro"), LOGITS, LABELS) == pytest.approx(accuracy)
    binary = FORMULAS[name](*counts((ONE[:, 0] > 0).long(), SIDES, 1))
    assert measure(build(name, outputs=1), ONE, SIDES) == pytest.approx(binary)


def test_auroc():
    assert measure(build("auroc", outputs=1), ONE, SIDES) == pytest.approx(area(ONE[:, 0], SIDES == 1))
    labels = LABELS.clone()
    labels[:9] = C - 1
    probabilities = LOGITS.softmax(-1)
    expected = sum(area(probabilities[:, c], labels == c) for c in range(C)) / C
    assert measure(build("auroc"), LOGITS, labels) == pytest.approx(expected, abs=1e-6)
    assert measure(build("auroc", thresholds=500), LOGITS, labels) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression(outputs):
    target = torch.randn(N, outputs)
    prediction = target + 0.3 * torch.randn(N, outputs)
    error = prediction - target
    expected = {
        "mean_squared_error": error.square().mean(),
        "mean_absolute_error": error.abs().mean(),
        "r2": 1 - (error.square().sum(0) / (target - target.mean(0)).square().sum(0)).mean(),
    }
    for name, value in expected.items():
        assert measure(build(name, "regression", outputs), prediction, target) == pytest.approx(value.item(), rel=1e-5)
        if outputs == 1:
            mixed = measure(build(name, "regression", outputs), prediction[:, 0], target)
            assert mixed == pytest.approx(value.item(), rel=1e-5)


def test_perplexity():
    expected = F.cross_entropy(SCORES.reshape(-1, C), TOKENS.reshape(-1)).exp().item()
    assert measure(build("perplexity", "language"), SCORES, TOKENS) == pytest.approx(expected)
    guess = build("perplexity", "language", 50)
    guess.update(torch.zeros(2, 3, 50), torch.ones(2, 3, dtype=torch.long))
    assert float(guess.compute()) == pytest.approx(50)
    sure = build("perplexity", "language", 2)  # a probability of e^-200 is 0 in float32
    sure.update(torch.tensor([[[200.0, 0.0], [200.0, 0.0], [200.0, 0.0]]]), torch.tensor([[1, 0, 0]]))
    assert float(sure.compute()) == pytest.approx(torch.tensor(200 / 3).exp().item(), rel=1e-4)


def test_copies_and_resets():
    metric = build("accuracy")
    metric.update(LOGITS, LABELS)
    copy = deepcopy(metric)
    assert copy.compute() == metric.compute()
    copy.reset()
    copy.update(LOGITS[:, None], LABELS[:, None])  # a copy adapts shapes too
    assert copy.compute() == metric.compute()


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("accuracy", "regression", "metric 'accuracy' does not fit a regression task: choose one of: mean_absolute"),
        ("perplexity", "classification", "does not fit a classification task: choose one of: accuracy, auroc"),
        ("r2", "language", "does not fit a language task: choose one of: accuracy, perplexity, top_k_accuracy"),
        ("r2", "regresion", "task 'regresion' does not exist: did you mean 'regression'"),
    ],
)
def test_wrong_task_names_what_fits(name, task, message):
    with pytest.raises(ConfigError, match=message):
        build(name, task)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("top_k_accuracy", {"k": 6}, "k must be < the number of classes, 6, got 6"),
        ("top_k_accuracy", {"k": 0}, "k must be >= 1"),
        ("f1", {"average": "makro"}, "did you mean 'macro'"),
        ("auroc", {"thresholds": 1}, "thresholds must be >= 2"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


@pytest.mark.parametrize(
    ("metric", "prediction", "target"),
    [
        (build("accuracy"), torch.rand(4, C), torch.zeros(3, dtype=torch.long)),
        (build("accuracy"), torch.rand(4, C - 1), torch.zeros(4, dtype=torch.long)),
        (build("accuracy"), torch.rand(4, C), torch.rand(4)),
        (build("accuracy", outputs=1), torch.rand(4, 2), torch.zeros(4)),
        (build("mean_squared_error", "regression"), torch.rand(4, 2), torch.rand(4)),
    ],
)
def test_shapes_that_do_not_fit(metric, prediction, target):
    with pytest.raises(ValueError, match="metric: prediction and target must be"):
        metric.update(prediction, target)


def test_sums_of_two_parts_are_the_whole():
    whole, first, second = build("accuracy"), build("accuracy"), build("accuracy")
    whole.update(LOGITS, LABELS)
    first.update(LOGITS[:50], LABELS[:50])
    second.update(LOGITS[50:], LABELS[50:])
    first.merge_state(second.metric_state)
    assert first.compute() == whole.compute()


def test_nothing_measured_is_no_number():
    metric = build("accuracy", "language")
    metric.update(SCORES, torch.full_like(TOKENS, -100))
    assert metric.compute().isnan()


def test_importing_stays_light():
    code = (
        "import sys, framework.metrics; assert not {'torchmetrics', 'matplotlib', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
