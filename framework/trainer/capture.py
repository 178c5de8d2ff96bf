"""A function of tensors as a CUDA graph: recorded once, and replayed by one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

WARM_UP = 2
"""Calls before the capture, on a stream of their own: libraries allocate and choose kernels in them."""


class Captured:
    """A step, `function(values, states, rates, batch)`, whose calls after the first few replay one graph.

    `values`, `states` and `rates` are changed where they are; a batch is copied to where the graph reads its own. What
    is returned is a copy, since the next replay writes over it. Where a tensor has moved, the step is recorded anew.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0
        self.graph: Any = None
        self.places: list[int] = []
        self.batch: Any = None
        self.outputs: Any = None

    def __call__(self, values: Any, states: Any, rates: Any, batch: Any) -> Any:
        """Take a step."""
        places = [tensor.data_ptr() for tensor in tensors_of((values, states, rates))]
        if places != self.places:
            self.graph, self.calls, self.places = None, 0, places
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(values, states, rates, batch)
        if self.graph is None:
            self.batch = _copy(batch)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outputs = self.function(values, states, rates, self.batch)
            self.graph = graph
        else:
            for own, given in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
                own.copy_(given)
        self.graph.replay()
        return _copy(self.outputs)

    def _aside(self, *arguments: Any) -> Any:
        """Take a step on a stream of its own."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self.function(*arguments)
        current.wait_stream(stream)
        return outputs


def tensors_of(nested: Any) -> list[Tensor]:
    """Return the tensors of any nesting, in order."""
    found: list[Tensor] = []
    apply_to_collection(nested, Tensor, found.append)
    return found


def _copy(nested: Any) -> Any:
    return apply_to_collection(nested, Tensor, torch.clone)
