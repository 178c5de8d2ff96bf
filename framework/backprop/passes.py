"""The two ways through a micro-batch, and the choice between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from framework.backprop import chain, layers, losses
from framework.batching import Window
from framework.batching.sets import Batch
from framework.errors import ConfigError
from framework.losses.weighing import weigh
from framework.models.layered import Layered
from framework.objective import Objective, Supervised, inputs_and_target
from framework.optimizers.flat import Flat
from framework.precision import Precision

Backprop = Literal["auto", "manual", "autograd"]


class Pass(Protocol):
    """Adds a micro-batch's gradients to those of the parameters."""

    why: str
    """One sentence: what runs, and why."""

    def __call__(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        """Return the mean loss, the number of terms that it is over, and (prediction, target) or None."""
        ...


class Autograd:
    """Forward through the network, and autograd back: for any model and objective."""

    def __init__(self, network: nn.Module, objective: Objective, precision: Precision, why: str = "as asked") -> None:
        self.network = network
        self.objective = objective
        self.precision = precision
        self.why = f"backprop: autograd, {why}."

    def __call__(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        """Add the gradients; see Pass."""
        with self.precision.autocast():
            mean, weight, outputs = self.objective(self.network, batch)
        if window.idle:
            weight, outputs = weight * 0, None
        self.precision.scaled(window.share(mean, weight)).backward()
        return mean.detach(), weight, outputs


class Manual:
    """The chapter's algorithm: layer by layer forward, then backward, by hand-written functions and no graph.

    Where somebody begins to listen to layers or gradients, or freezes a batch norm, `otherwise` takes over, without
    which ConfigError is raised.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Sequential,
        loss: nn.Module,
        otherwise: Autograd | None,
        gradients: Mapping[nn.Parameter, Tensor],
    ) -> None:
        self.model = model
        self.one: Tensor | None = None
        self.layers = chain.pooled_first(chain.layers_of(network))
        used = Counter(id(p) for layer in self.layers for p in layer.parameters())
        self.places = {id(p): place for p, place in gradients.items() if used[id(p)] == 1}
        self.loss = loss
        self.otherwise = otherwise
        self.why = "backprop: by hand, layer by layer; trainer.backprop=autograd is the other way."
        self.hooks = [hooks for module in (*model.modules(), loss) for hooks in layers.hooks_of(module)]
        self.parameters = list(model.parameters())
        self.batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __call__(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        """Add the gradients; see Pass."""
        if (
            any(self.hooks)
            or any(map(layers.is_heard, self.parameters))
            or not all(m.training for m in self.batch_norms)
        ):
            return self._step_aside(window, batch)
        torch.set_grad_enabled(False)  # the decorator takes five times as long
        try:
            return self._by_hand(window, batch)
        finally:
            torch.set_grad_enabled(True)

    def _by_hand(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        inputs, target = inputs_and_target(batch)
        first = self.parameters[0].grad is None
        prediction, links = chain.forward(self.layers, inputs, self.places if first else chain.NOWHERE)
        weight = weigh(self.loss, target)
        if window.idle:
            weight = weight * 0
        mean, delta = losses.differentiate(
            self.loss, prediction, target, lambda mean: self._share(window, mean, weight)
        )
        signals = chain.backward(links, delta)
        del delta
        for link, signal, gradients in signals:
            for place in range(1, len(gradients)):
                if (gradient := gradients[place]) is not None:
                    argument = link.arguments[place]
                    argument.grad = gradient if argument.grad is None else argument.grad.add_(gradient)
            del link, signal, gradients  # else they live on while the next link's backward makes its own
        return mean, weight, None if window.idle else (prediction, target)

    def _share(self, window: Window, mean: Tensor, weight: Tensor | float) -> Tensor:
        """Return what the error signal of a loss's mean is in the step."""
        if self.one is None or self.one.dtype != mean.dtype:
            self.one = torch.ones_like(mean)
        return window.share(self.one, weight)

    @torch.enable_grad()
    def _step_aside(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        if self.otherwise is None:
            raise ConfigError(
                "trainer.backprop=manual: hooks were registered, or a batch norm frozen, since training began: "
                "use trainer.backprop=auto."
            )
        return self.otherwise(window, batch)


def choose(
    how: Backprop,
    model: nn.Module,
    network: nn.Module,
    objective: Objective,
    precision: Precision,
    ranks: int,
    vectors: Sequence[Flat] = (),
) -> Pass:
    """Return the pass of a run: `auto` goes by hand where all allows it.

    `vectors` have the memory that the optimizer wants parameters' gradients in.
    Raises ConfigError where `manual` is asked for and something does not allow it.
    """
    if how == "autograd":
        return Autograd(network, objective, precision)
    reason = _obstacle(model, network, objective, precision, ranks)
    why = f"since {reason or 'somebody listens to the layers'}"
    otherwise = Autograd(network, objective, precision, why) if how == "auto" else None
    sequence = sequence_of(model)
    if not reason and isinstance(objective, Supervised) and isinstance(objective.loss, nn.Module) and sequence:
        places = {p: view for v in vectors for p, view in zip(v.params, v.keep_gradients(), strict=True)}
        return Manual(model, sequence, objective.loss, otherwise, places)
    if otherwise is None:
        raise ConfigError(f"trainer.backprop=manual is not possible, since {reason}: use trainer.backprop=auto.")
    return otherwise


def sequence_of(model: nn.Module) -> nn.Sequential | None:
    """Return the layers that a model is, one after the other, or None where it is more than that."""
    if type(model).forward is nn.Sequential.forward:
        return model  # type: ignore[return-value]  # whose forward this is
    if type(model).forward is Layered.forward and type(model.layers) is nn.Sequential:
        return model.layers
    return None


def _obstacle(model: nn.Module, network: nn.Module, objective: Objective, precision: Precision, ranks: int) -> str:
    """Return why a run cannot go by hand, or nothing where it can."""
    if type(objective) is not Supervised:
        return "the objective is not a loss of (prediction, target)"
    if ranks > 1:
        return f"{ranks} devices average their gradients in autograd's backward pass"
    if precision.dtype is not None:
        return "mixed precision casts in autograd"
    if network is not model:
        return "the model is compiled"
    if torch_module._has_any_global_hook():
        return "hooks listen to every module"
    replaced = next((m for m in model.modules() if "forward" in vars(m)), None)
    if replaced is not None:
        return f"the forward of a {type(replaced).__name__} was replaced, as gradient checkpointing does"
    sequence = sequence_of(model)
    if sequence is None:
        return f"{type(model).__name__} is not a sequence of layers"
    loss = objective.loss
    if reason := losses.obstacle(loss):
        return reason
    assert isinstance(loss, nn.Module)
    held = (f"{type(m).__name__} has hooks" for m in (*model.modules(), loss) if layers.has_hooks(m))
    return next(held, "") or next(filter(None, map(layers.obstacle, chain.layers_of(sequence))), "")
