"""Batches: sets in memory, the order of examples, and users' DataLoaders."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from framework.batching.batches import Batches, Layout, MemoryBatches, Window
from framework.batching.loaders import LoaderBatches
from framework.batching.options import BatchOptions
from framework.batching.sets import Batch, ExampleSet, TensorSet
from framework.errors import ConfigError

__all__ = ["Batch", "BatchOptions", "Batches", "ExampleSet", "Layout", "TensorSet", "Window", "as_batches"]


def as_batches(source: Any, options: BatchOptions, layout: Layout) -> Batches:
    """Return the batches of whatever a user trains on.

    A DataLoader, an ExampleSet, a torch Dataset, or any nesting of tensors with the same first dimension.
    Raises TypeError for anything else.
    """
    if isinstance(source, DataLoader):
        return LoaderBatches(source, layout, options.on_error)
    if hasattr(source, "gather") and hasattr(source, "subset"):
        return MemoryBatches(source, options, layout)
    if isinstance(source, Dataset):
        streams = isinstance(source, IterableDataset)
        if options.sampling == "balanced" or (streams and options.batch_size is None):
            raise ConfigError(
                "a torch Dataset cannot be sampled by class, nor a stream be one batch: give tensors, or a DataLoader."
            )
        size = options.batch_size or len(source)  # type: ignore[arg-type]  # map-style has a length
        shuffle = None if streams else options.sampling == "shuffled"
        pinned = layout.device.type == "cuda"
        loader = DataLoader(source, size, shuffle=shuffle, drop_last=options.drop_last, pin_memory=pinned)
        return LoaderBatches(loader, layout, options.on_error)
    found: list[Tensor] = []
    apply_to_collection(source, Tensor, found.append)
    if found:
        return MemoryBatches(TensorSet(source), options, layout)
    raise TypeError(
        f"training data must be a DataLoader, a Dataset, a set with gather(), or tensors such as (inputs, targets), "
        f"got {type(source).__name__}."
    )
