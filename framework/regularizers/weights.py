"""What regularizers of the weights share: how strong, and which parameters they spare."""

from __future__ import annotations

from torch import Tensor, nn

from framework.errors import ConfigError
from framework.parameters import exempt_from_decay, named_parameters
from framework.registry import NonNegative
from framework.regularizers.base import NamedParams, Regularizer


class WeightRegularizer(Regularizer):
    """Acts on every trainable parameter; with `exempt`, biases and normalisation parameters are spared."""

    def __init__(self, *, strength: NonNegative = 1e-4, exempt: bool = True) -> None:
        self.strength = strength
        self.exempt = exempt
        self.spared: frozenset[str] | None = None

    def prepare(self, model: nn.Module) -> None:
        """Remember which parameters are spared; raise ConfigError where none is left."""
        self.spared = frozenset(exempt_from_decay(model)) if self.exempt else frozenset()
        if not self.chosen(named_parameters(model)):
            raise ConfigError(
                f"{type(self).__name__}: the model has no trainable weights beside biases and normalisation "
                f"parameters: say exempt=false to act on those, or leave it out."
            )

    def chosen(self, params: NamedParams) -> dict[str, nn.Parameter]:
        """Return the parameters that are not spared."""
        assert self.spared is not None, "prepare comes first"
        return {name: param for name, param in params.items() if name not in self.spared}

    def weights(self, model: nn.Module) -> list[Tensor]:
        """Return the weights of a model that are not spared."""
        return list(self.chosen(named_parameters(model)).values())
