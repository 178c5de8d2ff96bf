"""The registered schedulers, step -> multiplier of the base learning rate, and what one is written with."""

from framework.schedulers.base import Bounded, Clocked, Scheduler, Unit
from framework.schedulers.constant import Constant
from framework.schedulers.cosine import Cosine, CosineRestarts
from framework.schedulers.decay import Exponential, MultiStep, Step
from framework.schedulers.inverse_sqrt import InverseSqrt
from framework.schedulers.linear import Linear, Polynomial
from framework.schedulers.one_cycle import OneCycle
from framework.schedulers.plateau import Plateau
from framework.schedulers.warmup import WarmupCosine, WarmupLinear, WarmupStableDecay

__all__ = [
    "Bounded",
    "Clocked",
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
    "Unit",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupStableDecay",
]
