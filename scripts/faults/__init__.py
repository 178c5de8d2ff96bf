"""Faults, and a training that must come through them: the parts of scripts/torture.py."""
