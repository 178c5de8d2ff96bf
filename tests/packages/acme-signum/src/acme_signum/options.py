"""Types of options that several components have."""

from typing import Annotated

from framework.registry import Range

Momentum = Annotated[float, Range(0, 1, "[)")]
Exponent = Annotated[float, Range(0, 1, "(]")]
