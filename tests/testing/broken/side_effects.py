"""A module that seeds everybody's random numbers as it is imported."""

import random

from framework.losses import MSE
from framework.registry import loss

random.seed(0)


@loss("seeds_at_import")
class SeedsAtImport(MSE):
    breaks = ("imports_without_side_effects",)
