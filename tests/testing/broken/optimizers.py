"""Optimizers that break a rule each."""

import random
from typing import ClassVar

import torch

from framework import distributed
from framework.optimizers import SGD, Adam, Optimizer
from framework.registry import NonNegative, optimizer


class Descent(Optimizer):
    """w ← w − ηg, w ← w − ηλw: nothing is wrong with it yet."""

    def __init__(self, params, *, lr: NonNegative = 0.1, weight_decay: NonNegative = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def update(self, group, params, grads, states) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * grad)


@optimizer("ascends")
class Ascends(Descent):
    breaks = ("descends_a_quadratic", "descends_rosenbrock")

    def update(self, group, params, grads, states) -> None:
        super().update(group, params, [-g for g in grads], states)


@optimizer("decays_all")
class DecaysAll(Descent):
    breaks = ("respects_decay_exemption",)

    def update(self, group, params, grads, states) -> None:
        decay = max(g["weight_decay"] for g in self.param_groups)
        super().update({**group, "weight_decay": decay}, params, grads, states)


@optimizer("decays_none")
class DecaysNone(Descent):
    breaks = ("respects_decay_exemption",)

    def update(self, group, params, grads, states) -> None:
        super().update({**group, "weight_decay": 0.0}, params, grads, states)


@optimizer("one_rate")
class OneRate(Descent):
    breaks = ("follows_its_groups",)

    def update(self, group, params, grads, states) -> None:
        super().update({**group, "lr": self.defaults["lr"]}, params, grads, states)


@optimizer("first_groups_only")
class FirstGroupsOnly(Descent):
    breaks = ("follows_its_groups",)

    def __init__(self, params, *, lr: NonNegative = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.first = list(self.param_groups)

    def update(self, group, params, grads, states) -> None:
        if any(group is first for first in self.first):
            super().update(group, params, grads, states)


@optimizer("none_is_zero")
class NoneIsZero(Adam):
    breaks = ("skips_none_gradients",)

    def __init__(self, params, *, lr: NonNegative = 0.1) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = torch.zeros_like(param) if param.grad is None else param.grad
        return super().step(closure)


@optimizer("divides_by_nothing")
class DividesByNothing(Descent):
    breaks = ("still_at_zero_gradient",)

    def update(self, group, params, grads, states) -> None:
        super().update(group, params, [g / g.norm() for g in grads], states)


@optimizer("says_it_moves")
class SaysItMoves(Descent):
    breaks = ("still_at_zero_gradient",)
    moves_at_zero_gradient = True

    def __init__(self, params, *, lr: NonNegative = 0.1) -> None:
        super().__init__(params, lr=lr)


@optimizer("by_rank")
class ByRank(Descent):
    breaks = ("same_on_two_ranks",)

    def update(self, group, params, grads, states) -> None:
        rank = distributed.join(torch.device("cpu")).index
        super().update(group, params, [g * (1 + rank) for g in grads], states)


@optimizer("counts_outside")
class CountsOutside(Descent):
    breaks = ("optimizer_resumes",)

    def update(self, group, params, grads, states) -> None:
        self.count = getattr(self, "count", 0) + 1
        super().update(group, params, [g / self.count for g in grads], states)


class Memory:
    """No plain value."""


@optimizer("remembers_objects")
class RemembersObjects(Descent):
    breaks = ("optimizer_state_is_plain",)

    def update(self, group, params, grads, states) -> None:
        for state in states:
            state["memory"] = Memory()
        super().update(group, params, grads, states)


@optimizer("minimizes_anyway")
class MinimizesAnyway(SGD):
    breaks = ("maximizes",)

    def __init__(self, params, *, lr: NonNegative = 0.1, maximize: bool = False) -> None:
        super().__init__(params, lr=lr)


@optimizer("rounds_to_half")
class RoundsToHalf(Descent):
    breaks = ("trains_float32_and_bfloat16",)

    def update(self, group, params, grads, states) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.data = (param - group["lr"] * grad).float()


@optimizer("forgets_the_closure")
class ForgetsTheClosure(Descent):
    breaks = ("takes_a_closure",)

    def step(self, closure=None):
        super().step()


@optimizer("dithers")
class Dithers(Descent):
    breaks = ("deterministic_by_seed",)
    source: ClassVar[random.Random] = random.Random()

    def update(self, group, params, grads, states) -> None:
        super().update(group, params, [g * self.source.random() for g in grads], states)


@optimizer("flattens_what_is_evaluated")
class FlattensWhatIsEvaluated(Descent):
    breaks = ("gives_weights_to_evaluate",)

    def evaluation_weights(self):
        return {p: p.detach().flatten() for group in self.param_groups for p in group["params"]}


@optimizer("names_what_is_evaluated")
class NamesWhatIsEvaluated(Descent):
    breaks = ("gives_weights_to_evaluate",)

    def evaluation_weights(self):
        return {name: p for g in self.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)}
