"""What a step holds at its peak, by the trace of every allocation."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from framework import Callback, Trainer, optimizers
from framework.losses import CrossEntropy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.measure import PeakTrace

ROWS, WIDTH, DEPTH = 512, 128, 8
ACTIVATION = ROWS * WIDTH * 4
"""Bytes of a layer's output; a layer's weights have a quarter of them."""


class OneStep(Callback):
    """Traces the fourth step; notes what the vectors of gradients take after each."""

    def __init__(self) -> None:
        self.trace = PeakTrace()
        self.peak = 0
        self.between: list[int] = []

    def on_step_end(self, trainer: Trainer) -> None:
        self.between.append(sum(v.gradient.untyped_storage().nbytes() for v in trainer.optimizer.vectors.values()))
        if trainer.progress.step == 3:
            self.trace.start()
        if trainer.progress.step == 4:
            self.peak = self.trace.stop()


def trained(backprop: str) -> tuple[OneStep, nn.Module]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise([WIDTH] * (DEPTH + 1)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(ROWS, WIDTH, generator=generator), torch.randint(10, (ROWS,), generator=generator)
    watch = OneStep()
    optimizer = optimizers.Adam(model.parameters())
    trainer = Trainer(
        model,
        loss=CrossEntropy(),
        optimizer=optimizer,
        callbacks=[watch],
        max_steps=4,
        backprop=backprop,
        evaluate_every="9 steps",
        device="cpu",
    )
    trainer.fit(data, batch_size=ROWS)
    return watch, model


def test_by_hand_each_activation_is_kept_once_and_goes_as_the_backward_pass_comes_to_it() -> None:
    watch, _ = trained("manual")
    # the batch and one output a layer, then the error signals on both sides of a layer, and a product's own copy of one
    assert (1 + DEPTH) * ACTIVATION < watch.peak < (1 + DEPTH + 3) * ACTIVATION


@pytest.mark.parametrize(("backprop", "kept"), [("manual", True), ("autograd", False)])
def test_the_vector_of_gradients_has_memory_between_steps_only_where_gradients_are_made_in_it(
    backprop: str, kept: bool
) -> None:
    watch, model = trained(backprop)
    weights = sum(p.nbytes for p in model.parameters())
    assert len(watch.between) == 4
    assert all(weights <= held < 1.01 * weights if kept else held == 0 for held in watch.between)
