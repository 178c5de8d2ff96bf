"""A whole step as one function of tensors, which a compiler or a CUDA graph can take as one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call

from framework.batching import Window
from framework.determinism import seed_step
from framework.errors import ConfigError
from framework.meters import Measured
from framework.objective import Objective
from framework.optimizers import Optimizer
from framework.optimizers.flat import Flat
from framework.precision import Precision
from framework.regularizers.base import Regularizer
from framework.trainer.capture import Captured

if TYPE_CHECKING:
    from framework.trainer.loop import Trainer


class Goal(nn.Module):
    """What a step differentiates, as a module, so that it can be called with other parameters than the model's own."""

    def __init__(self, model: nn.Module, objective: Objective, of_weights: Sequence[Regularizer]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.of_weights = of_weights

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | float, Any, Tensor | None]:
        """Return the mean loss, the number of its terms, the outputs, and the sum of the penalties if any."""
        mean, weight, outputs = self.objective(self.model, batch)
        penalty = torch.stack([r.penalty(self.model) for r in self.of_weights]).sum() if self.of_weights else None
        return mean, weight, outputs, penalty


class WholeStep:
    """Takes steps whose batch has the first one's size and shapes as one function; others it leaves to the loop.

    The first step is the loop's too: it makes the optimizer's state. A bad step changes no weight and no state.
    """

    def __init__(self, trainer: Trainer, objective: Objective, *, compiled: bool, captured: bool) -> None:
        assert isinstance(trainer.optimizer, Optimizer)
        self.trainer = trainer
        self.optimizer = trainer.optimizer
        self.compiled = compiled
        self.captured = captured
        self.asked = compiled or trainer.capture == "on"
        self.goal = Goal(trainer.model, objective, trainer.regularization.of_weights)
        self.function: Callable[..., Any] | None = None
        self.rows = 0
        self.form: list[Any] = []
        self.options: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.rates = [torch.zeros((), dtype=torch.float64, device=trainer.place) for _ in self.optimizer.param_groups]
        self.seconds: float | None = None
        """How long the compilation took, once it is over."""

    def take(self, window: Window) -> tuple[Measured, bool | Tensor] | None:
        """Take a step, and return what it measured and whether it is bad; None where it is not for this function."""
        if self.rows == 0:
            self.rows = window.rows
            return None
        if window.rows != self.rows or not window.whole or window.idle or len(window) != 1:
            return None
        trainer = self.trainer
        assert trainer.rate is not None
        ((slot, batch),) = window
        form = _form(batch)
        self.form = self.form or form
        if form != self.form:
            return None
        vectors = self._vectors()
        if vectors is None:
            return None
        trainer.rate.set(trainer.progress.step)
        seed_step(trainer.place, trainer.seed, "micro-batch", trainer.progress.step, slot)
        batch = trainer.regularization.on_batch(batch)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        states = [vector.state for vector in vectors]
        try:
            found = self._call(vectors, [vector.values for vector in vectors], states, self.rates, batch)
        except RuntimeError as error:
            if not self._is_unrecorded():
                raise
            self._step_aside(error)
            return None
        mean, weight, outputs, penalty, norms, norm = found
        return self._judge(window, mean, weight, outputs, penalty, norms, norm)

    def _is_unrecorded(self) -> bool:
        """Tell whether the step is to become a CUDA graph, and has not been one yet: so it changed no weights."""
        return self.captured and not (isinstance(self.function, Captured) and self.function.graph)

    def _step_aside(self, error: RuntimeError) -> None:
        """Leave this step and all to come to the loop; raises ConfigError where a capture was asked for."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if self.asked:
            raise ConfigError(f"trainer.capture=on is not possible, since it fails: {reason}: leave it off.") from error
        self.trainer.guard.restore()
        self.trainer.whole = None
        warnings.warn(f"the step is not captured, since that fails: {reason}.", stacklevel=2)

    def _judge(
        self,
        window: Window,
        mean: Tensor,
        weight: Tensor | float,
        outputs: Any,
        penalty: Tensor | None,
        norms: Sequence[Tensor],
        norm: Tensor,
    ) -> tuple[Measured, bool | Tensor]:
        trainer = self.trainer
        if penalty is not None:
            trainer.record.means.add("loss/penalty", penalty, shared=True)
        named = dict(zip(self.names, norms, strict=True)) if norms else {}
        bad = trainer.guard.judge(window, trainer.progress, mean, weight, named)
        if bad is not False:
            trainer.guard.restore(bad)
        if trainer.clip_norm is not None or trainer.record.at_start_of_interval:
            trainer.record.means.add("grad_norm", norm, shared=True)
        measured = Measured()
        measured.add(mean, weight, outputs)
        return measured, bad

    def _vectors(self) -> list[Flat] | None:
        """Return the optimizer's vectors with their state.

        Where there are none any more, None, or ConfigError if the step was asked to be one function.
        """
        found = []
        for place, group in enumerate(self.optimizer.param_groups):
            vector = self.optimizer.vectors.get(place)
            known = vector is not None and len(group["params"]) == len(vector.params)
            if vector is None or not known or not vector.take_state(self.optimizer.state):
                if not self.asked:
                    return None
                raise ConfigError(
                    "trainer.compile=step and trainer.capture need every parameter's gradient, and some have none: "
                    "use trainer.compile=off trainer.capture=off."
                )
            if "step" in vector.state and vector.state["step"].device != self.trainer.place:
                vector.state["step"] = vector.state["step"].to(self.trainer.place)
                vector.shown = {}
            vector.show_state()
            found.append(vector)
        return found

    def _call(self, vectors: Sequence[Flat], *arguments: Any) -> Any:
        """Call the function, which is made at the first call, and anew where the optimizer's options have changed."""
        options = [_options(group) for group in self.optimizer.param_groups]
        if self.function is not None and options == self.options:
            return self.function(*arguments)
        self.options = options
        function = self._function(vectors)
        if not self.compiled:
            self.function = Captured(function) if self.captured else function
            return self.function(*arguments)
        function = torch.compile(function, fullgraph=True, dynamic=False)
        self.function = Captured(function) if self.captured else function
        started = time.monotonic()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            try:
                found = self.function(*arguments)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                reason = str(error).strip().splitlines()[0].rstrip(".")
                raise ConfigError(
                    f"trainer.compile=step is not possible, since the step is no one graph: {reason}; "
                    f"use trainer.compile=model or off."
                ) from error
        self.seconds = time.monotonic() - started
        self.trainer.record.compiled(self.seconds)
        return found

    def _function(self, vectors: Sequence[Flat]) -> Callable[..., Any]:
        """Return the step as a function of the vectors, their state, the learning rates and a batch."""
        trainer, goal, optimizer, options = self.trainer, self.goal, self.optimizer, self.options
        names = {id(p): name for name, p in trainer.params.items()}
        self.names = [names[id(p)] for vector in vectors for p in vector.params]
        cuts = [
            [(f"model.{names[id(p)]}", p.shape, p.stride(), s) for p, s in zip(v.params, v.starts, strict=True)]
            for v in vectors
        ]
        clip_value, clip_norm, mixed = trainer.clip_value, trainer.clip_norm, trainer.mixed
        looks = trainer.guard.needs_norms

        def step(
            values: list[Tensor], states: list[dict[str, Tensor]], rates: list[Tensor], batch: Any
        ) -> tuple[Any, ...]:
            params = [
                {name: value.detach().as_strided(shape, stride, start) for name, shape, stride, start in cut}
                for value, cut in zip(values, cuts, strict=True)
            ]
            found, gradients = _differentiate(goal, params, batch, mixed)
            mean, weight, outputs, penalty = found
            with torch.no_grad():
                norms = list(torch._foreach_norm([g for part in gradients for g in part.values()])) if looks else []
                bad = ~torch.isfinite(mean)
                if looks:
                    bad = bad | ~torch.isfinite(torch.stack(norms)).all()
                flat = [
                    _joined(list(part.values()), cut, value)
                    for part, cut, value in zip(gradients, cuts, values, strict=True)
                ]
                if clip_value is not None:
                    flat = [gradient.clamp(-clip_value, clip_value) for gradient in flat]
                norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in flat]))
                if clip_norm is not None:
                    flat = [gradient * (clip_norm / (norm + 1e-6)).clamp(max=1.0) for gradient in flat]
                for option, value, gradient, state, rate in zip(options, values, flat, states, rates, strict=True):
                    held = [value, *state.values()]
                    before = [tensor.clone() for tensor in held]
                    gradient = -gradient if option.get("maximize") else gradient
                    optimizer.update({**option, "lr": rate}, [value], [gradient], [state])
                    for tensor, old in zip(held, before, strict=True):
                        tensor.copy_(torch.where(bad, old, tensor))
            return mean, weight, outputs, penalty, norms, norm

        return step


