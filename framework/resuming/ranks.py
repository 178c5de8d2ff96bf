"""What each rank has of its own: brought together, and dealt out again to as many or to another number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from framework.checkpoint.nested import flatten, unflatten
from framework.distributed import Ranks

VALUES = "$values"
"""The name among a rank's tensors of what is no tensor: JSON, as bytes."""


def gather(ranks: Ranks, own: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Return every rank's state, in order; what is sent is safetensors and JSON."""
    if ranks.count == 1:
        return [own]
    tensors, values = flatten(own)
    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    content = save({VALUES: text, **{n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}})
    packed = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    return [_unpacked(part) for part in ranks.gather(packed)]


def _unpacked(content: Tensor) -> dict[str, Any]:
    tensors = load(content.cpu().numpy().tobytes())
    values = json.loads(tensors.pop(VALUES).numpy().tobytes())
    state: dict[str, Any] = unflatten(tensors, values)
    return state


def share(states: Sequence[dict[str, Any]], index: int, count: int) -> dict[str, Any]:
    """Return a rank's state among `count`, from those of as many ranks or of another number.

    For another number the main rank takes over what all have gathered since the last log point, and the others begin
    with nothing; what they draw is seeded anew at each step.
    """
    if len(states) == count:
        return states[index]
    own = states[min(index, len(states) - 1)]
    records = [state["record"] for state in states]
    taken = records if index == 0 else []
    means = {
        name: {**mean, **{part: _joined([r["means"][name][part] for r in taken]) for part in ("values", "weights")}}
        for name, mean in records[0]["means"].items()
        if mean["shared"]
    }
    if index == 0:
        means |= {name: mean for name, mean in records[0]["means"].items() if not mean["shared"]}
    meter = {
        "buffer": [pair for record in taken for pair in record["meter"]["buffer"]],
        "metrics": [parts for record in taken for parts in record["meter"]["metrics"]],
    }
    return {**own, "data": {}, "record": {**records[0], "means": means, "meter": meter}}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0)
