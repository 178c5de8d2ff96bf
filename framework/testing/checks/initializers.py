"""What an initializer has to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.testing import parts, problems, trials
from framework.testing.conformance import CheckError, Subject, check


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 6), nn.ReLU(), nn.Linear(6, 4))


def _initialized(subject: Subject, model: nn.Module, seed: int = 0) -> Any:
    initializer = subject.build(*parts.runtime(subject, problems.images()))
    torch.manual_seed(seed)
    return initializer(model)


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@check(
    "initializer",
    rule="it fills a model's own parameters in place, which stay leaves that require gradients",
    mend="write under torch.no_grad() by weight.copy_(), normal_() and the like; put no new tensor in a module",
)
def initializer_fills_in_place(subject: Subject) -> None:
    """Compare the tensors' identities."""
    model = _model()
    before = {name: (p, p.data_ptr()) for name, p in model.named_parameters()}
    _initialized(subject, model)
    after = dict(model.named_parameters())
    if after.keys() != before.keys():
        raise CheckError(f"the model's parameters were {list(before)} and are {list(after)}")
    for name, param in after.items():
        if before[name][0] is not param or before[name][1] != param.data_ptr():
            raise CheckError(f"{name} is another tensor than before")
        if not param.requires_grad or not param.is_leaf:
            raise CheckError(f"{name} does not require a gradient, or is no leaf, any more")


@check(
    "initializer",
    rule="it changes the weights of linear and convolutional layers, and what it returns names all that it changed",
    mend="go through module.modules(), as framework.initializers.Initializer does, and return the names of parameters",
)
def initializer_reaches_layers(subject: Subject) -> None:
    """Compare the values with those of before."""
    model = _model()
    before = _values(model)
    returned = _initialized(subject, model)
    changed = {name for name, value in _values(model).items() if not trials.same(value, before[name])}
    for name, value in before.items():
        if value.ndim > 1 and name not in changed:
            raise CheckError(f"{name} is as it was")
    if not isinstance(returned, list):
        raise CheckError(f"it returns a {type(returned).__name__}, not a list of names")
    for name in changed - set(returned):
        raise CheckError(f"it changes {name} and does not name it")


@check(
    "initializer",
    rule="every weight is finite",
    mend="look for a division by a fan or a standard deviation that can be 0",
)
def initializer_leaves_finite_weights(subject: Subject) -> None:
    """Look at each, in layers of one input or output too."""
    for model in (_model(), nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 5), nn.Linear(5, 1))):
        _initialized(subject, model)
        for name, value in _values(model).items():
            if not torch.isfinite(value).all():
                raise CheckError(f"{name} {tuple(value.shape)} is not finite")


@check(
    "initializer",
    rule="the same seed gives the same weights, whatever they were before",
    mend="draw by torch's global generator, and overwrite: do not scale or add to what is there",
)
def initializer_follows_the_seed(subject: Subject) -> None:
    """Draw twice with one seed, over other weights."""
    one, other = _model(), _model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    named = _initialized(subject, one, seed=3)
    _initialized(subject, other, seed=3)
    there = _values(other)
    for name, value in _values(one).items():
        if name in (named or ()) and not trials.same(value, there[name]):
            raise CheckError(f"{name} differs between two draws with seed 3")
