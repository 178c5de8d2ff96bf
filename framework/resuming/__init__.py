"""Exact resume: all that a run's future depends on, out of a trainer and back into one."""

from framework.resuming.state import load_snapshot, take_snapshot

__all__ = ["load_snapshot", "take_snapshot"]
