"""Regularizers: what keeps the model honest."""

from framework.regularizers.base import NamedParams, Regularizer
from framework.regularizers.dropout import Dropout
from framework.regularizers.gradient_noise import GradientNoise
from framework.regularizers.input_noise import InputNoise
from framework.regularizers.l1 import L1
from framework.regularizers.l2 import L2
from framework.regularizers.max_norm import MaxNorm
from framework.regularizers.mixup import Mixup
from framework.regularizers.pairs import as_numbers, as_pair
from framework.regularizers.weight_decay import WeightDecay

__all__ = [
    "L1",
    "L2",
    "Dropout",
    "GradientNoise",
    "InputNoise",
    "MaxNorm",
    "Mixup",
    "NamedParams",
    "Regularizer",
    "WeightDecay",
    "as_numbers",
    "as_pair",
]
