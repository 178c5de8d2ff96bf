"""The layers of the registered models that are more than torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch._jit_internal import is_scripting

from framework.functions.linear import faster_linear


class Linear(nn.Linear):
    """torch.nn.Linear in all but its kernels: z = a Wᵀ + b and its gradients by the faster one; see faster_linear."""

    def forward(self, input: Tensor) -> Tensor:  # as torch.nn.Linear has it
        """Return z: (..., I) -> (..., O)."""
        if is_scripting():
            return nn.functional.linear(input, self.weight, self.bias)
        else:  # noqa: RET505  # what a script does not compile
            return faster_linear(input, self.weight, self.bias)


@contextlib.contextmanager
def faster_linears(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Make the layers of a model that are torch.nn.Linear, and no class of their own, a Linear inside.

    They stay the same objects, with their parameters, buffers, hooks and names.
    """
    found: list[nn.Module] = [layer for layer in model.modules() if type(layer) is nn.Linear] if wanted else []
    for layer in found:
        layer.__class__ = Linear
    try:
        yield
    finally:
        still: list[nn.Module] = [layer for layer in found if type(layer) is Linear]
        for layer in still:
            layer.__class__ = nn.Linear