def _differentiate(
    goal: Goal, params: Sequence[dict[str, Tensor]], batch: Any, mixed: Precision
) -> tuple[tuple[Any, ...], list[dict[str, Tensor]]]:
    """Return what the goal returns, detached, and the gradients by vector and name."""
    every = {name: tensor.requires_grad_() for part in params for name, tensor in part.items()}
    with torch.enable_grad():
        with mixed.autocast():
            mean, weight, outputs, penalty = functional_call(goal, every, (batch,))
        total = mean if penalty is None else mean + penalty
        gradients = torch.autograd.grad(total, list(every.values()))
    named = dict(zip(every, gradients, strict=True))
    outputs = apply_to_collection(outputs, Tensor, Tensor.detach)
    penalty = None if penalty is None else penalty.detach()
    return (mean.detach(), weight, outputs, penalty), [{name: named[name] for name in part} for part in params]


def _joined(gradients: Sequence[Tensor], cut: Sequence[tuple[Any, ...]], like: Tensor) -> Tensor:
    """Return gradients as one vector, in the order of their parameters' memory, padded as the parameters are."""
    pieces, end = [], 0
    for gradient, (_, _, stride, start) in zip(gradients, cut, strict=True):
        if start > end:
            pieces.append(like.new_zeros(start - end))
        order = sorted(range(gradient.ndim), key=stride.__getitem__, reverse=True)
        pieces.append(gradient.permute(order).reshape(-1))
        end = start + gradient.numel()
    if like.numel() > end:
        pieces.append(like.new_zeros(like.numel() - end))
    return torch.cat(pieces)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names", "lr")}


def _form(batch: Any) -> list[Any]:
    found: list[Any] = []
    apply_to_collection(batch, Tensor, lambda t: found.append((t.shape, t.dtype)))
    return found
