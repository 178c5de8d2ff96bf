"""One optimizer step: forward, loss, backward, penalties, clip, update."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from framework.backprop import Pass
from framework.batching import Window
from framework.determinism import seed_step
from framework.faults import Guard, MicroBatches, gradient_norms
from framework.meters import Measured
from framework.record import Record
from framework.regularizers.combined import Combined
from framework.trainer.settings import Settings

if TYPE_CHECKING:
    from framework.trainer.whole_step import WholeStep


class Steps(Settings):
    """What a trainer's step is; the loop gets ready what it uses."""

    params: dict[str, nn.Parameter]
    wrapped: nn.Module
    regularization: Combined
    backpropagate: Pass
    whole: WholeStep | None
    guard: Guard
    memory: MicroBatches | None
    record: Record

    def step(self, window: Window) -> Measured:
        """Take one optimizer step on a window of micro-batches; no value leaves the device.

        Returns what this rank has measured: each micro-batch's loss, the number of its terms, and its outputs.
        """
        if self.progress.step in self.guard.left_out:
            self._pass_over(window)
            return Measured()
        self.guard.begin(window, self.progress)
        taken = self.whole.take(window) if self.whole else None
        measured, bad = taken or self._take(window)
        self.record.measure(measured, bad)
        self.progress.count(len(measured.outputs), window.rows)
        self.record.tell("on_step_end")
        return measured

    def _take(self, window: Window) -> tuple[Measured, bool | Tensor]:
        """Make gradients and update; return what was measured, and whether the step is bad."""
        assert self.optimizer is not None
        assert self.rate is not None
        if window.idle:
            self.wrapped.eval()  # an example that counts nothing leaves batch norm's statistics alone
        measured = self._backward(window)
        if self.regularization.recomputing:
            self.regularization.second_pass(self.model, self.params, partial(self._recompute, window))
        bad, skip = self._finish_gradients(window, measured)
        self.rate.set(self.progress.step)
        self.guard.update(self._update, self.optimizer, bad, skip)
        self.optimizer.zero_grad(set_to_none=True)
        if window.idle:
            self.wrapped.train()
        return measured, bad

    def _pass_over(self, window: Window) -> None:
        """Count a step that is left out."""
        assert self.rate is not None
        self.rate.set(self.progress.step)
        self.progress.count(0, window.rows)
        self.record.tell("on_step_end")

    def _backward(self, window: Window) -> Measured:
        """Make the gradients of a window, averaged over the ranks; return what `_add_gradients` does."""
        if self.memory is None:
            return self._add_gradients(window)
        measured = self.memory.run(window, self._add_gradients, self._forget)
        self.ranks.average(self._gradients())
        return measured

    @torch.enable_grad()
    def _recompute(self, window: Window) -> None:
        """Make the gradients of a window anew, with the same draws."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(window)

    def _add_gradients(self, window: Window) -> Measured:
        """Go forward and back through a window; return the losses of its micro-batches, their weights and outputs."""
        measured = Measured()
        for position, (slot, batch) in enumerate(window, start=1):
            seed_step(self.place, self.seed, "micro-batch", self.progress.step, slot)
            batch = self.regularization.on_batch(batch)
            with self.ranks.reducing(self.wrapped, now=self.memory is None and position == len(window)):
                measured.add(*self.backpropagate(window, batch))
        return measured

    def _forget(self) -> None:
        """Take back what a forward and backward pass that did not end has changed."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.restore()

    def _finish_gradients(self, window: Window, measured: Measured) -> tuple[bool | Tensor, Tensor | None]:
        """Make the gradients those of the window's mean, add penalties, clip.

        Returns whether the step is bad, and for fp16 whether to skip it.
        """
        skip = None if self.mixed.scale is None else self.mixed.unscale(self._gradients())
        mean, weight = measured.means[0], measured.weights[0]
        if not window.whole or len(measured.means) > 1:
            loss, weight = self.ranks.sum(measured.sums(self.mixed.wide))
            # the ranks averaged: times their number that is the sum over all slots
            torch._foreach_mul_(
                self._gradients(), torch.where(weight > 0, window.rows * self.ranks.count / weight, 0.0)
            )
            mean = loss / weight
        penalty = self.regularization.add_penalties(self.model, self.params)
        if penalty is not None:
            self.record.means.add("loss/penalty", penalty, shared=True)
        if self.regularization.of_gradients:
            seed_step(self.place, self.seed, "gradients", self.progress.step)
            self.regularization.on_gradients(self.params, self.progress.step)
        needs_norm = self.clip_norm is not None or self.record.at_start_of_interval
        norms = gradient_norms(self.params) if needs_norm or self.guard.needs_norms else {}
        bad = self.guard.judge(window, self.progress, mean, weight, norms)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.params.values(), self.clip_value)
            norms = gradient_norms(self.params) if needs_norm else {}
        if needs_norm:
            norm = torch.linalg.vector_norm(torch.stack(list(norms.values()))) if norms else torch.zeros(())
            self.record.means.add("grad_norm", norm, shared=True)
            if self.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self.params.values(), self.clip_norm, norm)
        return bad, skip

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.params.values() if p.grad is not None]

    def _update(self) -> None:
        """Let the optimizer change the weights, then the regularizers that project them."""
        assert self.optimizer is not None
        self.optimizer.step()
        self.regularization.project(self.params, self.optimizer)

    def log(self, name: str, value: Tensor) -> None:
        """Log a scalar: it stays on the device until the interval ends, which logs its mean."""
        self.record.means.add(name, value)
