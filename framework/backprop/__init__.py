"""How the gradients of a micro-batch come to be: by hand, layer by layer, or by autograd."""

from framework.backprop.layers import is_heard
from framework.backprop.manual import Manual
from framework.backprop.passes import Autograd, Pass, choose

__all__ = ["Autograd", "Manual", "Pass", "choose", "is_heard"]
