"""The rows that are timed by the step: which contestants each has, and what was measured of them."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Ratio, interleaved, ratio
from benchmarks.speed.contestants import Block, Clock, Contestant, Ours, nano_raw, raw
from benchmarks.speed.peers import PEERS
from benchmarks.speed.processes import Processes
from benchmarks.speed.products import product_seconds
from benchmarks.speed.works import CPU, WORKS, Work

OURS, RAW = "ours", "raw loop"
OURS_BF16, RAW_BF16 = "ours in bf16", "raw loop in bf16"
COMPILED = "raw loop, compiled"
WITH_PEERS = ("mlp64", "mlp512", "one")
ONE_STEPS = 20_000
"""Of the one-parameter model, in all rounds together."""


@dataclass
class Row:
    """What was measured of a work: each contestant's seconds a step in each round, losses, and the times apart."""

    name: str
    title: str
    steps: int
    tolerance: float
    seconds: dict[str, list[float]] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)
    apart: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    products: float | None = None
    """Seconds of a step's matrix products alone, by the kernels of torch's linear layers."""

    def ratio(self, rival: str, contestant: str = OURS) -> Ratio:
        """Return what share of a rival's time a contestant takes."""
        return ratio(self.seconds[contestant], self.seconds[rival])

    def microseconds(self, contestant: str) -> float:
        """Return the median time of a step."""
        return 1e6 * statistics.median(self.seconds[contestant])

    def as_json(self) -> dict[str, Any]:
        """Return all of it, and the ratios."""
        rivals = [name for name in self.seconds if name != OURS]
        return {**asdict(self), "ratios": {rival: asdict(self.ratio(rival)) for rival in rivals}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """Return what `as_json` was made of."""
        return cls(**{name: value for name, value in content.items() if name != "ratios"})


def lineup(name: str, peers: Mapping[str, Contestant]) -> dict[str, Contestant]:
    """Return who competes in a row, ours and the raw loop first."""
    if name == "gpt2":
        compiled = partial(nano_raw, bf16=True, compiled=True)
        return {OURS: Ours(settings={"precision": "bf16", "compile": "model"}), COMPILED: compiled}
    if name == "gpt":
        bf16 = {OURS_BF16: Ours(settings={"precision": "bf16"}), RAW_BF16: partial(nano_raw, bf16=True)}
        return {OURS: Ours(), RAW: nano_raw, **bf16}
    found: dict[str, Contestant] = {OURS: Ours(plain=name == "loader"), RAW: raw}
    return found | (dict(peers) if name in WITH_PEERS else {})


def work_of(name: str, rounds: int, device: torch.device = CPU) -> Work:
    """Return a row's work, in blocks as long as so many rounds need."""
    work = replace(WORKS[name], device=device)
    return replace(work, steps=max(work.steps, -(-ONE_STEPS // rounds))) if name == "one" else work


def made(name: str, rounds: int, device: str, contestant: str) -> tuple[Work, Contestant]:
    """Return a row's work and one of its contestants by name, as a process of its own makes them."""
    peers = {peer: run for peer, (run, *_) in PEERS.items()}
    return work_of(name, rounds, torch.device(device)), lineup(name, peers)[contestant]


def measure_apart(name: str, rounds: int, device: torch.device, peers: Mapping[str, Contestant]) -> Row:
    """Return the measurements of a row by name, each contestant in a process of its own."""
    work, rivals = work_of(name, rounds, device), lineup(name, peers)
    with Processes(partial(made, name, rounds, device.type)) as processes:
        return measure(name, work, rivals, rounds, processes.block)


def measure(
    name: str,
    work: Work,
    rivals: Mapping[str, Contestant],
    rounds: int,
    block: Callable[[str], Block] | None = None,
) -> Row:
    """Return a row's measurements; raise RuntimeError where a contestant's loss is not that of the loop by hand.

    The blocks take turns. Before the rounds each contestant runs one, whose loss is compared. `block` runs one of a
    contestant; by default in this process.
    """
    row = Row(name, work.title, work.steps, work.tolerance)

    def here(contestant: str) -> Block:
        gc.collect()
        return rivals[contestant](work, Clock(work))

    block = block or here
    for contestant in rivals:
        found = block(contestant)
        row.loss[contestant] = found.loss
        row.apart[contestant] = {f"{what}, first time": [seconds] for what, seconds in found.apart.items()}
    check_losses(row)

    def take(contestant: str) -> None:
        found = block(contestant)
        row.seconds.setdefault(contestant, []).append(found.seconds)
        for what, seconds in found.apart.items():
            row.apart[contestant].setdefault(what, []).append(seconds)

    interleaved({contestant: partial(take, contestant) for contestant in rivals}, rounds, math.inf)
    if work.device.type == "cpu" and name in ("mlp64", "mlp512", "gpt"):
        row.products = product_seconds(work)
    return row


def check_losses(row: Row) -> None:
    """Raise RuntimeError where a loss differs from that of the loop by hand by more than the row's tolerance."""
    reference = RAW if RAW in row.loss else COMPILED
    expected = row.loss[reference]
    for contestant, loss in row.loss.items():
        if not abs(loss - expected) <= row.tolerance * abs(expected):
            raise RuntimeError(
                f"{row.title}: after a block the validation loss of {contestant} is {loss:.4f}, that of the "
                f"{reference} {expected:.4f}: more than {row.tolerance:.0%} apart, so it gets no number."
            )
