"""Listeners to the loop."""

from framework.callbacks.base import Callback
from framework.callbacks.notes import note
from framework.callbacks.progress import ProgressBar

__all__ = ["Callback", "ProgressBar", "note"]
