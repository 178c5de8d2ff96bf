"""Which hand-written function a layer is, and with what arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework.functions.average_pool import AveragePool2d
from framework.functions.batch_norm import BatchNorm, check_values_per_channel
from framework.functions.contract import Function
from framework.functions.convolution import Conv2d
from framework.functions.dropout import Dropout, draw_mask
from framework.functions.gelu import GELU
from framework.functions.layer_norm import LayerNorm
from framework.functions.linear import Linear
from framework.functions.max_pool import MaxPool2d
from framework.functions.relu import ReLU
from framework.functions.rms_norm import RMSNorm
from framework.functions.sigmoid import Sigmoid
from framework.functions.silu import SiLU
from framework.functions.softmax import Softmax
from framework.functions.tanh import Tanh
from framework.functions.window import pair
from framework.models import layers


@dataclass(slots=True)
class ByHand:
    """A function and its arguments, the layer's input first; the first of its outputs is the layer's.

    `observe` is shown all of them. A function that is `rowwise` takes its input as rows, (N, features).
    """

    function: type[Function]
    arguments: tuple[Any, ...]
    observe: Callable[[Any], None] | None = None
    rowwise: bool = False


class Reshape(Function):
    """y = x in another shape; ∂L/∂x = ∂L/∂y in the first."""

    @staticmethod
    def forward(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
        return inputs.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        return delta.reshape(ctx.shape) if ctx.needs_input_grad[0] else None, None


def _flatten(layer: nn.Flatten, inputs: Tensor) -> ByHand | None:
    last = layer.end_dim % inputs.ndim
    if layer.start_dim == last:
        return None
    shape = (*inputs.shape[: layer.start_dim], -1, *inputs.shape[last + 1 :])
    return ByHand(Reshape, (inputs, shape))


def _unflatten(layer: nn.Unflatten, inputs: Tensor) -> ByHand:
    dim = layer.dim % inputs.ndim
    return ByHand(Reshape, (inputs, (*inputs.shape[:dim], *layer.unflattened_size, *inputs.shape[dim + 1 :])))


def _dropout(layer: nn.Dropout, inputs: Tensor) -> ByHand | None:
    if not (layer.training and layer.p):
        return None
    return ByHand(Dropout, (inputs, draw_mask(inputs, layer.p), layer.p))


def _linear(layer: nn.Linear, inputs: Tensor) -> ByHand:
    held = layer._parameters  # layer.weight finds it there, four times as slowly
    return ByHand(Linear, (inputs, held["weight"], held["bias"]))


def _convolution(layer: nn.Conv2d, inputs: Tensor) -> ByHand:
    arguments = (inputs, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return ByHand(Conv2d, arguments)


def _max_pool(layer: nn.MaxPool2d, inputs: Tensor) -> ByHand:
    return ByHand(MaxPool2d, (inputs, *map(pair, (layer.kernel_size, layer.stride, layer.padding))))


def _average_pool(layer: nn.AvgPool2d, inputs: Tensor) -> ByHand:
    return ByHand(AveragePool2d, (inputs, *map(pair, (layer.kernel_size, layer.stride, layer.padding))))


def _softmax(layer: nn.Softmax, inputs: Tensor) -> ByHand:
    return ByHand(Softmax, (inputs, layer.dim))


def _rms_norm(layer: nn.RMSNorm, inputs: Tensor) -> ByHand:
    eps = torch.finfo(inputs.dtype).eps if layer.eps is None else layer.eps
    return ByHand(RMSNorm, (inputs, layer.weight, eps), rowwise=True)


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor) -> ByHand:
    return ByHand(LayerNorm, (inputs, layer.weight, layer.bias, layer.eps), rowwise=True)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor) -> ByHand:
    def move_statistics(outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        output, mean, variance = outputs
        if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
            return
        layer.num_batches_tracked.add_(1)
        share = layer.momentum if layer.momentum is not None else 1 / layer.num_batches_tracked
        count = output.numel() // output.shape[1]
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance * (count / (count - 1)), share)

    check_values_per_channel(inputs)
    return ByHand(BatchNorm, (inputs, layer.weight, layer.bias, layer.eps), move_statistics)


RULES: dict[type[nn.Module], Callable[[Any, Tensor], ByHand | None]] = {
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.Identity: lambda layer, inputs: None,
    nn.Linear: _linear,
    layers.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.Sigmoid: lambda layer, inputs: ByHand(Sigmoid, (inputs,)),
    nn.Tanh: lambda layer, inputs: ByHand(Tanh, (inputs,)),
    nn.ReLU: lambda layer, inputs: ByHand(ReLU, (inputs,)),
    nn.GELU: lambda layer, inputs: ByHand(GELU, (inputs, layer.approximate)),
    nn.SiLU: lambda layer, inputs: ByHand(SiLU, (inputs,)),
    nn.Softmax: _softmax,
    nn.Dropout: _dropout,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}
"""What each of torch's layers is by hand, on given inputs; None where it passes them on."""


def obstacle(layer: nn.Module) -> str:
    """Return why a layer cannot be run by hand, or nothing where it can."""
    name = type(layer).__name__
    if type(layer) not in RULES:
        return f"{name} has no hand-written backward"
    if has_hooks(layer):
        return f"{name} has hooks"
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return f"{name} pads by {layer.padding_mode if layer.padding_mode != 'zeros' else repr(layer.padding)}"
    if isinstance(layer, nn.MaxPool2d) and (
        layer.ceil_mode or layer.return_indices or layer.dilation not in (1, (1, 1))
    ):
        return f"{name} has ceil_mode, return_indices or a dilation"
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not layer.training:
        return f"{name} is frozen in evaluation mode"
    if isinstance(layer, nn.AvgPool2d) and (
        layer.ceil_mode or not layer.count_include_pad or layer.divisor_override is not None
    ):
        return f"{name} has ceil_mode, a divisor of its own, or does not count its padding"
    if isinstance(layer, nn.Softmax) and layer.dim is None:
        return f"{name} names no dimension"
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) > 1:
        return f"{name} normalises over {len(layer.normalized_shape)} dimensions"
    if isinstance(layer, nn.Unflatten) and not isinstance(layer.dim, int):
        return f"{name} names its dimension"
    return ""


def has_hooks(module: nn.Module) -> bool:
    """Tell whether anybody listens to a module's passes, or to its own parameters' gradients."""
    return any(hooks_of(module)) or any(map(is_heard, module.parameters(recurse=False)))


def hooks_of(module: nn.Module) -> list[dict[int, Any]]:
    """Return where a module keeps those who listen to its passes; the mappings stay the same ones."""
    kept: list[Any] = [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]
    return kept


def is_heard(parameter: nn.Parameter) -> bool:
    """Tell whether anybody listens to a parameter's gradient."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
