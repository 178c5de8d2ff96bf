"""Metrics that break a rule each."""

import torch
from torchmetrics import Metric

from framework.registry import metric


class Right(Metric):
    """Fraction of right classes: nothing is wrong with it yet."""

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("all", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, prediction, target):
        self.right += (prediction.argmax(-1) == target).sum()
        self.all += target.numel()

    def compute(self):
        return self.right / self.all


@metric("one_for_each_class")
class OneForEachClass(Right):
    breaks = ("metric_takes_raw_outputs",)

    def compute(self):
        return super().compute().repeat(4)


@metric("last_batch_only")
class LastBatchOnly(Right):
    breaks = ("metric_adds_up",)

    def update(self, prediction, target):
        self.right = (prediction.argmax(-1) == target).sum().float()
        self.all = torch.tensor(float(target.numel()))


@metric("plain_attribute")
class PlainAttribute(Right):
    breaks = ("metric_forgets", "metric_adds_up")

    def __init__(self) -> None:
        super().__init__()
        self.hits = 0.0

    def update(self, prediction, target):
        super().update(prediction, target)
        self.hits = self.hits + (prediction.argmax(-1) == target).sum()

    def compute(self):
        return self.hits / self.all


@metric("error_as_accuracy")
class ErrorAsAccuracy(Right):
    breaks = ("metric_rewards_the_right",)

    def compute(self):
        return 1 - super().compute()


@metric("no_direction")
class NoDirection(Right):
    breaks = ("metric_rewards_the_right",)
    higher_is_better = None
