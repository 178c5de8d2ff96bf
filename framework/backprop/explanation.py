"""One example's way through the chain: every z, a, δ and ∂L/∂W, as the chapter writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework.backprop import chain, layers, losses
from framework.backprop.passes import sequence_of
from framework.errors import ConfigError
from framework.models.layers import Linear


@dataclass(frozen=True)
class Term:
    """A quantity of the chain: what it is called, how it comes from the others, and its value."""

    symbol: str
    formula: str
    value: Tensor


@dataclass(frozen=True)
class Explanation:
    """The terms of the forward and of the backward pass, in the order in which they are computed."""

    forward: list[Term]
    backward: list[Term]


@dataclass(frozen=True)
class Wording:
    """How a layer is written: its output's letter, it as a formula of its input, and the error signal at its input.

    {x} stands for the input's symbol, {n} for the number of the weighted layer, {e} for the error at the output.
    """

    letter: str
    forward: str
    backward: str


WEIGHTED = Wording("z", "W{n} {x} + b{n}", "W{n}ᵀ {e}")
WORDINGS: dict[type[nn.Module], Wording] = {
    nn.Linear: WEIGHTED,
    Linear: WEIGHTED,
    nn.Conv2d: Wording("z", "W{n} ⋆ {x} + b{n}", "W{n}ᵀ ⋆ {e}"),
    nn.MaxPool2d: Wording("p", "max pooling of {x}", "{e}, each to where the maximum was"),
    nn.AvgPool2d: Wording("p", "average pooling of {x}", "{e}, spread over its windows"),
    nn.Dropout: Wording("d", "dropout of {x}", "{e} of those kept"),
    nn.Flatten: Wording("", "{x} as a vector", "{e} in the shape of {x}"),
    nn.Unflatten: Wording("", "{x} as an image", "{e} in the shape of {x}"),
    nn.BatchNorm1d: Wording("n", "batch norm of {x}", "{e} through batch norm"),
    nn.BatchNorm2d: Wording("n", "batch norm of {x}", "{e} through batch norm"),
    nn.LayerNorm: Wording("n", "layer norm of {x}", "{e} through layer norm"),
    nn.RMSNorm: Wording("n", "RMS norm of {x}", "{e} through RMS norm"),
    nn.Softmax: Wording("ŷ", "softmax({x})", "{e} through softmax"),
}
"""How layers are written; those that are not here are activations."""

ERRORS = {
    "CrossEntropy": "softmax({y}) − y",
    "CrossEntropyLoss": "softmax({y}) − y",
    "BCELogits": "(σ({y}) − y) / n",
    "BCEWithLogitsLoss": "(σ({y}) − y) / n",
    "MSE": "2 ({y} − y) / n",
    "MSELoss": "2 ({y} − y) / n",
}
"""The error signal that a loss sends back in its plainest form, for n outputs."""


def explain(model: nn.Module, loss: Any, inputs: Tensor, target: Tensor) -> Explanation:
    """Return what each layer computes of one example (1, …), and what backpropagation makes of it.

    Raises ConfigError where the model is no sequence of layers, or a layer or the loss has no backward by hand.
    """
    network = sequence_of(model)
    if network is None:
        raise ConfigError(f"explain goes layer by layer, and a {type(model).__name__} is not a sequence of layers.")
    reason = next(filter(None, [losses.obstacle(loss), *map(layers.obstacle, chain.layers_of(network))]), "")
    if reason:
        raise ConfigError(f"explain goes by hand, which is not possible, since {reason}.")
    outputs: list[Tensor] = []
    prediction, links = chain.forward(chain.layers_of(network), inputs, show=outputs.append)
    value, delta = losses.differentiate(loss, prediction, target, torch.ones_like)
    symbols = _symbols(links)
    forward = [Term("x", "the example", inputs)]
    sources = ["x", *(s for s, _ in symbols)]
    for link, output, source, (symbol, number) in zip(links, outputs, sources, symbols, strict=False):
        forward.append(Term(symbol, _wording(link).forward.format(x=source, n=number), output))
    last = symbols[-1][0]
    forward.append(Term("L", f"{type(loss).__name__}({last}, y)", value))
    backward: list[Term] = []
    formula = ERRORS.get(type(loss).__name__, "∂L/∂{y}").format(y=last)
    places = reversed(range(len(links)))
    for place, (link, signal, gradients) in zip(places, chain.backward(links, delta), strict=False):
        symbol, number = symbols[place]
        before = symbols[place - 1][0] if place else "x"
        error = f"δ{number}" if symbol.startswith("z") else f"∂L/∂{symbol}"
        backward.append(Term(error, formula, signal))
        backward += [
            Term(f"∂L/∂{name}", f"{error} {before}ᵀ" if name.startswith("W") else f"of {error}", gradient)
            for name, gradient in _of_parameters(link, gradients, number)
        ]
        formula = _wording(link).backward.format(x=before, n=number, e=error)
    return Explanation(forward, backward)


def _wording(link: chain.Link) -> Wording:
    name = type(link.layer).__name__
    return WORDINGS.get(type(link.layer), Wording("a", f"{name}({{x}})", f"{{e}} ⊙ {name}′({{x}})"))


def _symbols(links: list[chain.Link]) -> list[tuple[str, int]]:
    """Return each output's symbol, and the number of the last weighted layer; a reshaped tensor keeps its name."""
    symbols: list[tuple[str, int]] = []
    number = 0
    for link in links:
        letter = _wording(link).letter
        number += letter == "z"
        symbols.append((f"{letter}{number}" if letter else (symbols[-1][0] if symbols else "x"), number))
    return symbols


def _of_parameters(link: chain.Link, gradients: tuple[Tensor | None, ...], number: int) -> list[tuple[str, Tensor]]:
    """Return the gradients of a layer's parameters, named W, b and their number, or by the parameter's own name."""
    named = {id(parameter): name for name, parameter in link.layer.named_parameters(recurse=False)}
    weighted = _wording(link).letter == "z"
    letters = {"weight": "W", "bias": "b"} if weighted else {"weight": "γ", "bias": "β"}
    return [
        (f"{letters[named[id(argument)]]}{number}", gradient)
        for argument, gradient in zip(link.arguments, gradients, strict=True)
        if gradient is not None and id(argument) in named
    ]
