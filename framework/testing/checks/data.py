"""What a data set has to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args
from unittest import SkipTest

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from framework.batching import ExampleSet
from framework.datasets import Data, Task
from framework.testing import parts, problems, trials
from framework.testing.conformance import CheckError, Subject, check

LOOKED_AT = 2000
"""Examples of each part that are looked at."""
SHARED = 0.5
"""The share of held-out examples that may be in the training set too, since data may repeat itself."""


def _made(subject: Subject) -> Data:
    data = subject.build(*parts.runtime(subject, problems.images()))
    if not isinstance(data, Data):
        raise CheckError(f"it returns a {type(data).__name__}, not a framework.datasets.Data")
    return data


def _parts(data: Data) -> Iterator[tuple[str, ExampleSet]]:
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        if part is not None:
            yield name, part


def _first(part: ExampleSet, count: int = LOOKED_AT) -> Any:
    return part.gather(torch.arange(min(count, len(part))))


def _tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append)
    return found


@check(
    "data",
    rule="task, input_shape, outputs and classes say what the batches are",
    mend="classification: class indices (N,) below outputs; regression: floats (N, outputs); language: tokens (N, T); "
    "inputs (N, *input_shape), finite",
)
def data_is_as_it_says(subject: Subject) -> None:
    """Look at the examples of each part."""
    data = _made(subject)
    if data.task not in get_args(Task):
        raise CheckError(f"its task is {data.task!r}, none of {', '.join(get_args(Task))}")
    if data.classes and len(data.classes) != data.outputs:
        raise CheckError(f"it has {len(data.classes)} classes and {data.outputs} outputs")
    for name, part in _parts(data):
        inputs, target = _first(part)
        if tuple(inputs.shape[1:]) != tuple(data.input_shape):
            raise CheckError(f"{name}: an example is {tuple(inputs.shape[1:])}, and input_shape {data.input_shape}")
        if not torch.isfinite(inputs).all():
            raise CheckError(f"{name}: inputs are not finite")
        if problem := _wrong_target(data, inputs, target):
            raise CheckError(f"{name}: {problem}")


def _wrong_target(data: Data, inputs: Tensor, target: Tensor) -> str:
    found = f"{target.dtype} {tuple(target.shape)}"
    if data.task == "regression":
        fits = target.is_floating_point() and target.numel() == len(inputs) * data.outputs
        return "" if fits and torch.isfinite(target).all() else f"targets are {found}, not finite floats (N, outputs)"
    due = inputs.shape if data.task == "language" else inputs.shape[:1]
    if target.shape != due or target.dtype != torch.int64:
        return f"targets are {found}, not int64 {tuple(due)}"
    if target.min() < 0 or target.max() >= data.outputs:
        return f"targets go from {int(target.min())} to {int(target.max())}, and outputs is {data.outputs}"
    return ""


@check(
    "data",
    rule="the same seed gives the same examples in the same order, and gathering one twice gives it twice",
    mend="draw from a generator of the argument seed, and nothing as examples are gathered: augmentation is for a "
    "regularizer's on_batch",
)
def data_is_the_same_again(subject: Subject) -> None:
    """Make it twice, and gather twice."""
    data, again = _made(subject), _made(subject)
    for (name, part), (_, other) in zip(_parts(data), _parts(again), strict=True):
        for what, there in (("made again", other), ("gathered again", part)):
            if len(part) != len(there) or not _equal(_first(part), _first(there)):
                raise CheckError(f"{name} {what} has other examples")


def _equal(one: Any, other: Any) -> bool:
    return all(trials.same(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True))


@check(
    "data",
    rule="each part is a set: it has a length, gather, subset, to and labels that agree",
    mend="use framework.batching.TensorSet, or write the five of framework.batching.ExampleSet",
)
def data_parts_are_sets(subject: Subject) -> None:
    """Take a few examples in both ways."""
    for name, part in _parts(_made(subject)):
        if len(part) < 1:
            raise CheckError(f"{name} is empty: leave it None")
        index = torch.tensor([len(part) - 1, 0])
        batch = part.gather(index)
        if not _equal(batch, part.subset(index).gather(torch.arange(2))):
            raise CheckError(f"{name}: subset(index) has other examples than gather(index)")
        if not _equal(batch, part.to(torch.device("cpu")).gather(index)):
            raise CheckError(f"{name}: to(device) has other examples")
        if part.labels is not None and part.labels.shape != (len(part),):
            raise CheckError(f"{name}: labels are {tuple(part.labels.shape)}, not ({len(part)},)")


@check(
    "data",
    rule="validation and test examples are not those of training",
    mend="hold them out before anything is made of the rest: framework.batching.split does it by seed",
)
def data_parts_are_apart(subject: Subject) -> None:
    """Look for held-out examples among those of training."""
    data = _made(subject)
    held_out = [(name, part) for name, part in _parts(data) if name != "train"]
    if not held_out:
        raise SkipTest("it holds nothing out")
    seen = _rows(data.train, len(data.train))
    for name, part in held_out:
        if part is data.train:
            raise CheckError(f"{name} is the training set itself")
        rows = _rows(part, LOOKED_AT)
        shared = sum(row in seen for row in rows) / len(rows)
        if data.task != "language" and shared > SHARED:
            raise CheckError(f"{shared:.0%} of the examples of {name} are in the training set too")


def _rows(part: ExampleSet, count: int) -> set[bytes]:
    inputs, target = _first(part, count)
    numbers = torch.cat([inputs.flatten(1).double(), target.reshape(len(target), -1).double()], 1)
    return {row.numpy().tobytes() for row in numbers}
