"""The options that every data set has."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from framework.registry import Count, Probability


@dataclass(frozen=True)
class BatchOptions:
    """How examples become batches.

    `batch_size` counts the examples of one optimizer step over all devices and micro-batches; null takes the
    whole training set. `sampling`: a seeded permutation each epoch, each class equally likely (drawn with
    replacement), or the order of the set. `validation` is the fraction of the training set to split off, by
    seed, where the data brings no validation set. `on_error` says what an example does that a torch Dataset raises
    at: end the run, or be left out of its batch and noted in skipped.jsonl.
    """

    _: KW_ONLY
    batch_size: Count | None = 64
    evaluation_batch_size: Count = 1024
    sampling: Literal["shuffled", "balanced", "sequential"] = "shuffled"
    drop_last: bool = False
    validation: Probability = 0.1
    on_error: Literal["stop", "skip"] = "stop"
