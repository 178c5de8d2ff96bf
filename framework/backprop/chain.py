"""A network as the chapter has it: layer after layer forward, the error signal layer after layer back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from framework.backprop.context import Context
from framework.backprop.layers import ByHand, by_hand


class Link:
    """One function of the chain: once called, it has what its backward needs, and neither input nor output else."""

    __slots__ = ("arguments", "context", "function", "layer", "observe", "shape")

    def __init__(self, layer: nn.Module, step: ByHand, needs_inputs: bool, into: Mapping[int, Tensor]) -> None:
        self.layer = layer
        self.function, self.arguments, self.observe = step.function, step.arguments, step.observe
        self.shape: torch.Size | None = None
        inputs = self.arguments[0]
        if step.rowwise and inputs.ndim != 2:
            self.shape = inputs.shape
            self.arguments = (inputs.reshape(-1, inputs.shape[-1]), *self.arguments[1:])
        self.context = context = Context()
        if len(self.arguments) == 1:
            context.needs_input_grad = (needs_inputs,)
        else:
            context.needs_input_grad = (needs_inputs, *map(_is_trained, self.arguments[1:]))
            if into:
                context.destinations = tuple(map(into.get, map(id, self.arguments)))

    def forward(self) -> Tensor:
        """Return the output."""
        output = self.function.forward(*self.arguments)
        self.function.setup_context(self.context, self.arguments, output)
        self.arguments = (None, *self.arguments[1:])
        if self.observe:
            self.observe(output)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result if self.shape is None else result.view(self.shape)

    def backward(self, delta: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each argument, the layer's input first, given that of the output."""
        if self.shape is not None:
            delta = delta.reshape(-1, self.shape[-1])
        found = self.function.backward(self.context, delta)
        gradients: tuple[Tensor | None, ...] = found if isinstance(found, tuple) else (found,)
        if self.shape is None or gradients[0] is None:
            return gradients
        return gradients[0].view(self.shape), *gradients[1:]


def _is_trained(argument: Any) -> bool:
    # nn.Parameter's own isinstance is slow
    return (type(argument) is nn.Parameter or isinstance(argument, nn.Parameter)) and argument.requires_grad


NOWHERE: Mapping[int, Tensor] = {}


def forward(
    layers: Iterable[nn.Module],
    inputs: Tensor,
    into: Mapping[int, Tensor] = NOWHERE,
    show: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, list[Link]]:
    """Return the output of layers one after the other, and the links that lead to it.

    `into` has, by a parameter's id, memory in which its gradient would best be written. `show` is shown each link's
    output, which nobody keeps but for a backward's sake.
    """
    links: list[Link] = []
    trained = False
    for layer in layers:
        step = by_hand(layer, inputs)
        if step is None:
            continue
        link = Link(layer, step, needs_inputs=trained, into=into)
        trained = trained or True in link.context.needs_input_grad
        inputs = link.forward()
        links.append(link)
        if show:
            show(inputs)
    return inputs, links


def backward(links: list[Link], delta: Tensor) -> Iterator[tuple[Link, Tensor, tuple[Tensor | None, ...]]]:
    """Yield, from the last link to the first, the link, the error signal at its output, and its gradients.

    The error signal of a layer is reused for the one before it, as the chapter has it: δ ← Wᵀδ · f′. The links are
    taken from the list, so that what each has kept is gone when the next is reached, unless who asked holds it.
    """
    while links:
        link = links.pop()
        gradients = link.backward(delta)
        yield link, delta, gradients
        if gradients[0] is None:
            return
        delta = gradients[0]


def layers_of(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a network that is nothing but them, in order."""
    for layer in network._modules.values():  # children() would leave out a layer that stands there twice
        assert layer is not None
        if type(layer) is nn.Sequential:
            yield from layers_of(layer)
        else:
            yield layer


NONDECREASING = (nn.ReLU, nn.Tanh, nn.Sigmoid)
"""Activations that may change places with max pooling: f(max(z)) = max(f(z))."""


def pooled_first(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers with each max pooling before the nondecreasing activation that it follows.

    The values and gradients are the same, and the activation goes over a fraction of the elements.
    """
    ordered: list[nn.Module] = []
    for layer in layers:
        place = len(ordered)
        if type(layer) is nn.MaxPool2d and ordered and type(ordered[-1]) in NONDECREASING:
            place -= 1
        ordered.insert(place, layer)
    return ordered
