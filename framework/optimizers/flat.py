"""A group's parameters as one vector: each stays a view of it, and one kernel updates all."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""What an optimizer remembers of one parameter; tensors only, so that any checkpoint can hold it."""

States = MutableMapping[str, Any]

ALIGNMENT = 64
"""Bytes: each view begins on a cache line, and where vector instructions want it."""


class Flat:
    """Parameters, and from the first step on gradients and state, as views of contiguous vectors.

    Names, shapes and strides stay what they are. Where a gradient is missing or sparse, or a parameter was given other
    memory, `gather` says so: then the vectors are of no use any more, and the parameters go on as they are.
    """

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        self.params = list(params)
        first = self.params[0]
        step = ALIGNMENT // first.element_size()
        starts, end = [], 0
        for param in self.params:
            starts.append(end)
            end += -(-param.numel() // step) * step
        self.starts = starts
        self.values = torch.zeros(end, dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.values)
        self.gradients = self.views(self.gradient)
        self.is_written_to = False
        """Whether gradients are made in `gradient`: only then has it memory between two updates."""
        self.padding = self._padding()
        self.free_gradient()
        self.state: State = {}
        self.states: list[States] = []
        """The optimizer's own mapping of each parameter's state, whose tensors are views."""
        self.shown: State = {}
        """The first parameter's part of the state, by which another's state in its place is known."""
        with torch.no_grad():
            for param, view in zip(self.params, self.views(self.values), strict=True):
                view.copy_(param)
                param.data = view
        self.places = [param.data_ptr() for param in self.params]

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return each parameter's part of a vector, in its shape and strides."""
        return [vector.as_strided(p.shape, p.stride(), s) for p, s in zip(self.params, self.starts, strict=True)]

    def gather(self) -> bool:
        """Bring the gradients into `gradient`; return whether all are there, and the parameters where they were."""
        if [param.data_ptr() for param in self.params] != self.places:
            return False
        found = [param.grad for param in self.params]
        if all(own is view for own, view in zip(found, self.gradients, strict=True)):
            return True
        gradients = [gradient for gradient in found if gradient is not None and gradient.layout is torch.strided]
        if len(gradients) < len(found):
            return False
        self._allocate()
        torch._foreach_copy_(self.gradients, gradients)
        return True

    def keep_gradients(self) -> list[Tensor]:
        """Return each parameter's part of `gradient`, for gradients to be made there: from now on its memory stays."""
        self._allocate()
        self.is_written_to = True
        return self.gradients

    def free_gradient(self) -> None:
        """Give the memory of the gathered gradients back, until they are gathered again."""
        if not self.is_written_to:
            self.gradient.untyped_storage().resize_(0)

    def _allocate(self) -> None:
        if not self.is_written_to:
            self.gradient.untyped_storage().resize_(self.values.nbytes)
            if len(self.padding):
                self.gradient.index_fill_(0, self.padding, 0.0)

    def _padding(self) -> Tensor:
        """Return the positions in the vectors that are no parameter's."""
        is_padding = torch.ones_like(self.values, dtype=torch.bool)
        for part in self.views(is_padding):
            part.fill_(False)
        return is_padding.nonzero().squeeze(1)

    def take_state(self, state: Mapping[Tensor, States]) -> bool:
        """Make each parameter's state part of the vectors; return whether they are alike enough."""
        first = state[self.params[0]]
        known = self.states and first is self.states[0] and len(first) == len(self.shown)
        if known and all(first[name] is part for name, part in self.shown.items()):
            return True
        self.states = [state[param] for param in self.params]
        taken: State = {}
        for name, own in first.items():
            parts = [each[name] for each in self.states if isinstance(each.get(name), Tensor)]
            if len(parts) < len(self.states) or any(each.keys() != first.keys() for each in self.states):
                return False
            if all(part.shape == param.shape for part, param in zip(parts, self.params, strict=True)):
                taken[name] = torch.zeros_like(self.values, dtype=own.dtype)
                torch._foreach_copy_(self.views(taken[name]), parts)
            elif all(torch.equal(own, part) for part in parts):
                taken[name] = own.clone()
            else:
                return False
        self.state, self.shown = taken, {}
        return True

    def show_state(self) -> None:
        """Give each parameter its part of the state, where there is any new."""
        if len(self.shown) == len(self.state):
            return
        for name, vector in self.state.items():
            of_elements = vector.shape == self.values.shape
            parts = self.views(vector) if of_elements else [vector] * len(self.states)
            for state, part in zip(self.states, parts, strict=True):
                state[name] = part
        self.shown = {name: self.states[0][name] for name in self.state}


def flat_or_none(params: Sequence[nn.Parameter]) -> Flat | None:
    """Return parameters as one vector; None where they are of several types or devices, sparse, or overlap."""
    kinds = {(type(p.data), p.dtype, p.device, p.layout) for p in params}
    if len(kinds) != 1 or kinds.pop()[0] is not Tensor or params[0].layout is not torch.strided:
        return None
    if not params[0].is_floating_point() or not all(map(_is_dense, params)):
        return None
    return Flat(params)


def release(states: Sequence[MutableMapping[str, Any]]) -> None:
    """Give each parameter a tensor of its own where several have one and the same."""
    seen: set[int] = set()
    for state in states:
        for name, value in state.items():
            if isinstance(value, Tensor) and id(value) in seen:
                state[name] = value.clone()
            seen.add(id(value))


def _is_dense(param: nn.Parameter) -> bool:
    """Whether a parameter's elements fill its memory, each once, in any order of dimensions."""
    order = sorted(range(param.ndim), key=param.stride)
    expected = 1
    for dim in order:
        if param.shape[dim] != 1 and param.stride(dim) != expected:
            return False
        expected *= param.shape[dim]
    return True
