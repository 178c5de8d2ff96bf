"""The pass by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from framework.backprop import chain, layers, losses
from framework.backprop.recording import Recording, RecordingError
from framework.batching import Window
from framework.batching.sets import Batch
from framework.errors import ConfigError
from framework.objective import inputs_and_target

if TYPE_CHECKING:
    from framework.backprop.passes import Pass

AFTER = 2
"""Micro-batches of one shape that go through Python before the next is recorded: a shape that is rare never is."""
SHAPES = 16
"""Shapes, and ways to go through one, that are kept, at most: a recording takes some milliseconds to make."""


@dataclass(slots=True)
class Found:
    """What a micro-batch gives: the mean loss, the number of its terms, the prediction, and parameters' gradients."""

    mean: Tensor
    weight: Tensor | float
    prediction: Tensor
    gradients: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)


@dataclass(slots=True)
class Recorded:
    """A recording of the pass: its outputs are the mean, the prediction, the gradients, and the weight if a tensor."""

    recording: Recording
    parameters: list[nn.Parameter]
    weight: float | None

    def __call__(self, inputs: Tensor, target: Tensor) -> Found:
        """Return what another micro-batch of the same shape gives."""
        mean, prediction, *gradients = self.recording(inputs, target)
        weight = gradients.pop() if self.weight is None else self.weight
        return Found(mean, weight, prediction, list(zip(self.parameters, gradients, strict=True)))


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
        otherwise: Pass | None,
        gradients: Mapping[nn.Parameter, Tensor],
    ) -> None:
        self.model = model
        self.one: Tensor | None = None
        ordered = chain.pooled_first(chain.layers_of(network))
        used = Counter(id(p) for layer in ordered for p in layer.parameters())
        self.chain = chain.Chain(ordered, {id(p): place for p, place in gradients.items() if used[id(p)] == 1})
        self.loss = loss
        self.otherwise = otherwise
        self.why = "backprop: by hand, layer by layer; trainer.backprop=autograd is the other way."
        self.hooks = [hooks for module in (*model.modules(), loss) for hooks in layers.hooks_of(module)]
        self.parameters = list(model.parameters())
        self.options = [
            (vars(module), name)
            for module in (*ordered, loss)
            for name, value in vars(module).items()
            if isinstance(value, float)
            or (module is loss and isinstance(value, int | str))
            or (name in ("p", "training") and isinstance(module, nn.Dropout))
        ]
        """What a layer or the loss may be told to do otherwise in the course of a training."""
        self.tensors = [
            (held, name)
            for module in (*ordered, loss)
            for held in (module._parameters, module._buffers)
            for name in held
        ]
        """Where the tensors are that a recording goes on with: another may be put there, such as weights of classes."""
        self.recordable = True
        self.recordings: dict[object, int | Recorded] = {}
        """By shapes and options: a recording, or the micro-batches that went before it."""
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
        anew = all(p.grad is None for p in self.parameters)
        found = self._repeat(window, inputs, target, anew)
        if found is None:
            found = self._go(window, inputs, target, anew)
        for parameter, gradient in found.gradients:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        if window.idle:
            return found.mean, found.weight * 0, None
        return found.mean, found.weight, (found.prediction, target)

    def _go(self, window: Window, inputs: Tensor, target: Tensor, anew: bool) -> Found:
        """Go forward and back; `anew` says that no gradient is there yet."""
        prediction = self.chain.forward(inputs, anew=anew)

        def cotangent(mean: Tensor, weight: Tensor | float) -> Tensor:
            if self.one is None or self.one.dtype != mean.dtype:
                self.one = torch.ones_like(mean)
            return window.share(self.one, weight * 0 if window.idle else weight)

        mean, weight, delta = losses.differentiate(self.loss, prediction, target, cotangent)
        found = Found(mean, weight, prediction)
        signals = self.chain.backward(delta)
        del delta
        for link, signal, gradients in signals:
            found.gradients += [(p, g) for p, g in zip(link.arguments[1:], gradients[1:], strict=True) if g is not None]
            del link, signal, gradients  # else they live on while the next link's backward makes its own
        return found

    def _repeat(self, window: Window, inputs: Tensor, target: Tensor, anew: bool) -> Found | None:
        """Go as a recording did, made of the third micro-batch of a shape; None where there is none."""
        if not (self.recordable and type(inputs) is type(target) is Tensor and inputs.is_cpu and target.is_cpu):
            return None
        if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            return None
        key = (
            inputs.shape,
            inputs.stride(),
            inputs.dtype,
            target.shape,
            target.stride(),
            target.dtype,
            anew,
            window.idle,
            window.whole or window.rows,
            torch.get_num_threads(),
            *[options[name] for options, name in self.options],
            *[id(held[name]) for held, name in self.tensors],
            *[p.requires_grad for p in self.parameters],
        )
        known = self.recordings.get(key, 0)
        if isinstance(known, Recorded):
            return known(inputs, target)
        if known < AFTER:
            if known or len(self.recordings) < SHAPES:
                self.recordings[key] = known + 1
            return None
        return self._record(key, lambda inputs, target: self._go(window, inputs, target, anew), inputs, target)

    def _record(self, key: object, go: Callable[[Tensor, Tensor], Found], inputs: Tensor, target: Tensor) -> Found:
        """Go forward and back, and keep a recording of it, where it can be recorded."""
        found: Found | None = None

        def tensors(inputs: Tensor, target: Tensor) -> list[Tensor]:
            nonlocal found
            found = go(inputs, target)
            weight = [found.weight] if isinstance(found.weight, Tensor) else []
            return [found.mean, found.prediction, *(gradient for _, gradient in found.gradients), *weight]

        try:
            recording = Recording(tensors, inputs, target)
        except RecordingError:
            self.recordable = False
        assert found is not None
        if self.recordable:
            weight = None if isinstance(found.weight, Tensor) else found.weight
            self.recordings[key] = Recorded(recording, [p for p, _ in found.gradients], weight)
        return found

    @torch.enable_grad()
    def _step_aside(self, window: Window, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        if self.otherwise is None:
            raise ConfigError(
                "trainer.backprop=manual: hooks were registered, or a batch norm frozen, since training began: "
                "use trainer.backprop=auto."
            )
        return self.otherwise(window, batch)
