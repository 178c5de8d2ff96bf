"""Data, models and loops with which things go wrong."""

from typing import Any

import torch
from torch import Tensor, nn

from framework import Callback, Trainer

CLASSES = 3


def blobs(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three separable clouds in the plane."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % CLASSES
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[target] + 0.4 * torch.randn(count, 2, generator=generator), target


def small_model(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, CLASSES))


def trainer(model: nn.Module | None = None, **settings: Any) -> Trainer:
    model = model or small_model()
    settings.setdefault("loss", nn.CrossEntropyLoss())
    optimizer = settings.pop("optimizer", torch.optim.AdamW)(model.parameters(), lr=0.05)
    return Trainer(model, optimizer=optimizer, device="cpu", **settings)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([t.detach().flatten().float() for t in model.state_dict().values()])


class Keep(Callback):
    """Keeps the weights, batch norm's statistics among them, after each step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_step_end(self, trainer: Trainer) -> None:
        self.weights.append(weights(trainer.model))


def without_steps(ours: Trainer, bad: set[int]) -> Trainer:
    """Have a trainer change nothing at these steps: what a skipped step must be equal to."""
    update, step = ours._update, ours.step

    def watched(window: Any) -> None:
        before = {name: t.clone() for name, t in ours.model.state_dict().items() if "running" in name or "num_" in name}
        number = ours.progress.step
        step(window)
        if number in bad:
            ours.model.load_state_dict(before, strict=False)
            ours.callbacks[0].weights[-1] = weights(ours.model)

    ours._update = lambda: None if ours.progress.step in bad else update()
    ours.step = watched
    return ours
