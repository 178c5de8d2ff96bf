"""The registered schedulers: step -> multiplier of the base learning rate."""

from framework.schedulers.base import Scheduler
from framework.schedulers.constant import Constant
from framework.schedulers.cosine import Cosine, CosineRestarts
from framework.schedulers.decay import Exponential, MultiStep, Step
from framework.schedulers.inverse_sqrt import InverseSqrt
from framework.schedulers.linear import Linear, Polynomial
from framework.schedulers.one_cycle import OneCycle
from framework.schedulers.plateau import Plateau
from framework.schedulers.warmup import WarmupCosine, WarmupLinear, WarmupStableDecay

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Scheduler",
    "Step",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupStableDecay",
]
