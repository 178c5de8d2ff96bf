"""Training by hand against training by autograd, in the same trainer."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pages import DOCS, rewrite
from torch import Tensor, nn

from benchmarks.arguments import Parser
from benchmarks.measure import interleaved, machine, ratio
from framework import Callback, Trainer
from framework.losses import CrossEntropy
from framework.models import MLP, ConvNet
from framework.optimizers import Adam

WAYS = ("manual", "autograd")
STEPS = 200
"""Optimizer steps in a block."""
ROUNDS = 15
TARGET = 1.15
"""Steps per second of the smallest network by hand, at least so many times autograd's."""


@dataclass(frozen=True)
class Case:
    """A network, and the shape and number of the examples in a step."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    steps: int = STEPS


def mlp() -> nn.Module:
    """Return the network 784-128-64-10."""
    return MLP((784,), 10, widths=(128, 64))


CASES = [
    Case("MNIST MLP 784-128-64-10, batch 64", mlp, (784,), 64),
    Case("the same, batch 512", mlp, (784,), 512),
    Case("convnet on 28×28, batch 64", lambda: ConvNet((28, 28), 10, channels=(8, 16)), (28, 28), 64, 40),
]


class Clock(Callback):
    """Takes the time from the first step's beginning to the last one's end."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_step_end(self, trainer: Trainer) -> None:
        """Note the time."""
        self.seconds = time.perf_counter() - self.start


def block(case: Case, data: tuple[Tensor, Tensor], way: str) -> tuple[float, float]:
    """Train a new network for a block of steps; return the seconds a step and the loss at the end."""
    torch.manual_seed(0)
    model, clock = case.make(), Clock()
    optimizer = Adam(model.parameters(), lr=1e-3)
    settings = {"max_steps": case.steps, "device": "cpu", "backprop": way, "callbacks": [clock]}
    trainer = Trainer(model, loss=CrossEntropy(), optimizer=optimizer, **settings)
    trainer.fit(data, batch_size=case.batch_size)
    return clock.seconds / case.steps, trainer.history[-1].scores["loss/train"]


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return each way's seconds a step in each round; raise RuntimeError where their losses differ."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(10, (case.batch_size * 50,), generator=generator)
    inputs = torch.rand(len(target), *case.shape, generator=generator)
    data = (inputs + target.view(-1, *[1] * len(case.shape)) / 10, target)
    losses = {way: block(case, data, way)[1] for way in WAYS}
    if abs(losses["manual"] - losses["autograd"]) > 1e-3 * abs(losses["autograd"]):
        raise RuntimeError(f"{case.name}: the losses differ: {losses}")
    taken: dict[str, list[float]] = {way: [] for way in WAYS}

    def step(way: str) -> Callable[[], None]:
        return lambda: taken[way].append(block(case, data, way)[0])

    interleaved({way: step(way) for way in WAYS}, rounds, seconds=60.0)
    return taken


def main(arguments: list[str]) -> int:
    """Measure, print, and write what was asked for."""
    options = Parser("backprop", __doc__, ROUNDS).checked(arguments)
    lines = ["| | by hand, µs a step | autograd, µs a step | times as many steps a second | |", "|---|---|---|---|---|"]
    found = {}
    for case in CASES:
        taken = found[case.name] = measure(case, options.rounds)
        faster = ratio(taken["autograd"], taken["manual"])
        hand, auto = (f"{1e6 * statistics.median(taken[way]):.0f}" for way in WAYS)
        goal = f"target {TARGET}: {'met' if faster.median >= TARGET else 'missed'}" if case is CASES[0] else ""
        lines.append(f"| {case.name} | {hand} | {auto} | {faster} | {goal} |")
        print(lines[-1], flush=True)
    facts = machine()
    lines += ["", f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; torch {facts['torch']}; "]
    lines[-1] += f"blocks of {STEPS} steps ({CASES[-1].steps} of the convnet), {options.rounds} rounds; Adam, float32."
    section = "\n".join(lines)
    print(f"\n{section}")
    if options.json:
        content = {"machine": facts, "seconds a step": found}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        rewrite(DOCS / "gradients.md", "bench: backprop", section)
    return 0
