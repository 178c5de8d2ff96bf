"""The registered optimizers, and what one is written with."""

from framework.optimizers.adagrad import Adagrad
from framework.optimizers.adam import Adam, AdamW, adam_step
from framework.optimizers.base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    Tensors,
    add_l2,
    count_step,
    decay_weights,
    slots,
)
from framework.optimizers.rmsprop import RMSprop
from framework.optimizers.sgd import SGD, Momentum

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Momentum",
    "Optimizer",
    "ParamsT",
    "RMSprop",
    "State",
    "Tensors",
    "adam_step",
    "add_l2",
    "count_step",
    "decay_weights",
    "slots",
]
