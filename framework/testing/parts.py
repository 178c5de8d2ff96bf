"""A component in its place among the other parts of a small run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Generator, Tensor, nn

from framework.batching import TensorSet
from framework.datasets import Data
from framework.parameters import GroupOptions, parameter_groups
from framework.testing.conformance import CheckError, Subject
from framework.testing.examples import examples_of
from framework.testing.problems import EXAMPLES, PROBLEMS, Affine, images, loss_for, model_for, small

BATCH = 16
EPOCHS = 2
STEPS_PER_EPOCH = EXAMPLES // BATCH
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH


@dataclass
class Parts:
    """What a tiny run is made of."""

    data: Data
    model: nn.Module
    loss: Any
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    regularizers: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)


def takes(subject: Subject, option: str) -> bool:
    """Return whether a component has an option."""
    return any(known.name == option for known in subject.component.signature.options)


def arguments(subject: Subject, **offered: Any) -> list[Any]:
    """Return what a component asks for before `*`; raises CheckError for what its kind is not given."""
    for name in subject.component.signature.runtime:
        if name not in offered:
            given = ", ".join(offered) or "nothing"
            raise CheckError(f"it asks for '{name}', and a {subject.kind} is given {given}")
    return [offered[name] for name in subject.component.signature.runtime]


def runtime(subject: Subject, data: Data, model: nn.Module | None = None) -> list[Any]:
    """Return the arguments before `*` that a component asks for in a small run on this data."""
    about = {"task": data.task, "outputs": data.outputs}
    kinds: dict[str, dict[str, Any]] = {
        "data": {"seed": 0},
        "model": {"input_shape": data.input_shape, "outputs": data.outputs},
        "scheduler": {"total_steps": TOTAL_STEPS, "steps_per_epoch": STEPS_PER_EPOCH},
        "initializer": {"gain": 1.0},
        "regularizer": about,
        "metric": about,
    }
    if subject.kind == "optimizer" and model is not None:
        return arguments(subject, params=groups_of(subject, model), model=model)
    return arguments(subject, **kinds.get(subject.kind, {}))


def groups_of(subject: Subject, model: nn.Module, options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the groups that the framework makes of a model for an optimizer with these options."""
    known = {option.name: option.default for option in subject.component.signature.options}
    own = getattr(subject.factory, "kit_options", {})
    chosen = {**known, **own, **subject.options, **(options or {})}
    return parameter_groups(
        model, lr=chosen.get("lr", 1.0), weight_decay=chosen.get("weight_decay"), options=GroupOptions()
    )


def data_for(subject: Subject) -> tuple[Data, Any]:
    """Return the first small problem that a model or a metric is made for, and the object made for it.

    That is its own, where it has `examples`. Raises CheckError, with the reasons, where it takes none.
    """
    own = getattr(subject.factory, "examples", None)
    reasons = []
    for problem in PROBLEMS if own is None else (lambda: own(Generator().manual_seed(0)),):
        data = problem()
        try:
            built = subject.build(*runtime(subject, data))
            inputs, target = data.train.gather(torch.arange(2))
            if subject.kind == "model":
                with torch.no_grad():
                    built(inputs)
            else:
                built.update(torch.randn(*target.shape[: 1 if data.task != "language" else 2], data.outputs), target)
        except CheckError:
            raise
        except Exception as error:
            reasons.append(f"{data.task}: {type(error).__name__}: {error}")
            continue
        return data, subject.build(*runtime(subject, data))
    raise CheckError(
        f"it takes none of the small problems ({'; '.join(reasons)}): give it a static method examples(generator) that "
        f"returns a framework.datasets.Data of {EXAMPLES} examples"
    )


def parts_for(subject: Subject) -> Parts:
    """Return everything of a tiny run with a component in its place, made anew."""
    torch.manual_seed(0)
    if subject.kind == "loss":
        example, loss = next(examples_of(subject))
        repeated = [apply_to_collection(part, Tensor, _repeat) for part in example.pair()]
        pairs = TensorSet((repeated[0], repeated[1]))
        return Parts(Data("regression", (), 1, pairs, pairs), Affine(), loss)
    if subject.kind == "data":
        data = subject.build(*runtime(subject, images()))
        data = small(data)
        return Parts(data, model_for(data), loss_for(data))
    if subject.kind in ("model", "metric"):
        data, built = data_for(subject)
        torch.manual_seed(0)
        model = subject.build(*runtime(subject, data)) if subject.kind == "model" else model_for(data)
        return Parts(data, model, loss_for(data), metrics={"metric": built} if subject.kind == "metric" else {})
    data = images()
    parts = Parts(data, model_for(data), loss_for(data))
    built = subject.build(*runtime(subject, data, parts.model))
    if subject.kind == "optimizer":
        parts.optimizer = built
    elif subject.kind == "scheduler":
        parts.scheduler = built
    elif subject.kind == "initializer":
        built(parts.model)
    else:
        (parts.regularizers if subject.kind == "regularizer" else parts.callbacks).append(built)
    return parts


def _repeat(tensor: Tensor) -> Tensor:
    times = math.ceil(EXAMPLES / tensor.shape[0])
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))[:EXAMPLES].clone()
