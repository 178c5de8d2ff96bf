"""The registered models."""

from framework.models.activations import Activation
from framework.models.checkpointing import checkpoint_blocks
from framework.models.convnet import ConvNet
from framework.models.layered import Layered
from framework.models.linear import Linear
from framework.models.mlp import MLP
from framework.models.norms import Norm
from framework.models.transformer import Transformer

__all__ = ["MLP", "Activation", "ConvNet", "Layered", "Linear", "Norm", "Transformer", "checkpoint_blocks"]
