"""The training loop."""

from framework.trainer.loop import Trainer

__all__ = ["Trainer"]
