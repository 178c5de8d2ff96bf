"""A module that takes its time."""

import time

from framework.losses import MSE
from framework.registry import loss

time.sleep(0.3)


@loss("slow_import")
class SlowImport(MSE):
    breaks = ("imports_in_time",)
