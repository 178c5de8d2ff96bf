"""Gradient checkpointing: keep a block's inputs only, and compute its inside again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(model: nn.Module) -> int:
    """Make a model's blocks recompute in the backward pass, in place, and return how many there are.

    Chen et al. (2016, arXiv:1604.06174). Gradients are the same to the bit: dropout draws again what it
    drew, and buffers, such as running statistics, are updated once. That does not hold where a block's
    forward uses state that it also changes, as spectral normalisation does. Parameters keep their names, and
    a model that has been through this already is left as it is.

    Blocks are the items of `model.blocks` where that is a ModuleList, else the model's children with
    parameters and children of their own, ModuleLists opened. A Sequential, or a model that is one, is cut
    before each layer that has a weight matrix. A lone layer keeps nothing but its input anyway, so it is no
    block, and 0 says that there was nothing to gain.
    """
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, nn.ModuleList):
        return sum(map(_wrap, blocks))
    if _is_sequential(model):
        return _wrap(model)
    return sum(map(_wrap, _children(model)))


class _Block:
    """The forward of a module that is one block."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.forward = block.forward
        self.count = 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _recompute(self.forward, [self.block], *args, **kwargs)


class _Segments:
    """The forward of a Sequential whose runs of layers are the blocks.

    Layers are looked up at each call, since they may be exchanged after this.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self.layers = layers
        starts = [i for i, layer in enumerate(layers) if _has_matrix(layer)]
        self.bounds = list(zip([0, *starts], [*starts, len(layers)], strict=True))
        self.count = sum(_gains(list(layers)[start:stop]) for start, stop in self.bounds)

    def __call__(self, inputs: Any) -> Any:
        layers = list(self.layers)
        for start, stop in self.bounds:
            inputs = self._run(layers[start:stop], inputs)
        return inputs

    @staticmethod
    def _run(segment: Sequence[nn.Module], inputs: Any) -> Any:
        def forward(values: Any) -> Any:
            for layer in segment:
                values = layer(values)
            return values

        return _recompute(forward, segment, inputs) if _gains(segment) else forward(inputs)


def _wrap(module: nn.Module) -> int:
    """Exchange one module's forward for the recomputing one and return its number of blocks."""
    present = vars(module).get("forward")
    if isinstance(present, _Block | _Segments):
        return present.count
    if present is not None or not _gains([module]):
        return 0
    forward = _Segments(module) if _is_sequential(module) else _Block(module)
    if forward.count:
        module.forward = forward
    return forward.count


def _recompute(forward: Callable[..., Any], modules: Sequence[nn.Module], /, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    buffers = [
        (layer, name, buffer)
        for module in modules
        for layer in module.modules()
        if layer.training
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    if not buffers:  # torch.compile takes no context_fn of ours
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, buffers), **kwargs)


Buffers = list[tuple[nn.Module, str, Tensor]]


def _contexts(buffers: Buffers) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _set_aside(buffers)


@contextmanager
def _set_aside(buffers: Buffers) -> Iterator[None]:
    """Let a forward change copies of the buffers, which the first forward has changed already."""
    for layer, name, buffer in buffers:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in buffers:
            setattr(layer, name, buffer)


def _children(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(child)
        else:
            yield child


def _is_sequential(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _gains(modules: Sequence[nn.Module]) -> bool:
    """Tell whether there are parameters, and layers inside whose results recomputing need not keep."""
    several = len(modules) > 1 or any(True for module in modules for _ in module.children())
    return several and any(True for module in modules for _ in module.parameters())
