"""What gathers on the device between two log points, and reaches the host in one copy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from framework.distributed import Ranks

if TYPE_CHECKING:
    from torchmetrics import Metric

BUFFER_BYTES = 2**17
"""Outputs kept for the metrics before they are updated early: 50 steps' of 64 rows of ten numbers.

A step with more outputs takes far longer than a call of the metrics does.
"""


@dataclass(slots=True)
class Measured:
    """The mean loss of each micro-batch of a window, the number of terms each is over, and the outputs."""

    means: list[Tensor] = field(default_factory=list)
    weights: list[Tensor | float] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def add(self, mean: Tensor, weight: Tensor | float, output: Any) -> None:
        """Add a micro-batch."""
        self.means.append(mean)
        self.weights.append(weight)
        self.outputs.append(output)

    def sums(self, dtype: torch.dtype) -> Tensor:
        """Return the sum of the losses over all their terms, and the number of terms, as a tensor of two."""
        if not self.means:
            return torch.zeros(2, dtype=dtype)
        means = torch.stack(self.means).to(dtype)
        weights = torch.stack([torch.as_tensor(w, dtype=dtype, device=means.device) for w in self.weights])
        return torch.stack([weighed(means, weights).sum(), weights.sum()])


class Meter:
    """Metrics fed from a buffer: outputs gather on the device, and one update takes them all."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics
        self.buffer: list[tuple[Tensor, Tensor]] = []
        self.bytes = 0

    def add(self, outputs: Any) -> None:
        """Keep one batch's (prediction, target); None is nothing to measure."""
        if outputs is None or not self.metrics:
            return
        prediction, target = outputs
        self.buffer.append((prediction.detach(), target.detach()))
        self.bytes += prediction.numel() * prediction.element_size()
        if self.bytes > BUFFER_BYTES:
            self._flush()

    def compute(self) -> dict[str, float]:
        """Return each metric over everything added since the last call, over all ranks, and begin anew."""
        self._flush()
        values: dict[str, float] = {}
        with warnings.catch_warnings():
            # a rank without examples computes too: torchmetrics gathers from all
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            for name, metric in self.metrics.items():
                values[name] = float(metric.compute())
                metric.reset()
        return values

    def state(self) -> dict[str, Any]:
        """Return what was added since the last `compute`: the buffer, and each metric's own sums."""
        counted = {name: metric for name, metric in self.metrics.items() if metric.update_count}
        sums = {
            name: [{"updates": part.update_count, "sums": part.metric_state} for part in _parts(metric)]
            for name, metric in counted.items()
        }
        return {"buffer": self.buffer, "metrics": [sums] if sums else []}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what `state` returned, or what those of several ranks say one after the other."""
        for metric in self.metrics.values():
            metric.reset()
        for sums in state["metrics"]:
            for name in self.metrics.keys() & sums.keys():
                for part, saved in zip(_parts(self.metrics[name]), sums[name], strict=True):
                    _add(part, apply_to_collection(saved["sums"], Tensor, lambda t: t.to(device, copy=True)))
                    part._update_count += saved["updates"]
        self.buffer = [(p.to(device, copy=True), t.to(device, copy=True)) for p, t in state["buffer"]]
        self.bytes = sum(p.numel() * p.element_size() for p, _ in self.buffer)

    def _flush(self) -> None:
        if not self.buffer:
            return
        pairs = self.buffer
        if len({(p.shape[1:], t.shape[1:]) for p, t in pairs}) == 1:
            pairs = [(torch.cat([p for p, _ in pairs]), torch.cat([t for _, t in pairs]))]
        for prediction, target in pairs:
            wide = prediction.float() if prediction.is_floating_point() else prediction
            for metric in self.metrics.values():
                metric.update(wide, target)
        self.buffer, self.bytes = [], 0


def _parts(metric: Metric) -> list[Metric]:
    """Return a metric and those that it is made of."""
    return [module for module in metric.modules() if hasattr(module, "metric_state")]  # type: ignore[misc]  # torchmetrics' own mark


def _add(metric: Metric, sums: dict[str, Any]) -> None:
    """Give a metric that has seen nothing these sums as they are, or add them to those it has."""
    if metric.update_count:
        metric.merge_state(sums)
        return
    for name, value in sums.items():
        setattr(metric, name, value)


def weighed(mean: Tensor, weight: Tensor | float) -> Tensor:
    """Return mean times weight: 0 where nothing counts, though the mean of nothing is nan."""
    return torch.where(weight > 0, mean * weight, 0.0) if isinstance(weight, Tensor) else mean * weight


class Means:
    """Means of named scalars over an interval.

    Those of the loop are `shared`: every rank has them, and they are means over all. Others are a rank's own, since
    listeners hear on the main one only. What is added stays as it is until the interval ends.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.values: dict[str, list[Tensor]] = {}
        self.weights: dict[str, list[Tensor | float]] = {}
        self.shared: dict[str, bool] = {}

    def add(self, name: str, value: Tensor, weight: Tensor | float = 1.0, *, shared: bool = False) -> None:
        """Add a value, 0-d, to a name's mean; one of weight 0 counts nothing, though it may be nan."""
        if name not in self.values:
            self.values[name], self.weights[name], self.shared[name] = [], [], shared
        self.values[name].append(value.detach() if value.requires_grad else value)
        self.weights[name].append(weight)

    def state(self) -> dict[str, dict[str, Any]]:
        """Return this rank's values and weights, by name."""
        return {
            name: {"values": values, "weights": weights, "shared": self.shared[name]}
            for name in self.values
            for values, weights in [self._table(name, torch.device("cpu"))]
        }

    def load_state(self, state: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
        """Take up what `state` returned, and nothing else."""
        self.values, self.weights, self.shared = {}, {}, {}
        for name, mean in state.items():
            self.values[name] = list(mean["values"].to(device))
            self.weights[name] = list(mean["weights"].to(device))
            self.shared[name] = mean["shared"]

    def close(self, device: torch.device) -> dict[str, float]:
        """Return the means over all ranks by one copy to the host, and begin anew."""
        if not self.values:
            return {}
        names = sorted(self.values, key=lambda name: not self.shared[name])
        rows = []
        for name in names:
            values, weights = self._table(name, device)
            rows.append(torch.stack([weighed(values, weights).sum().float(), weights.sum()]))
        table = torch.stack(rows)
        common = sum(self.shared[name] for name in names)
        sums = torch.cat([self.ranks.sum(table[:common]), table[common:]]).tolist()
        self.values, self.weights, self.shared = {}, {}, {}
        return {n: total / count if count else math.nan for n, (total, count) in zip(names, sums, strict=True)}

    def _table(self, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a name's values, in their own type, and weights, each as one tensor."""
        values, weights = self.values[name], self.weights[name]
        if not values:
            return torch.zeros(0, device=device), torch.zeros(0, device=device)
        tensors = [weight for weight in weights if isinstance(weight, Tensor)]
        if len(tensors) == len(weights):
            numbers = torch.stack(tensors).float()
        else:
            numbers = torch.tensor([float(weight) for weight in weights], dtype=torch.float32)
        return torch.stack(values).to(device), numbers.to(device)
