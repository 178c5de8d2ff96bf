"""The training loop: initialize, forward, loss, backward, update, repeat."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from framework import backprop, registry, signals
from framework.allocator import keep_freed_memory
from framework.batching import BatchOptions, Window
from framework.checkpoint import Snapshot
from framework.determinism import deterministic, keeping_random_state
from framework.errors import ConfigError
from framework.evaluation_weights import evaluated
from framework.faults import Guard, MicroBatches, explain_memory, is_out_of_memory
from framework.history import Evaluation, Progress, Result, Status, verdict
from framework.learning_rate import LearningRate
from framework.models.layers import faster_linears
from framework.monitor import Monitor
from framework.optimizers import Optimizer
from framework.parameters import named_parameters
from framework.profiling import Profiler
from framework.record import Record
from framework.registry import Count
from framework.regularizers.combined import Combined
from framework.resuming import load_snapshot, take_snapshot
from framework.shares import Shares
from framework.trainer import whole_step_choice
from framework.trainer.steps import Steps

STATUS: dict[str, Status] = {
    "max_epochs": "finished",
    "max_steps": "finished",
    "max_time": "finished",
    "patience": "stopped_early",
    "target": "stopped_early",
    "interrupt": "interrupted",
    "terminate": "preempted",
}
"""What each reason to end makes of a run; anything else has failed."""

CUT_SHORT = ("interrupt", "terminate")
"""The reasons after which a run is to be resumed."""


class Trainer(Steps):
    """Trains a model: `Trainer(model, loss=..., optimizer=...).fit(train, validation)`.

    The model is any nn.Module, the loss any callable of (prediction, target) that returns its mean, the optimizer
    any of torch's, the scheduler one of ours or of torch's. `objective` takes the place of the loss where batches
    are not (inputs, target) or the model computes its own loss. With a `directory`, TensorBoard events,
    checkpoints and result.json are written there; one that has a run is refused, or with `overwrite` cleared.
    `checkpoint` says how often it saves besides its evaluations, and what stays.

    Without any limit a run is 40 epochs long; `max_time` is in seconds. `monitor` names the score that decides the
    best model, early stopping and `target`: by default loss/val, or loss/train without a validation set; `patience`
    counts evaluations. `evaluate_every` is a number of epochs, or "500 steps". `accumulate` splits each step's batch
    into so many micro-batches; of a user's DataLoader, so many batches make a step. `clip_norm` and `clip_value` bound
    the gradients. `backprop` is by hand, layer by layer, or by autograd; auto goes by hand where all allows it.

    A step whose loss or gradient is no finite number, or whose loss is more than `spike_deviations` standard deviations
    above its running mean, is kept from the weights: it ends the run (`on_nonfinite` stop), is left out (skip), or has
    the run go back to its newest checkpoint and leave it out from there (rewind). `auto_micro_batch` halves the
    micro-batches when memory runs out. `profile` writes a trace of so many steps into the directory.
    """

    def fit(
        self,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        batch_size: int | None = 64,
        resume: bool = False,
    ) -> Result:
        """Train until a limit, a stopping rule or a signal ends it, and give the model its best weights.

        `train`, `validation` and `test`, which the best weights are scored on when training has ended, are tensors such
        as (inputs, targets), a DataLoader, a Dataset or an ExampleSet; where they are no DataLoader, `batch_size`
        examples make a step (None: all of them). With `resume` the run of
        the `directory` goes on from its newest checkpoint that is whole, or begins where there is none.
        """
        if resume and self.directory is None:
            raise ConfigError("fit(resume=True) needs the folder of the run: Trainer(..., directory=DIR).")
        if self.optimizer is None:
            raise ConfigError("fit needs an optimizer, such as optimizer=torch.optim.Adam(model.parameters()).")
        closure = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ConfigError(
                f"a {type(self.optimizer).__name__} calls the loss itself, several times a step: choose another."
            )
        options = BatchOptions(batch_size=registry.convert(batch_size, Count | None, "batch_size"))
        self.train_batches = self.batches(train, options)
        self.validation_batches = None if validation is None else self.batches(validation, options)
        eager = self.place.type == "cpu" and self.compile == "off"
        with (
            signals.listen() as self.signals,
            deterministic(self.deterministic),
            keeping_random_state(self.place),
            faster_linears(self.model, eager),
        ):
            self._prepare(resume)
            try:
                self.record.open()
                reason = self._run()
                self.record.restore_best()
                result = self._result(reason, self.guard.message)
                if test is not None and result.best is not None and reason not in CUT_SHORT:
                    result.test = self.evaluator.score(self.batches(test, options))
            except BaseException as failure:
                told = explain_memory(failure, self.place) if is_out_of_memory(failure) else failure
                ended = "interrupt" if isinstance(failure, KeyboardInterrupt) else "error"
                self.record.close(self._result(ended, f"{type(told).__name__}: {told}"))
                if told is not failure:
                    raise told from failure
                raise
            self.record.close(result)
            return result

    def _prepare(self, resume: bool) -> None:
        """Get ready everything that the loop uses, as it was where a run is resumed."""
        assert self.optimizer is not None
        self.progress, self.history = Progress(), []
        if self.place.type == "cpu":
            keep_freed_memory()
        self.next_due = 0
        self.limits.started, self.shares = time.monotonic(), Shares()
        self.total_steps = self.limits.steps(self.train_batches.steps)
        default = "loss/train" if self.validation_batches is None else "loss/val"
        self.score = Monitor(self.monitor or default, self.mode, self.patience, self.min_delta, self.target)
        self.score.check(self._score_names())
        self.score.check_direction(self.metrics, self.scheduler)
        self.regularization = Combined(self.regularizers)
        self.regularization.prepare(self.model)
        self.rate = self.rate or LearningRate(self.scheduler, self.optimizer)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.params = {name: p for name, p in named_parameters(self.model).items() if id(p) in held}
        if not self.params:
            raise ConfigError(
                "the optimizer holds no trainable parameter of the model: make it from model.parameters()."
            )
        self.optimizer.zero_grad(set_to_none=True)
        vectors = self.optimizer.flatten() if isinstance(self.optimizer, Optimizer) else []
        self.wrapped = self.ranks.wrap(self.network)
        if not self.model.training:
            self.model.train()
        objective = self.regularization.objective(self.goal)
        self.backpropagate = backprop.choose(
            self.backprop, self.model, self.wrapped, objective, self.mixed, self.ranks.count, vectors
        )
        self.guard = Guard(self.on_nonfinite, self.spike_deviations, self.model, self.mixed)
        self.memory = MicroBatches(self.ranks) if self.auto_micro_batch else None
        self.whole, self.whole_line = whole_step_choice.choose(self, objective)
        directory = Path(self.directory) if self.directory else None
        profilers = [Profiler(self.profile)] if self.profile else []
        self.record = Record(self, directory, [*self.callbacks, *profilers])
        self.evaluator.rehearse(self.train_batches)
        if (snapshot := self.record.claim(overwrite=self.overwrite, resume=resume)) is not None:
            load_snapshot(self, snapshot)
        self.guard.open(directory, self.progress.step, is_main=self.ranks.is_main)

    def _score_names(self) -> list[str]:
        """Return the names that the scores of an evaluation will have."""
        parts = ["train"] if self.validation_batches is None else ["train", "val"]
        if self.validation_batches is not None and self.validation_batches.examples and self.train_batches.examples:
            parts.append("train_slice")
        names = [f"{name}/{part}" for name in ("loss", *self.metrics) for part in parts]
        return [*names, "gap/loss"] if "train_slice" in parts else names

    def _run(self) -> str:
        """Train, from the newest checkpoint again where bad steps say so, and return what ended it."""
        if self.guard.policy == "rewind" and self.progress.step == 0:
            self.record.save(best=False)
        while (reason := self._take_steps()) == "rewind":
            self._rewind()
        return reason

    def _take_steps(self) -> str:
        """Take steps until something ends them, and return what did."""
        reason = self._interrupted() or self._ended()
        while not reason:
            windows = self.train_batches.windows(self.progress.epoch, self.progress.offset)
            for window in self.shares.windows(windows):
                self.step(window)
                self.shares.end_step()
                if reason := self._after_step(window):
                    whole = window.last
                    break
            else:
                whole, reason = True, self._interrupted()
            if not self.progress.offset:
                raise ConfigError("the training set gives no batch: it is smaller than one, or used up.")
            # a run cut short there ends its epoch, and evaluates, when it is resumed
            if whole and reason not in CUT_SHORT:
                self.progress.end_epoch()
                self.record.tell("on_epoch_end")
                reason = reason or self._after("epochs", self.progress.epoch)
        if reason in CUT_SHORT or self.progress.step == 0:
            self.record.save(best=False)
            self.record.end_interval()
        elif not self.guard.reason and (not self.history or self.history[-1].step != self.progress.step):
            self._evaluate()
        return self.guard.reason or reason

    def _rewind(self) -> None:
        """Go back to the newest checkpoint, from where bad steps are left out."""
        snapshot = self.record.newest()
        self.restore(snapshot)
        self.guard.rewound(snapshot.step)

    @property
    def announcements(self) -> list[str]:
        """How the steps are taken, and why so: a line each."""
        return [line for line in (self.backpropagate.why * (self.whole is None), self.whole_line, self.order) if line]

    def _after_step(self, window: Window) -> str:
        """Do what is due after a step: log, evaluate, save; return the reason to end, if any."""
        if self.progress.step < self.next_due and not (self.signals.reason or self.guard.knows):
            return ""
        self.next_due = self._next_due()
        at_log_point = self.progress.step % self.log_every == 0 or self.guard.knows
        if at_log_point:
            self.record.end_interval()
        if self.guard.reason:
            return self.guard.reason
        # agreeing waits for the device: ranks of CUDA do it at log points only
        may_agree = at_log_point or self.ranks.count == 1 or self.place.type == "cpu"
        if may_agree and (reason := self._interrupted()):
            return reason
        return self._after("steps", self.progress.step, may_agree=may_agree, epoch_ends=window.last)

    def _next_due(self) -> int:
        """Return the next step after which there is something to do; what a clock decides is looked at after each."""
        step = self.progress.step
        if self.ranks.count > 1 or self.max_time is not None or self.checkpoint.every_minutes is not None:
            return step + 1
        periods = [self.log_every, self.checkpoint.every_n_steps]
        periods.append(self.period.count if self.period.unit == "steps" else None)
        due = [step + period - step % period for period in periods if period is not None]
        return min(due if self.max_steps is None else [*due, self.max_steps])

    def _after(self, unit: str, count: int, *, may_agree: bool = True, epoch_ends: bool = False) -> str:
        """Evaluate and save where it is due after a step or an epoch; return the reason to end, if any."""
        reason = self._evaluate() if self.period.due(unit, count) else ""
        reason = reason or self.limits.reached(self.progress)
        # an epoch's last step is saved with the epoch
        if not (reason or epoch_ends) and self.record.save_is_due(may_agree=may_agree):
            self.record.save(best=False)
        return reason

    def _ended(self) -> str:
        """Return what had ended a run that is resumed, by the limits and rules of now, if anything."""
        last = self.history[-1] if self.history else None
        reason = self.score.reason_to_stop(last) if last and last.step == self.progress.step else ""
        return reason or self.limits.reached(self.progress)

    def _interrupted(self) -> str:
        """Return the signal, or max_time, that ends the run on any rank, and so on all."""
        own = self.signals.reason or ("max_time" if self.limits.out_of_time() else "")
        if self.ranks.count == 1:
            return own
        reasons = ("interrupt", "terminate", "max_time")
        found = self.ranks.any(*(own == reason for reason in reasons))
        return next((reason for reason, is_set in zip(reasons, found, strict=True) if is_set), "")

    def _evaluate(self) -> str:
        """Score both sets, save, and return the reason to stop that the scores, or bad steps before, give."""
        scores = self.record.end_period()
        if self.guard.reason:
            return self.guard.reason
        if self.validation_batches is not None:
            with self.shares.evaluating(), evaluated(self):
                scores |= self.evaluator.compare(self.train_batches, self.validation_batches)
        evaluation = Evaluation(self.progress.step, self.progress.epoch, scores)
        self.history.append(evaluation)
        best = self.score.observe(evaluation)
        assert self.rate is not None
        self.rate.observe(scores[self.score.name])
        self.record.evaluated(scores)
        self.record.save(best=best, score=scores[self.score.name])
        return self.score.reason_to_stop(evaluation)

    def evaluate(self, source: Any, *, batch_size: int = 1024) -> dict[str, float]:
        """Return `loss` and each metric over a whole set, in evaluation mode."""
        return self.evaluator.score(self.batches(source, _sized(batch_size)))

    def predict(self, source: Any, *, batch_size: int = 1024) -> Tensor:
        """Return the model's outputs for a set of inputs, or of (inputs, target), in order, on the CPU."""
        return self.evaluator.predict(self.batches(source, _sized(batch_size)))

    def snapshot(self) -> Snapshot:
        """Copy where the run stands to the CPU; every rank must ask, and the main one's answer is complete."""
        return take_snapshot(self)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where a snapshot of this fit was taken: what was trained and logged since is void."""
        self.score = self.score.anew()
        load_snapshot(self, snapshot)
        self.next_due = 0
        self.guard.forget(snapshot.step)
        self.ranks.barrier()  # before another rank notes what it leaves out again
        self.record.reopen()

    def _result(self, reason: str, error: str = "") -> Result:
        return Result(
            status=STATUS.get(reason, "failed"),
            reason=reason,
            epochs=self.progress.epoch,
            steps=self.progress.step,
            samples=self.progress.samples,
            seconds=time.monotonic() - self.limits.started,
            best=self.score.best,
            verdict=verdict(self.history),
            error=error,
            time=self.shares.in_all(),
        )


def _sized(batch_size: int) -> BatchOptions:
    return BatchOptions(batch_size=batch_size, evaluation_batch_size=batch_size, sampling="sequential")
