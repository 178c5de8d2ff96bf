"""Initializers that break a rule each."""

import torch
from torch import nn

from framework.initializers import Initializer
from framework.registry import initializer


@initializer("puts_new_tensors")
class PutsNewTensors(Initializer):
    breaks = ("initializer_fills_in_place",)

    def __call__(self, module):
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight = nn.Parameter(torch.randn(layer.weight.shape))
        return [name for name, _ in module.named_parameters()]

    def __init__(self, gain: float) -> None:
        super().__init__(gain)


@initializer("linear_only")
class LinearOnly(Initializer):
    breaks = ("initializer_reaches_layers",)

    def __init__(self, gain: float) -> None:
        super().__init__(gain)

    @torch.no_grad()
    def __call__(self, module):
        layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        for layer in layers.values():
            layer.weight.normal_()
        return [f"{name}.weight" for name in layers]


@initializer("names_nothing")
class NamesNothing(Initializer):
    breaks = ("initializer_reaches_layers",)

    def __init__(self, gain: float) -> None:
        super().__init__(gain)

    def __call__(self, module):
        super().__call__(module)
        return []

    def fill(self, weight):
        weight.normal_()


@initializer("divides_by_nothing")
class DividesByNothing(Initializer):
    breaks = ("initializer_leaves_finite_weights",)

    def __init__(self, gain: float) -> None:
        super().__init__(gain)

    def fill(self, weight):
        weight.normal_().div_(weight.shape[1] - 1)


@initializer("adds_to_what_is_there")
class AddsToWhatIsThere(Initializer):
    breaks = ("initializer_follows_the_seed",)

    def __init__(self, gain: float) -> None:
        super().__init__(gain)

    def fill(self, weight):
        weight.add_(torch.randn_like(weight))
