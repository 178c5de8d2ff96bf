"""What gathers on the device between two log points, and reaches the host in one copy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric

from framework.distributed import Ranks

BUFFER_BYTES = 16 * 2**20
"""Outputs kept for the metrics before they are updated early."""


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
    return [module for module in metric.modules() if isinstance(module, Metric)]


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
    listeners hear on the main one only.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor | float] = {}
        self.shared: dict[str, bool] = {}

    def add(self, name: str, value: Tensor, count: Tensor | float = 1.0, *, shared: bool = False) -> None:
        """Add a value (0-d, already multiplied by its count) to a name's mean."""
        self.shared[name] = shared
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts[name] + count if name in self.counts else count

    def state(self) -> dict[str, dict[str, Any]]:
        """Return this rank's sums and counts, by name."""
        return {n: {"sum": s, "count": self.counts[n], "shared": self.shared[n]} for n, s in self.sums.items()}

    def load_state(self, state: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
        """Take up what `state` returned, and nothing else."""
        self.sums, self.counts = {}, {}
        for name, mean in state.items():
            self.sums[name] = torch.as_tensor(mean["sum"], device=device)
            self.counts[name] = mean["count"].to(device) if isinstance(mean["count"], Tensor) else mean["count"]
            self.shared[name] = mean["shared"]

    def close(self) -> dict[str, float]:
        """Return the means over all ranks by one copy to the host, and begin anew."""
        if not self.sums:
            return {}
        device = next(iter(self.sums.values())).device
        names = sorted(self.sums, key=lambda name: not self.shared[name])
        counts = [torch.as_tensor(self.counts[n], dtype=torch.float32, device=device) for n in names]
        table = torch.stack([torch.stack([self.sums[n].float(), c]) for n, c in zip(names, counts, strict=True)])
        common = sum(self.shared[name] for name in names)
        rows = torch.cat([self.ranks.sum(table[:common]), table[common:]]).tolist()
        self.sums, self.counts = {}, {}
        return {n: total / count if count else math.nan for n, (total, count) in zip(names, rows, strict=True)}
