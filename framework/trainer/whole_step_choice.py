"""Which runs take a whole step as one function, and the line that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.backprop import is_heard
from framework.errors import ConfigError
from framework.objective import Objective
from framework.optimizers import Optimizer
from framework.trainer.whole_step import WholeStep

if TYPE_CHECKING:
    from framework.trainer.loop import Trainer

LINES = {
    "step": "compile: the whole step, optimizer included, is one graph; trainer.compile=off is the other way.",
    "capture": "capture: the whole step is one CUDA graph, replayed; trainer.capture=off is the other way.",
}


def obstacle(trainer: Trainer) -> str:
    """Return why a run's step cannot be one function of tensors, or nothing where it can."""
    optimizer, regularization = trainer.optimizer, trainer.regularization
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer) or not optimizer.flat:
        return f"{kind} is not one of this package's optimizers that treat all elements alike, such as AdamW"
    if any(vector is None for vector in optimizer.vectors.values()):
        return f"the parameters of {kind} are not all of one type and dense"
    if trainer.accumulate > 1 or trainer.auto_micro_batch:
        return "a step has several micro-batches"
    if trainer.ranks.count > 1:
        return f"{trainer.ranks.count} devices average their gradients"
    if trainer.mixed.scale is not None:
        return "fp16 scales the loss; bf16 does not"
    if trainer.spike_deviations is not None:
        return "spike_deviations judges a step before its update"
    if trainer.gradient_checkpointing:
        return "gradient_checkpointing runs a part of the forward pass again"
    if trainer.rate is not None and trainer.rate.changes_options:
        return f"a {type(trainer.scheduler).__name__} changes the optimizer's options"
    hooks = (regularization.recomputing, regularization.of_gradients, regularization.projecting)
    if changing := next((r for hook in hooks for r in hook), None):
        return f"{type(changing).__name__} changes gradients or weights beside the update"
    if trainer.backprop == "manual":
        return "backprop=manual goes layer by layer"
    if any(map(is_heard, trainer.model.parameters())):
        return "somebody listens to a parameter's gradient"
    return ""


def choose(trainer: Trainer, objective: Objective) -> tuple[WholeStep | None, str]:
    """Return what takes a run's steps as one function, or None for the loop itself, and the sentence that says so.

    Raises ConfigError where that was asked for and something does not allow it.
    """
    compiled = trainer.compile == "step"
    on_cuda = trainer.place.type == "cuda"
    wanted = trainer.capture == "on" or (trainer.capture == "auto" and on_cuda and trainer.compile != "model")
    if not (compiled or wanted):
        return None, ""
    reason = obstacle(trainer)
    if trainer.capture == "on" and not on_cuda:
        reason = f"only CUDA has graphs, and this is {trainer.place.type}"
    elif trainer.capture == "on" and trainer.compile == "model":
        reason = "compile=model has graphs of its own"
    if not reason:
        line = " ".join(filter(None, [LINES["step"] * compiled, LINES["capture"] * wanted]))
        return WholeStep(trainer, objective, compiled=compiled, captured=wanted), line
    if compiled or trainer.capture == "on":
        asked = "compile=step" if compiled and trainer.capture != "on" else "capture=on"
        raise ConfigError(f"trainer.{asked} is not possible, since {reason}: leave it off.")
    return None, f"capture: none, since {reason}."
