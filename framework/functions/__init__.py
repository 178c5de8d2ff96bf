"""Functions whose backward passes are written by hand: each with its derivation, proven against differentiation."""

from framework.functions.contract import FUNCTIONS, Call, Function, HandWritten, hand_written
from framework.functions.linear import linear

__all__ = [
    "FUNCTIONS",
    "Call",
    "Function",
    "HandWritten",
    "hand_written",
    "linear",
]
