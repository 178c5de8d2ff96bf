"""Models that break a rule each."""

import itertools
import math

import torch
from torch import nn
from torch.nn.functional import batch_norm

from framework.registry import model

numbers = itertools.count()


class Two(nn.Module):
    """Two linear layers: nothing is wrong with them yet."""

    def __init__(self, input_shape, outputs) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(input_shape), 8)
        self.second = nn.Linear(8, outputs)

    def hidden(self, inputs):
        return self.first(inputs.flatten(1)).relu()

    def forward(self, inputs):
        return self.second(self.hidden(inputs))


@model("one_output_more")
class OneOutputMore(Two):
    breaks = ("model_outputs_have_their_shape",)

    def __init__(self, input_shape, outputs) -> None:
        super().__init__(input_shape, outputs + 1)


@model("unused_layer")
class UnusedLayer(Two):
    breaks = ("model_parameters_get_gradients",)

    def __init__(self, input_shape, outputs) -> None:
        super().__init__(input_shape, outputs)
        self.third = nn.Linear(2, 2)


@model("always_normalizes_by_batch")
class AlwaysNormalizesByBatch(Two):
    breaks = ("model_evaluates_each_example_alone",)

    def hidden(self, inputs):
        hidden = super().hidden(inputs)
        return batch_norm(hidden, None, None, training=True) if len(hidden) > 1 else hidden


@model("always_drops")
class AlwaysDrops(Two):
    breaks = ("model_evaluates_each_example_alone",)

    def hidden(self, inputs):
        return nn.functional.dropout(super().hidden(inputs), 0.5, training=True)


@model("faint")
class Faint(Two):
    breaks = ("model_learns",)

    def forward(self, inputs):
        return 1e-4 * super().forward(inputs)


@model("private_weights")
class PrivateWeights(Two):
    breaks = ("model_state_is_whole",)

    def __init__(self, input_shape, outputs) -> None:
        super().__init__(input_shape, outputs)
        self.scale = torch.rand(8)

    def hidden(self, inputs):
        return super().hidden(inputs) * self.scale


@model("numbered_layers")
class NumberedLayers(Two):
    breaks = ("model_names_are_canonical",)

    def __init__(self, input_shape, outputs) -> None:
        super().__init__(input_shape, outputs)
        self.name = f"third{next(numbers)}"
        self.add_module(self.name, nn.Linear(outputs, outputs))

    def forward(self, inputs):
        return getattr(self, self.name)(super().forward(inputs))


@model("foreign_branches")
class ForeignBranches(Two):
    breaks = ("model_residual_branches_are_its_own",)

    @property
    def residual_branches(self):
        return [nn.Linear(8, 8)]
