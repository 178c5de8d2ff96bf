"""What a data set says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framework.batching.sets import ExampleSet

Task = Literal["classification", "regression", "language"]


@dataclass(frozen=True)
class Data:
    """A data set: its examples, and what a model must know of them.

    `input_shape` is one example's, without the batch: (8, 8), (1, 28, 28), or (64,) tokens. `outputs` is the
    number of classes, of regressed values, or of tokens in the vocabulary. A factory registered with
    `@data("name")` returns one; the run's seed is its runtime argument `seed`.
    """

    task: Task
    input_shape: tuple[int, ...]
    outputs: int
    train: ExampleSet
    validation: ExampleSet | None = None
    test: ExampleSet | None = None
    classes: tuple[str, ...] = ()
