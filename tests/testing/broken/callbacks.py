"""Callbacks that break a rule each."""

from pathlib import Path

import torch

from framework.callbacks import Callback
from framework.registry import callback


@callback("does_nothing")
class DoesNothing(Callback):
    breaks = ("overrides_used_hooks_only",)

    def on_step_end(self, trainer):
        """Nothing yet."""


@callback("no_scalars")
class NoScalars(Callback):
    breaks = ("hooks_keep_their_signatures",)

    def on_logged(self, trainer):
        self.seen = True


@callback("waits_for_batches")
class WaitsForBatches(Callback):
    breaks = ("knows_its_hooks",)

    def on_batch_end(self, trainer):
        raise AssertionError


@callback("takes_only")
class TakesOnly(Callback):
    breaks = ("has_both_halves_of_its_state",)

    def load_state(self, state):
        self.seen = state


@callback("nudges")
class Nudges(Callback):
    breaks = ("listener_changes_nothing",)

    @torch.no_grad()
    def on_step_end(self, trainer):
        for param in trainer.model.parameters():
            param.add_(1e-9)


@callback("forgets_momentum")
class ForgetsMomentum(Callback):
    breaks = ("listener_changes_nothing",)

    @torch.no_grad()
    def on_step_end(self, trainer):
        if trainer.progress.step == 6:
            for state in trainer.optimizer.state.values():
                state["exp_avg"].zero_()


class Mean(Callback):
    """The mean of the weights after every step: nothing is wrong with it yet."""

    every_rank = True

    def __init__(self) -> None:
        self.count = 0
        self.sums = {}

    def on_step_end(self, trainer):
        self.count += 1
        for name, param in trainer.model.named_parameters():
            self.sums[name] = self.sums.get(name, 0) + param.detach()

    def evaluation_weights(self, trainer):
        return {name: total / self.count for name, total in self.sums.items()}

    def state(self):
        return {"count": self.count, "sums": dict(self.sums)}

    def load_state(self, state):
        self.count, self.sums = state["count"], dict(state["sums"])


@callback("counts_anew")
class CountsAnew(Mean):
    breaks = ("callback_resumes",)

    def load_state(self, state):
        self.sums = dict(state["sums"])


@callback("needs_a_start")
class NeedsAStart(Callback):
    breaks = ("survives_failures",)

    def on_fit_start(self, trainer):
        self.steps = 0

    def on_fit_end(self, trainer, result):
        self.total = self.steps


@callback("swallows_the_second")
class RefusesTheSecond(Callback):
    breaks = ("survives_failures",)

    def __init__(self) -> None:
        self.running = False

    def on_fit_start(self, trainer):
        if self.running:
            raise RuntimeError("still running")
        self.running = True

    def on_fit_end(self, trainer, result):
        if result.status == "finished":
            self.running = False


@callback("writes_somewhere")
class WritesSomewhere(Callback):
    breaks = ("works_in_every_run",)

    def on_fit_end(self, trainer, result):
        (Path(trainer.directory) / "seen.txt").write_text("seen")


@callback("wants_validation")
class WantsValidation(Callback):
    breaks = ("works_in_every_run",)

    def on_evaluated(self, trainer, scalars):
        self.best = scalars["loss/val"]


@callback("main_rank_only")
class MainRankOnly(Mean):
    breaks = ("evaluates_weights_of_the_model", "ranks_agree")
    every_rank = False


@callback("names_its_own")
class NamesItsOwn(Mean):
    breaks = ("evaluates_weights_of_the_model",)

    def evaluation_weights(self, trainer):
        return {f"mean.{name}": tensor for name, tensor in super().evaluation_weights(trainer).items()}


@callback("averages_in_place")
class AveragesInPlace(Mean):
    breaks = ("evaluates_weights_of_the_model",)

    def evaluation_weights(self, trainer):
        return {name: total.div_(self.count + 1) for name, total in self.sums.items()}


@callback("reads_the_norm")
class ReadsTheNorm(Callback):
    breaks = ("reads_nothing_between_log_points",)

    def on_step_end(self, trainer):
        self.norm = float(next(trainer.model.parameters()).detach().norm())


@callback("lists_weights")
class ListsWeights(Callback):
    breaks = ("reads_nothing_between_log_points",)

    def on_step_end(self, trainer):
        self.weights = next(trainer.model.parameters()).detach().tolist()
