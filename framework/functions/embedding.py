"""The embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written


class Embedding(Function):
    """y[n] = W[i[n]]; with δ = ∂L/∂y: ∂L/∂W[v] = Σ δ[n] over the n with i[n] = v.

    N indices, V rows, D features: i (N,), W (V, D) -> (N, D). The indices are what is kept, and sums are taken in at
    least float32. The row of `padding_idx` gets gradient 0 by declaration, as if what is read from it were a constant:
    there the gradient is a surrogate. Source: Bengio et al. (2003), JMLR 3:1137-1155, section 2.
    """

    @staticmethod
    def forward(indices_N: Tensor, weight_VD: Tensor, padding_idx: int | None) -> Tensor:
        return weight_VD.index_select(0, indices_N)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.rows = inputs[1].shape[0]
        ctx.padding_idx = inputs[2]

    @staticmethod
    def backward(ctx: Any, delta_ND: Tensor) -> tuple[Tensor | None, ...]:
        (indices_N,) = ctx.saved_tensors
        terms_ND = delta_ND.to(torch.promote_types(delta_ND.dtype, torch.float32))
        sums_VD = terms_ND.new_zeros(ctx.rows, terms_ND.shape[1]).index_add_(0, indices_N, terms_ND)
        if ctx.padding_idx is not None:
            sums_VD[ctx.padding_idx] = 0
        return None, sums_VD.to(delta_ND.dtype), None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw() -> Tensor:
        return torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "repeated": Call((torch.tensor([4, 0, 4, 4, 1]), draw())),
        "padded": Call((torch.tensor([[2, 0, 2], [0, 0, 3]]), draw()), {"padding_idx": 0}),
        "padded from the end": Call((torch.tensor([4, 1, 4]), draw()), {"padding_idx": -1}),
        "one": Call((torch.tensor(3), draw())),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    indices = torch.randint(64, (8192,), generator=generator)
    return Call((indices, nn.Parameter(torch.randn(64, 16, generator=generator)))), indices.numel()


def _constant_padding(indices: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return the rows, with zeros for the padding."""
    rows = nn.functional.embedding(indices, weight)
    if padding_idx is None:
        return rows
    return rows.masked_fill((indices == padding_idx % weight.shape[0]).unsqueeze(-1), 0)


@hand_written(
    reference=nn.functional.embedding,
    examples=_examples,
    large=_large,
    saved_bytes=8,
    nature="surrogate",
    surrogate=_constant_padding,
)
def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return the rows of weight that the indices name: (...,) and (V, D) -> (..., D).

    The row `padding_idx`, counted from the end where negative, gets gradient 0. Raises ValueError where the weight is
    not (V, D), the indices are not integers, or there is no such row.
    """
    if weight.ndim != 2 or indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"embedding: indices must be int32 or int64 and weight (V, D), got {indices.dtype} and "
            f"{tuple(weight.shape)}."
        )
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise ValueError(f"embedding: padding_idx must be one of the {rows} rows of weight, got {padding_idx}.")
    output: Tensor = Embedding.apply(indices.reshape(-1), weight, padding_idx)
    return output.view(*indices.shape, weight.shape[1])
