"""Functions whose backward passes are written by hand: each with its derivation, proven against differentiation."""

from framework.functions.average_pool import average_pool2d
from framework.functions.batch_norm import batch_norm
from framework.functions.bce import bce
from framework.functions.bce_logits import bce_logits
from framework.functions.contract import FUNCTIONS, Call, Function, HandWritten, hand_written
from framework.functions.convolution import conv2d
from framework.functions.cross_entropy import cross_entropy
from framework.functions.distillation import distillation
from framework.functions.dropout import dropout
from framework.functions.embedding import embedding
from framework.functions.focal import focal
from framework.functions.gelu import gelu
from framework.functions.gelu_mlp import gelu_mlp
from framework.functions.gradient_reversal import gradient_reversal
from framework.functions.huber import huber
from framework.functions.info_nce import info_nce
from framework.functions.l2 import l2
from framework.functions.layer_norm import layer_norm
from framework.functions.linear import linear
from framework.functions.linear_cross_entropy import linear_cross_entropy
from framework.functions.max_pool import max_pool2d
from framework.functions.mse import mse
from framework.functions.relu import relu
from framework.functions.residual_rms_norm import residual_rms_norm
from framework.functions.rms_norm import rms_norm
from framework.functions.sigmoid import sigmoid
from framework.functions.silu import silu
from framework.functions.softmax import softmax
from framework.functions.straight_through import straight_through
from framework.functions.swiglu import swiglu
from framework.functions.swiglu_down import swiglu_down
from framework.functions.tanh import tanh

__all__ = [
    "FUNCTIONS",
    "Call",
    "Function",
    "HandWritten",
    "average_pool2d",
    "batch_norm",
    "bce",
    "bce_logits",
    "conv2d",
    "cross_entropy",
    "distillation",
    "dropout",
    "embedding",
    "focal",
    "gelu",
    "gelu_mlp",
    "gradient_reversal",
    "hand_written",
    "huber",
    "info_nce",
    "l2",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "max_pool2d",
    "mse",
    "relu",
    "residual_rms_norm",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
    "straight_through",
    "swiglu",
    "swiglu_down",
    "tanh",
]
