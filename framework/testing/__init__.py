"""What authors of plugins run against their own functions and modules."""

from framework.testing.gradients import assert_gradients

__all__ = ["assert_gradients"]
