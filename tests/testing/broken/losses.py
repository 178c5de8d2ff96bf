"""Losses that break a rule each."""

import random
from typing import ClassVar

import torch
from torch import nn

from framework.losses import MSE, CrossEntropy
from framework.registry import Fraction, loss


class Squares(nn.Module):
    """Mean squared error: nothing is wrong with it yet."""

    def forward(self, prediction, target):
        if prediction.shape != target.shape:
            raise ValueError("shapes")
        return (prediction - target).square().mean()

    def weight(self, target):
        return target.numel()


@loss("declares_nonsense")
class DeclaresNonsense(Squares):
    breaks = ("declarations_known",)
    expected_failures: ClassVar = {"no_such_check": "there is none"}


@loss("asks_for_data")
class AsksForData(Squares):
    breaks = ("parameters_are_known",)

    def __init__(self, data) -> None:
        super().__init__()


FACTOR = 1.0


@loss("changing_default")
class ChangingDefault(Squares):
    breaks = ("schema_is_the_constructor",)

    def __init__(self, *, factor: float = FACTOR) -> None:
        super().__init__()


FACTOR = 2.0


@loss("default_out_of_range")
class DefaultOutOfRange(Squares):
    breaks = ("schema_is_the_constructor",)

    def __init__(self, *, share: Fraction = 1.5) -> None:
        super().__init__()


class Lenient(type):
    def __call__(cls, **options):
        return super().__call__()


@loss("takes_anything")
class TakesAnything(Squares, metaclass=Lenient):
    breaks = ("unknown_option_refused",)


@loss("holds_a_lambda")
class HoldsALambda(Squares):
    breaks = ("pickles_to_a_spawned_process",)

    def __init__(self) -> None:
        super().__init__()
        self.transform = lambda x: x


@loss("draws_by_itself")
class DrawsByItself(Squares):
    breaks = ("deterministic_by_seed",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) * random.SystemRandom().random()


@loss("counts_calls")
class CountsCalls(Squares):
    breaks = ("continues_after_restore",)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, prediction, target):
        self.calls += 1
        return super().forward(prediction, target) * (1 + self.calls)


@loss("small_batches_only")
class SmallBatchesOnly(Squares):
    breaks = ("runs_in_float32",)

    def forward(self, prediction, target):
        if len(target) > 12:
            raise RuntimeError("too many rows")
        return super().forward(prediction, target)


@loss("wide_only")
class WideOnly(Squares):
    breaks = ("runs_in_bfloat16",)

    def forward(self, prediction, target):
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("bfloat16")
        return super().forward(prediction, target)


@loss("on_the_cpu")
class OnTheCPU(Squares):
    breaks = ("runs_on_cuda",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) + (prediction * torch.zeros(prediction.shape)).sum()


@loss("half_detached")
class HalfDetached(Squares):
    breaks = ("loss_gradients_are_right",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) + 0.1 * super().forward(prediction.detach(), target)


@loss("naive_logarithm")
class NaiveLogarithm(nn.Module):
    breaks = ("loss_is_finite_when_saturated",)

    def forward(self, prediction, target):
        if target.is_floating_point() or prediction.shape[:-1] != target.shape:
            raise ValueError("class indices")
        return -prediction.softmax(-1).log().gather(-1, target.unsqueeze(-1)).mean()

    def weight(self, target):
        return target.numel()


@loss("nan_gradient")
class NanGradient(Squares):
    """The value is repaired and the gradient is not: d√x/dx is ∞ at 0, and ∞ · 0 is NaN."""

    breaks = ("loss_is_finite_when_saturated",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) + 0 * prediction.square().sqrt().mean()


@loss("sum_of_terms")
class SumOfTerms(Squares):
    breaks = ("loss_is_the_mean_of_its_parts",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) * target.numel()


@loss("means_over_fewer")
class MeansOverFewer(CrossEntropy):
    breaks = ("loss_is_the_mean_of_its_parts",)

    def weight(self, target):
        return len(target)


@loss("additive_after_all")
class AdditiveAfterAll(MSE):
    breaks = ("loss_is_not_additive_as_it_says",)
    additive = False


@loss("favours_the_first")
class FavoursTheFirst(Squares):
    breaks = ("loss_ignores_the_order",)
    additive = False

    def forward(self, prediction, target):
        terms = (prediction - target).square().flatten()
        return (terms / torch.arange(1, len(terms) + 1)).mean()


@loss("negative_weight")
class NegativeWeight(Squares):
    breaks = ("loss_weight_is_a_count",)

    def weight(self, target):
        return -target.numel()


@loss("weight_of_each_row")
class WeightOfEachRow(Squares):
    breaks = ("loss_weight_is_a_count",)

    def weight(self, target):
        return torch.ones(len(target))


@loss("ignores_nothing")
class IgnoresNothing(CrossEntropy):
    breaks = ("loss_leaves_out_ignored",)

    def forward(self, prediction, target):
        dim = self.find_classes(prediction, target)
        log_p = prediction.log_softmax(dim)
        if target.is_floating_point():
            return -(log_p * target).sum() / self.weight(target)
        return -log_p.gather(dim, target.clamp(min=0).unsqueeze(dim)).mean()


@loss("looks_at_the_first")
class LooksAtTheFirst(Squares):
    breaks = ("loss_bears_an_empty_batch",)

    def forward(self, prediction, target):
        return super().forward(prediction, target) + 0 * prediction[0].sum()


@loss("nothing_weighs_one")
class NothingWeighsOne(Squares):
    breaks = ("loss_bears_an_empty_batch",)

    def weight(self, target):
        return max(target.numel(), 1)
