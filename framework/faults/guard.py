"""Steps with bad numbers: kept from the weights, counted, and told with their examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from framework.batching import Window
from framework.faults.first import FirstWeights
from framework.faults.skipped import SkippedFile
from framework.faults.spikes import Spikes
from framework.history import Progress
from framework.parameters import named_parameters
from framework.precision import Precision, masked

Policy = Literal["stop", "skip", "rewind"]

IN_A_ROW = 100
"""So many steps skipped one after the other end the run: nothing is being learned."""

REWINDS = 10
"""So often a run goes back to one and the same checkpoint; once more ends it."""

ADVICE = {
    "loss": "look at that batch and the learning rate; trainer.on_nonfinite=skip leaves such steps out",
    "gradient": "try a lower optimizer.lr or trainer.clip_norm=1; trainer.on_nonfinite=skip leaves such steps out",
    "spike": "try a lower optimizer.lr or trainer.clip_norm=1; trainer.on_nonfinite=skip leaves such steps out",
}
"""What to try, by the reason."""


@dataclass(frozen=True)
class Judged:
    """A step whose numbers were kept: its loss, whether that is a spike, the norms of its gradients."""

    step: int
    epoch: int
    window: Window
    names: Sequence[str]
    numbers: Tensor


@dataclass(frozen=True)
class Fault:
    """A bad step: `reason` is loss, gradient or spike, `text` says so in words."""

    judged: Judged
    reason: str
    text: str

    def entry(self) -> dict[str, Any]:
        """Return the line for skipped.jsonl; `positions` are those of the examples, 0 being the first of `of`."""
        window = self.judged.window
        positions = window.positions.tolist() if isinstance(window.positions, Tensor) else list(window.positions or ())
        where = {"positions": positions, "of": window.of}
        return {"step": self.judged.step, "epoch": self.judged.epoch, "reason": self.reason, **where, "what": self.text}


class Guard:
    """Judges each step by its loss and the norms of its gradients, and keeps a bad one from the weights.

    Where tensors are in the host's memory it decides at once. On an accelerator nothing is read before the next log
    point: `skip` and `rewind` mask the update there, and `stop`, whose run goes back to its best weights, lets it pass.
    Looking through every gradient takes a few percent of a small model's step on the host, so there `stop` looks at the
    loss alone, and at the weights, which a gradient that is no number has spoilt: at log points, before anything is
    evaluated or saved, and when a loss is none.
    Weights, optimizer state and batch norm's statistics stay what they were; counters and schedule go on.
    """

    def __init__(self, policy: Policy, deviations: float | None, model: nn.Module, mixed: Precision) -> None:
        self.policy = policy
        self.model = model
        self.first: FirstWeights | None = None
        """The weights at the beginning, where a bad step would spoil the model's."""
        self.device = mixed.device
        self.on_host = mixed.device.type == "cpu"
        self.spikes = None if deviations is None else Spikes(deviations, mixed.device, mixed.wide)
        self.statistics = [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
        self.before: list[Tensor] = []
        self.taken: tuple[int, int] | None = None
        """The step, and its epoch, whose update was the last one taken."""
        self.no_spike = torch.zeros((), device=mixed.device)
        self.judged: list[Judged] = []
        self.left_out: set[int] = set()
        """The steps that a rewound run passes over."""
        self.skipped = 0
        self.in_a_row, self.last_bad = 0, -1
        self.reason = ""
        """Why the steps must end: nonfinite, spike or rewind."""
        self.message = ""
        self.rewinds, self.rewound_to = 0, -1
        self.file, self.is_main = SkippedFile(None), True

    @property
    def needs_norms(self) -> bool:
        """Whether every step's gradients are looked through."""
        return not (self.on_host and self.policy == "stop")

    @property
    def knows(self) -> bool:
        """Whether it is known, before the next log point, that the run ends or goes back."""
        return self.on_host and self.policy != "skip" and bool(self.judged)

    def state(self) -> dict[str, Any]:
        """Return what the judgement of the next step, and the steps left out, depend on."""
        spikes = {} if self.spikes is None else {"spikes": self.spikes.state}
        counts = {"skipped": self.skipped, "in_a_row": self.in_a_row, "last_bad": self.last_bad}
        return {**spikes, **counts, "left_out": sorted(self.left_out)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned; a run that goes back keeps what it knows already."""
        if state["last_bad"] > self.last_bad:
            self.skipped, self.in_a_row, self.last_bad = state["skipped"], state["in_a_row"], state["last_bad"]
        self.left_out |= set(state["left_out"])
        if self.spikes is not None and "spikes" in state:
            self.spikes.state = state["spikes"].to(self.spikes.state)

    def forget(self, step: int) -> None:
        """Drop what is known of the steps from this one on, which are void."""
        if self.is_main:
            self.file.forget_from(step, self.left_out)
        self.reason, self.message, self.judged, self.taken = "", "", [], None

    def rewound(self, step: int) -> None:
        """Count a return to the checkpoint of a step."""
        self.rewinds = self.rewinds + 1 if step == self.rewound_to else 1
        self.rewound_to = step

    def open(self, directory: Path | None, step: int, *, is_main: bool) -> None:
        """Begin at a step of the run that has this folder; the main rank writes what all know."""
        self.file, self.is_main = SkippedFile(directory), is_main
        if is_main:
            self.file.forget_from(step, self.left_out)
        if self.policy == "stop":
            self.first = FirstWeights(self.model, directory)

    def begin(self, window: Window, progress: Progress) -> None:
        """Keep what a forward pass changes, and note the examples that are not there."""
        self.before = [tensor.clone() for tensor in self.statistics]
        if window.lost:
            common = {"step": progress.step, "epoch": progress.epoch, "reason": "data"}
            self.file.append(
                [{**common, "positions": [index], "of": window.of, "what": cause} for index, cause in window.lost]
            )

    def restore(self, bad: bool | Tensor = True) -> None:
        """Give batch norm its statistics of before the step back, where it is bad."""
        for tensor, old in zip(self.statistics, self.before, strict=True):
            tensor.copy_(torch.where(bad, old, tensor) if isinstance(bad, Tensor) else old)

    def restore_first(self) -> None:
        """Give the model the weights of the beginning back, where a bad step has spoilt its own."""
        if self.reason and self.first is not None and self._spoilt():
            self.first.restore()

    def close(self) -> None:
        """End: the weights of the beginning are of no use any more."""
        if self.first is not None:
            self.first.close()
            self.first = None

    def judge(
        self, window: Window, progress: Progress, mean: Tensor, weight: Tensor | float, norms: Mapping[str, Tensor]
    ) -> bool | Tensor:
        """Return whether a step is bad: a bool on the host, a 0-d bool tensor on a device.

        `mean` is the step's loss, `weight` the number of its terms, and `norms` are its gradients' by parameter: the
        same on all ranks. A mean of no terms is no bad number.
        """
        if self.on_host and not norms and self.spikes is None and math.isfinite(mean.item()):
            self.taken = (progress.step, progress.epoch)
            return False
        mean = torch.where(torch.as_tensor(weight, device=self.device) > 0, mean, 0.0)
        spike = self.spikes.observe(mean) if self.spikes else self.no_spike
        numbers = torch.stack([n.float() for n in (mean, spike, *norms.values())])
        bad = bool(_reason(numbers.tolist())) if self.on_host else (numbers[1] > 0) | ~torch.isfinite(numbers).all()
        if bad is not False:
            step = Judged(progress.step, progress.epoch, replace(window, parts=()), list(norms), numbers)
            self.judged.append(step)
        if bad is not True:
            self.taken = (progress.step, progress.epoch)
        return bad

    def update(
        self, change: Callable[[], None], optimizer: torch.optim.Optimizer, bad: bool | Tensor, skip: Tensor | None
    ) -> None:
        """Call `change`, which updates the weights, unless the step is bad, or loss scaling says to `skip` it."""
        if isinstance(bad, Tensor):
            if self.policy == "stop":
                bad = torch.zeros_like(bad)
            else:
                self.restore(bad)
                skip = bad if skip is None else skip | bad
        elif bad:
            self.restore()
            return
        if skip is None:
            change()
        else:
            masked(change, optimizer, skip)

    def notice(self) -> dict[str, float]:
        """Read what the steps since the last call were, by one copy to the host; return the scalars to log.

        Bad ones are written to skipped.jsonl, or end the run: then `reason` and `message` say why.
        """
        judged, self.judged = self.judged, []
        if not self.needs_norms and self.taken is not None and (lost := self._spoilt()):
            count = f"{len(lost)} of {len(named_parameters(self.model))} parameters"
            self._end(
                self.taken, "gradient", f"the gradient of {lost[-1]} is not finite, or its update overflowed ({count})"
            )
            return {}
        faults = [_fault(step, values) for step, values in zip(judged, _read(judged), strict=True) if _reason(values)]
        for fault in faults:
            self.in_a_row = self.in_a_row + 1 if fault.judged.step == self.last_bad + 1 else 1
            self.last_bad = fault.judged.step
        if faults and self.policy == "stop":
            self._end_at(faults[0])
        elif faults:
            self.skipped += len(faults)
            if self.is_main:
                self.file.append([fault.entry() for fault in faults])
            if self.in_a_row >= IN_A_ROW:
                self._end_at(faults[-1], f"{self.in_a_row} steps in a row were skipped, the last being ")
            elif self.policy == "rewind" and self.rewinds == REWINDS:
                self._end_at(faults[-1], f"the run went back to step {self.rewound_to} {REWINDS} times, the last for ")
            elif self.policy == "rewind":
                self.left_out.update(fault.judged.step for fault in faults)
                self.reason = "rewind"
        return {} if self.policy == "stop" else {"skipped_steps": float(self.skipped)}

    def _end_at(self, fault: Fault, prefix: str = "") -> None:
        self._end((fault.judged.step, fault.judged.epoch), fault.reason, fault.text, prefix)

    def _end(self, moment: tuple[int, int], reason: str, text: str, prefix: str = "") -> None:
        step, epoch = moment
        self.reason = "spike" if reason == "spike" else "nonfinite"
        self.message = f"{prefix}step {step} (epoch {epoch}): {text}: {ADVICE[reason]}."

    def _spoilt(self) -> list[str]:
        """Return the parameters that are not finite."""
        params = {name: param.detach() for name, param in named_parameters(self.model).items()}
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(params.values()))]).tolist()
        return [name for name, norm in zip(params, norms, strict=True) if not math.isfinite(norm)]


def gradient_norms(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Euclidean norm of each parameter's gradient, where there is one; of float16 in float32."""
    named = {name: param.grad for name, param in params.items() if param.grad is not None}
    if not named:
        return {}
    wider = torch.float32 if any(g.dtype == torch.float16 for g in named.values()) else None
    return dict(zip(named, torch._foreach_norm(list(named.values()), 2, wider), strict=True))


def _read(judged: Sequence[Judged]) -> list[list[float]]:
    """Return the numbers of each step, by one copy to the host where they are as many."""
    if len({len(j.numbers) for j in judged}) != 1:
        return [j.numbers.tolist() for j in judged]
    rows: list[list[float]] = torch.stack([j.numbers for j in judged]).tolist()
    return rows


def _reason(numbers: Sequence[float]) -> str:
    loss, spike, *norms = numbers
    if not math.isfinite(loss):
        return "loss"
    if not all(map(math.isfinite, norms)):
        return "gradient"
    return "spike" if spike else ""


def _fault(judged: Judged, numbers: Sequence[float]) -> Fault:
    """Say what is wrong with a step; the gradients are looked through as the backward pass makes them."""
    reason = _reason(numbers)
    loss, _, *norms = numbers
    text = f"the loss is {loss:.4g}"
    if reason == "gradient":
        lost = [name for name, norm in zip(judged.names, norms, strict=True) if not math.isfinite(norm)]
        text = f"the gradient of {lost[-1]} is not finite ({len(lost)} of {len(norms)} parameters) with {text}"
    if reason == "spike":
        text += ", a spike above its running mean"
    return Fault(judged, reason, text)
