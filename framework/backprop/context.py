"""What stands in for autograd's context where there is no autograd."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Context:
    """What a function's forward keeps for its backward, where autograd keeps nothing."""

    needs_input_grad: tuple[bool, ...] = ()
    destinations: tuple[Tensor | None, ...] = ()
    """For each input, the memory that its gradient is to be written to, or None; a function may leave it unused."""
    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Do nothing: nobody asks for their gradients."""

    def set_materialize_grads(self, value: bool) -> None:
        """Do nothing: a gradient that is not there is None."""
