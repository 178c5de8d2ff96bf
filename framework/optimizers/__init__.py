"""The registered optimizers."""

from framework.optimizers.adagrad import Adagrad
from framework.optimizers.adam import Adam, AdamW
from framework.optimizers.base import Optimizer
from framework.optimizers.rmsprop import RMSprop
from framework.optimizers.sgd import SGD, Momentum

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Momentum", "Optimizer", "RMSprop"]
