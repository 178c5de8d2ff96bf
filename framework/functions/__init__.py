"""Functions whose backward passes are written by hand: each with its derivation, proven against differentiation."""

from framework.functions.average_pool import average_pool2d
from framework.functions.bce import bce
from framework.functions.bce_logits import bce_logits
from framework.functions.contract import FUNCTIONS, Call, Function, HandWritten, hand_written
from framework.functions.convolution import conv2d
from framework.functions.dropout import dropout
from framework.functions.embedding import embedding
from framework.functions.gelu import gelu
from framework.functions.gradient_reversal import gradient_reversal
from framework.functions.huber import huber
from framework.functions.l2 import l2
from framework.functions.linear import linear
from framework.functions.max_pool import max_pool2d
from framework.functions.mse import mse
from framework.functions.relu import relu
from framework.functions.sigmoid import sigmoid
from framework.functions.silu import silu
from framework.functions.softmax import softmax
from framework.functions.straight_through import straight_through
from framework.functions.tanh import tanh

__all__ = [
    "FUNCTIONS",
    "Call",
    "Function",
    "HandWritten",
    "average_pool2d",
    "bce",
    "bce_logits",
    "conv2d",
    "dropout",
    "embedding",
    "gelu",
    "gradient_reversal",
    "hand_written",
    "huber",
    "l2",
    "linear",
    "max_pool2d",
    "mse",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "straight_through",
    "tanh",
]
