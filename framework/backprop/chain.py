"""A network as the chapter has it: layer after layer forward, the error signal layer after layer back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from framework.backprop.context import Context
from framework.backprop.layers import RULES
from framework.functions.contract import Function

NOWHERE: Mapping[int, Tensor] = {}


class Link:
    """One layer of the chain: calls its function forward, and backward with what that kept.

    Made once and called step after step. Neither input nor output is kept but for the backward's sake, and that is gone
    when it has ended.
    """

    __slots__ = ("arguments", "context", "destinations", "function", "layer", "needs", "rule", "shape")

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.rule = RULES[type(layer)]
        self.function: type[Function] | None = None
        """None where the layer passes its input on."""
        self.context = Context()
        self.arguments: tuple[Any, ...] = ()
        """The function's, but for the input."""
        self.needs: tuple[bool, ...] | None = None
        """Which arguments need a gradient, and where in memory it would best be written: looked for once."""
        self.destinations: tuple[Tensor | None, ...] = ()

    def forward(self, inputs: Tensor, needs_inputs: bool, into: Mapping[int, Tensor]) -> Tensor:
        """Return the layer's output."""
        step = self.rule(self.layer, inputs)
        if step is None:
            self.function = None
            return inputs
        self.function, arguments = step.function, step.arguments
        self.shape = None
        if step.rowwise and inputs.ndim != 2:
            self.shape = inputs.shape
            arguments = (inputs.reshape(-1, inputs.shape[-1]), *arguments[1:])
        context = self.context
        if self.needs is None:
            self.needs = (needs_inputs, *map(_is_trained, arguments[1:]))
            self.destinations = tuple(map(into.get, map(id, arguments)))
        context.needs_input_grad, context.destinations = self.needs, self.destinations if into else ()
        output = step.function.forward(*arguments)
        step.function.setup_context(context, arguments, output)
        self.arguments = (None, *arguments[1:])
        if step.observe:
            step.observe(output)
        result: Tensor = output[0] if type(output) is tuple else output
        return result if self.shape is None else result.view(self.shape)

    def backward(self, delta: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each argument, the layer's input first, given that of the output; forget all."""
        assert self.function is not None
        if self.shape is not None:
            delta = delta.reshape(-1, self.shape[-1])
        found = self.function.backward(self.context, delta)
        self.forget()
        gradients: tuple[Tensor | None, ...] = found if type(found) is tuple else (found,)
        if self.shape is None or gradients[0] is None:
            return gradients
        return gradients[0].view(self.shape), *gradients[1:]

    def forget(self) -> None:
        """Let go of what the step has kept."""
        self.context.saved_tensors = ()


def _is_trained(argument: Any) -> bool:
    return isinstance(argument, nn.Parameter) and argument.requires_grad


class Chain:
    """Layers one after the other.

    `into` has, by a parameter's id, memory in which its gradient would best be written.
    """

    def __init__(self, layers: Iterable[nn.Module], into: Mapping[int, Tensor] = NOWHERE) -> None:
        self.links = [Link(layer) for layer in layers]
        self.parameters = [p for link in self.links for p in link.layer.parameters()]
        self.trained: list[bool] = []
        self.into = into

    def forward(
        self, inputs: Tensor, *, anew: bool = True, show: Callable[[Link, Tensor], None] | None = None
    ) -> Tensor:
        """Return the output of the last layer; gradients go to memory of their own unless they are `anew`.

        `show` is shown each link that has a function, with its output.
        """
        trained = [p.requires_grad for p in self.parameters]
        if trained != self.trained:
            self.trained = trained
            for link in self.links:
                link.needs = None
        into = self.into if anew else NOWHERE
        needed = False
        for link in self.links:
            inputs = link.forward(inputs, needed, into)
            needed = needed or (link.function is not None and True in link.context.needs_input_grad)
            if show and link.function:
                show(link, inputs)
        return inputs

    def backward(self, delta: Tensor) -> Iterator[tuple[Link, Tensor, tuple[Tensor | None, ...]]]:
        """Yield, from the last link to the first, the link, the error signal at its output, and its gradients.

        The error signal of a layer is reused for the one before it, as the chapter has it: δ ← Wᵀδ · f′.
        """
        signal: Tensor | None = delta
        del delta
        for link in reversed(self.links):
            if link.function is None:
                continue
            if signal is None:
                link.forget()
                continue
            gradients = link.backward(signal)
            yield link, signal, gradients
            signal = gradients[0]
            del gradients


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
