"""The registered initializers, and the gain that suits each activation."""

from framework.initializers.base import Initializer, fans
from framework.initializers.gains import gain
from framework.initializers.he import HeNormal, HeUniform
from framework.initializers.orthogonal import Orthogonal
from framework.initializers.truncated_normal import TruncatedNormal
from framework.initializers.xavier import XavierNormal, XavierUniform
from framework.initializers.zeros import Zeros

__all__ = [
    "HeNormal",
    "HeUniform",
    "Initializer",
    "Orthogonal",
    "TruncatedNormal",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "fans",
    "gain",
]
