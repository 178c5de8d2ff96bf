"""Dropout."""

from __future__ import annotations

from torch import nn

from framework.errors import ConfigError
from framework.registry import Probability, regularizer
from framework.regularizers.base import Regularizer

LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@regularizer("dropout")
class Dropout(Regularizer):
    """Sets the rate of a model's dropout layers: the fraction of outputs silenced in each training step.

    h ← m h / (1 − p) with m ~ Bernoulli(1 − p) in training, and h ← h in evaluation; p is `rate`.
    Source: Srivastava et al. (2014), JMLR 15:1929-1958, in the inverted form of its section 10.
    """

    def __init__(self, *, rate: Probability = 0.5) -> None:
        self.rate = rate

    def prepare(self, model: nn.Module) -> None:
        """Set the rates; raise ConfigError where the model has no dropout layer."""
        layers = [module for module in model.modules() if isinstance(module, LAYERS)]
        if not layers:
            raise ConfigError(
                f"regularizer.dropout: {type(model).__name__} has no dropout layer to set to {self.rate:g}: choose a "
                f"model that takes model.dropout=..., or put nn.Dropout layers into it."
            )
        for layer in layers:
            layer.p = self.rate
