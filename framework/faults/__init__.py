"""What can go wrong inside a step: numbers that are none, losses that leap, memory that runs out."""

from framework.faults.guard import Guard, Policy, gradient_norms
from framework.faults.memory import MicroBatches, explain_memory, is_out_of_memory

__all__ = ["Guard", "MicroBatches", "Policy", "explain_memory", "gradient_norms", "is_out_of_memory"]
