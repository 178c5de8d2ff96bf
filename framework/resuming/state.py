"""A trainer's whole state as a snapshot, and back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from framework.batching.random_state import load_random_state, random_state
from framework.checkpoint import Snapshot, copy_into, load_optimizer, optimizer_parts
from framework.checkpoint.nested import flatten, unflatten
from framework.checkpoint.snapshot import on_cpu
from framework.errors import ConfigError
from framework.evaluation_weights import tensors_to_save
from framework.history import Evaluation, Progress
from framework.resuming.ranks import gather, share

if TYPE_CHECKING:
    from framework.trainer import Trainer


def take_snapshot(trainer: Trainer) -> Snapshot:
    """Return where a run stands, in tensors of its own; every rank must call it, and the main one's is complete."""
    assert trainer.optimizer is not None
    tensors, optimizer = optimizer_parts(trainer.optimizer)
    own = _of_rank(trainer)
    model, trained = tensors_to_save(trainer)
    run, values = flatten({**_of_all(trainer), "trained": trained, "ranks": gather(trainer.ranks, own, trainer.place)})
    state = {"optimizer": optimizer, **values}
    return Snapshot(
        trainer.progress.step,
        model,
        tensors,
        {name: on_cpu(tensor) for name, tensor in run.items()},
        state,
    )


def load_snapshot(trainer: Trainer, snapshot: Snapshot) -> None:
    """Make a trainer that is ready for its first step stand where a snapshot says.

    Raises ConfigError where the model or the optimizer is another, and for a state that no run has. Another number of
    ranks, or other metrics, callbacks and regularizers, take up what is theirs.
    """
    try:
        _load(trainer, snapshot)
    except ConfigError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the checkpoint of step {snapshot.step} cannot be taken up: {type(error).__name__}: {error}"
        ) from error


def _load(trainer: Trainer, snapshot: Snapshot) -> None:
    assert trainer.optimizer is not None
    assert trainer.rate is not None
    values = {name: value for name, value in snapshot.state.items() if name not in ("optimizer", "step")}
    state = unflatten(snapshot.run, values)
    copy_into(trainer.model, snapshot.model | state.get("trained", {}))
    load_optimizer(
        trainer.optimizer,
        snapshot.optimizer,
        snapshot.state["optimizer"],
        hyperparameters=trainer.rate.changes_options,
    )
    trainer.progress = Progress(**state["progress"])
    trainer.history = [Evaluation(**evaluation) for evaluation in state["history"]]
    for evaluation in trainer.history:
        trainer.score.observe(evaluation)
    trainer.limits.started = time.monotonic() - state["seconds"]
    trainer.rate.load_state(state["scheduler"])
    if trainer.progress.step and not trainer.rate.changes_options:
        trainer.rate.set(trainer.progress.step - 1)  # what is logged before the next step is the last one's
    trainer.mixed.load_state(state["precision"])
    trainer.guard.load_state(state["guard"])
    if trainer.memory is not None:
        trainer.memory.pieces = state["pieces"]
    if state["loss"] and isinstance(trainer.loss, nn.Module):
        trainer.loss.load_state_dict(state["loss"])
    for kind, parts in (("regularizers", trainer.regularizers), ("callbacks", trainer.callbacks)):
        for name, part in _stateful(parts).items():
            if name in state[kind]:
                part.load_state(state[kind][name])
    own = share(state["ranks"], trainer.ranks.index, trainer.ranks.count)
    trainer.record.load_state(own["record"], state["logged"])
    if own["data"] and hasattr(trainer.train_batches, "load_state"):
        trainer.train_batches.load_state(own["data"])
    load_random_state(own["random"], trainer.place)


def _of_all(trainer: Trainer) -> dict[str, Any]:
    """Return what is the same on every rank, or the main one's alone."""
    assert trainer.rate is not None
    return {
        "progress": asdict(trainer.progress),
        "seed": trainer.seed,
        "history": [asdict(evaluation) for evaluation in trainer.history],
        "seconds": time.monotonic() - trainer.limits.started,
        "scheduler": trainer.rate.state(),
        "precision": trainer.mixed.state(),
        "guard": trainer.guard.state(),
        "pieces": 1 if trainer.memory is None else trainer.memory.pieces,
        "loss": trainer.loss.state_dict() if isinstance(trainer.loss, nn.Module) else {},
        "regularizers": {name: part.state() for name, part in _stateful(trainer.regularizers).items()},
        "callbacks": {
            name: part.state()
            for name, part in _stateful(trainer.callbacks).items()
            if trainer.ranks.is_main or part.every_rank
        },
        "logged": trainer.record.logged,
    }


def _of_rank(trainer: Trainer) -> dict[str, Any]:
    """Return what each rank has of its own."""
    batches = trainer.train_batches
    return {
        "record": trainer.record.state(),
        "data": batches.state() if hasattr(batches, "state") else {},
        "random": random_state(trainer.place),
    }


def _stateful(parts: Iterable[Any]) -> dict[str, Any]:
    """Return the parts that have `state` and `load_state`, by their class's name and its place among its like."""
    named: dict[str, Any] = {}
    for part in parts:
        if not (hasattr(part, "state") and hasattr(part, "load_state")):
            continue
        kind, place = type(part).__name__, 1
        while f"{kind} {place}" in named:
            place += 1
        named[f"{kind} {place}"] = part
    return named
