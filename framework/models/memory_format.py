"""The order of images in memory: their channels last, which convolutions and poolings on CPUs want."""

from __future__ import annotations

import torch
from torch import nn


def channels_last(model: nn.Module) -> bool:
    """Put the weights of a model's 2-D convolutions in channels_last order; return whether it has any.

    A convolution's output takes the order of its weight, whatever that of its input, and what follows keeps it.
    Shapes, names and values stay what they are.
    """
    found = False
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            found = True
            weight = module.weight.data
            # .contiguous() would leave the weight of one input channel alone, whose order is either
            module.weight.data = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)
    return found
