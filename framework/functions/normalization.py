"""What the norms share."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.functions.contract import Tensors, to_float32_in_autocast


def check_last(name: str, inputs: Tensor, weight: Tensor | None) -> None:
    """Raise ValueError where the weight is not of the last dimension's size."""
    if inputs.ndim == 0 or (weight is not None and weight.shape != inputs.shape[-1:]):
        got = "no weight" if weight is None else f"weight {tuple(weight.shape)}"
        raise ValueError(
            f"{name}: inputs must be (..., H) and weight (H,), got inputs {tuple(inputs.shape)} and {got}."
        )


def as_norms_in_autocast(inputs: Tensor, *others: *Tensors) -> tuple[Tensor, *Tensors]:
    """Return the tensors in the type in which torch's autocast runs norms: float32, on CPU that of the inputs."""
    return (inputs, *others) if inputs.device.type == "cpu" else to_float32_in_autocast(inputs, *others)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in the type; where it has it, in a tenth of the time of `Tensor.to`."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def widened(inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return all in the type of the inputs, at least float32, so that no statistic is kept in half precision."""
    wide = torch.promote_types(inputs.dtype, torch.float32)
    return (
        cast(inputs, wide),
        None if weight is None else cast(weight, wide),
        None if bias is None else cast(bias, wide),
    )
