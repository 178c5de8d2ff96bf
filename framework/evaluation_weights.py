"""The weights that are evaluated and saved as the model's in place of the trained ones: averages of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.callbacks.base import Callback
from framework.checkpoint import model_tensors
from framework.checkpoint.snapshot import on_cpu
from framework.errors import ConfigError, nearest
from framework.parameters import bare_model, canonical_name, named_tensors

if TYPE_CHECKING:
    from framework.trainer import Trainer


def evaluation_weights(trainer: Trainer) -> dict[str, Tensor]:
    """Return the weights, by canonical name, that a callback or the optimizer has evaluated in place of the trained.

    Raises ConfigError where two of them have any, or names and shapes are not the model's.
    """
    given = [(type(source).__name__, weights) for source, weights in _sources(trainer) if weights is not None]
    if len(given) > 1:
        names = " and ".join(name for name, _ in given)
        raise ConfigError(f"{names} each have weights of their own to evaluate: keep one of them.")
    own = _tensors(trainer)
    saved = {_place(tensor): name for name, tensor in named_tensors(trainer.model).items()}
    for source, weights in given:
        for name, tensor in weights.items():
            if name not in own:
                raise ConfigError(f"{source}: '{name}' is not among the model's weights: {nearest(name, own)}")
            if tensor.shape != own[name].shape:
                raise ConfigError(
                    f"{source}: the weights of '{name}' must be {tuple(own[name].shape)}, got {tuple(tensor.shape)}."
                )
    weights = given[0][1] if given else {}
    return {saved.get(_place(own[name]), name): tensor for name, tensor in weights.items()}


@contextmanager
def evaluated(trainer: Trainer) -> Iterator[None]:
    """Give the model the weights that are to be evaluated, and afterwards the trained ones back."""
    weights = evaluation_weights(trainer)
    own = {name: tensor for name, tensor in _tensors(trainer).items() if name in weights}
    with torch.no_grad():
        trained = {name: tensor.clone() for name, tensor in own.items()}
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(trained[name])


def tensors_to_save(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copy the model's tensors to the CPU: those to evaluate, and the trained ones where they are others."""
    tensors = model_tensors(trainer.model)
    weights = evaluation_weights(trainer)
    trained = {name: tensors[name] for name in weights}
    return tensors | {name: on_cpu(tensor.to(tensors[name].dtype)) for name, tensor in weights.items()}, trained


def _sources(trainer: Trainer) -> Iterator[tuple[Any, dict[str, Tensor] | None]]:
    for callback in trainer.callbacks:
        if type(callback).evaluation_weights is not Callback.evaluation_weights:
            weights = callback.evaluation_weights(trainer)
            yield callback, None if weights is None else dict(weights)
    if (ask := getattr(trainer.optimizer, "evaluation_weights", None)) is not None:
        by_parameter = ask()
        yield trainer.optimizer, {n: by_parameter[p] for n, p in trainer.params.items() if p in by_parameter}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tied tensors have in common; an empty one has nothing."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {canonical_name(name): tensor for name, tensor in bare_model(trainer.model).state_dict().items()}
