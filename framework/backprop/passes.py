"""The two ways through a micro-batch, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from framework.backprop import chain, layers, losses
from framework.backprop.manual import Manual
from framework.batching import Window
from framework.batching.sets import Batch
from framework.errors import ConfigError
from framework.models.layered import Layered
from framework.objective import Objective, Supervised
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
    if type(model) in layers.RULES:
        return nn.Sequential(model)
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
