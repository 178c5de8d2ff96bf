"""Regularizers that break a rule each."""

import random

import torch
from torch import nn

from framework import distributed
from framework.registry import NonNegative, regularizer
from framework.regularizers import L2, Regularizer


@regularizer("overrides_for_nothing")
class OverridesForNothing(Regularizer):
    breaks = ("overrides_used_hooks_only",)

    def on_batch(self, batch):
        """Leave it as it is."""
        return batch


@regularizer("leaves_it_to_super")
class LeavesItToSuper(Regularizer):
    breaks = ("overrides_used_hooks_only",)

    def prepare(self, model):
        super().prepare(model)


@regularizer("other_arguments")
class OtherArguments(Regularizer):
    breaks = ("hooks_keep_their_signatures",)

    def on_gradients(self, params):
        for param in params.values():
            param.grad.mul_(2)


@regularizer("misspells")
class Misspells(Regularizer):
    breaks = ("knows_its_hooks",)

    def on_gradient(self, params, step):
        raise AssertionError


@regularizer("half_a_state")
class HalfAState(Regularizer):
    breaks = ("has_both_halves_of_its_state",)

    def state(self):
        return {}


@regularizer("detached")
class Detached(L2):
    breaks = ("penalty_is_differentiable",)

    def __init__(self) -> None:
        super().__init__(strength=0.1)

    def penalty(self, model):
        weights = self.weights(model)
        return 0.1 * (weights[0].square().sum() + weights[1].detach().square().sum())


@regularizer("below_nothing")
class BelowNothing(L2):
    breaks = ("penalty_is_differentiable",)

    def __init__(self) -> None:
        super().__init__(strength=0.1)

    def penalty(self, model):
        return super().penalty(model) - 1000


@regularizer("a_vector")
class AVector(L2):
    breaks = ("penalty_is_differentiable",)

    def __init__(self) -> None:
        super().__init__(strength=0.1)

    def penalty(self, model):
        return super().penalty(model)[None]


@regularizer("halves_each_time")
class HalvesEachTime(Regularizer):
    breaks = ("project_is_idempotent",)

    @torch.no_grad()
    def project(self, params, lr):
        for param in params.values():
            param.mul_(torch.where(param.norm() > 1, 0.5, 1.0))


@regularizer("divides_by_the_norm")
class DividesByTheNorm(Regularizer):
    breaks = ("project_leaves_gradients",)

    @torch.no_grad()
    def project(self, params, lr):
        for param in params.values():
            param.div_(param.norm())


@regularizer("projects_gradients")
class ProjectsGradients(Regularizer):
    breaks = ("project_leaves_gradients",)

    def project(self, params, lr):
        for param in params.values():
            param.grad = torch.zeros_like(param)


@regularizer("moves_weights")
class MovesWeights(Regularizer):
    breaks = ("on_gradients_leaves_weights",)

    @torch.no_grad()
    def on_gradients(self, params, step):
        for param in params.values():
            param.add_(0.1)


@regularizer("needs_gradients")
class NeedsGradients(Regularizer):
    breaks = ("on_gradients_leaves_weights",)

    def on_gradients(self, params, step):
        for param in params.values():
            param.grad.mul_(0.5)


@regularizer("never_nothing")
class NeverNothing(L2):
    breaks = ("nothing_at_strength_0",)

    def __init__(self, *, strength: NonNegative = 0.1) -> None:
        super().__init__(strength=strength + 0.01)


@regularizer("always_drops")
class AlwaysDrops(Regularizer):
    breaks = ("nothing_in_evaluation",)

    def prepare(self, model):
        model.head.register_forward_hook(lambda module, inputs, output: nn.functional.dropout(output, 0.5))


@regularizer("drops_once_trained")
class DropsOnceTrained(Regularizer):
    breaks = ("nothing_in_evaluation",)

    def prepare(self, model):
        state = {"trained": False}

        def hook(module, inputs, output):
            state["trained"] |= module.training
            return output / 2 if state["trained"] else output

        model.head.register_forward_hook(hook)


@regularizer("adds_weights")
class AddsWeights(Regularizer):
    breaks = ("nothing_in_evaluation",)

    def prepare(self, model):
        model.extra = nn.Parameter(torch.zeros(1))


@regularizer("in_place")
class InPlace(Regularizer):
    breaks = ("on_batch_keeps_the_form",)

    def on_batch(self, batch):
        batch[0].add_(0.1)
        return batch


@regularizer("drops_rows")
class DropsRows(Regularizer):
    breaks = ("on_batch_keeps_the_form",)

    def on_batch(self, batch):
        return tuple(part[: len(part) // 2] for part in batch)


@regularizer("drops_the_target")
class DropsTheTarget(Regularizer):
    breaks = ("on_batch_keeps_the_form",)

    def on_batch(self, batch):
        return batch[0] * 2


@regularizer("subtracts_again")
class SubtractsAgain(Regularizer):
    breaks = ("second_pass_gives_weights_back",)

    def second_pass(self, params, recompute):
        steps = [0.1 * p.grad for p in params.values()]
        for param, step in zip(params.values(), steps, strict=True):
            param.add_(step)
        recompute()
        for param, step in zip(params.values(), steps, strict=True):
            param.sub_(step)


@regularizer("one_pass")
class OnePass(Regularizer):
    breaks = ("second_pass_gives_weights_back",)

    def second_pass(self, params, recompute):
        for param in params.values():
            param.grad.mul_(2)


@regularizer("a_mean_alone")
class AMeanAlone(Regularizer):
    breaks = ("objective_keeps_its_form",)

    def objective(self, objective):
        return lambda model, batch: objective(model, batch)[0]


@regularizer("twice_the_rows")
class TwiceTheRows(Regularizer):
    breaks = ("objective_keeps_its_form",)

    def objective(self, objective):
        def doubled(model, batch):
            mean, weight, (prediction, target) = objective(model, batch)
            return mean, weight, (torch.cat([prediction, prediction]), target)

        return doubled


@regularizer("its_own_dice")
class ItsOwnDice(Regularizer):
    breaks = ("deterministic_by_seed",)

    def on_batch(self, batch):
        return batch[0] + random.Random().random(), batch[1]


@regularizer("counts_steps")
class CountsSteps(Regularizer):
    breaks = ("continues_after_restore",)

    def __init__(self) -> None:
        self.count = 0

    def on_gradients(self, params, step):
        self.count += 1
        for param in params.values():
            param.grad.div_(self.count)


@regularizer("by_its_rank")
class ByItsRank(Regularizer):
    breaks = ("ranks_agree",)

    def on_gradients(self, params, step):
        rank = distributed.join(torch.device("cpu")).index
        for param in params.values():
            param.grad.mul_(1 + rank)
