"""The contrastive loss of pairs, over tiles of the scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from framework.functions.contract import Call, Function, hand_written, pull_back, to_autocast_dtype
from framework.functions.opaque import opaque
from framework.functions.reduction import Reduction, check_reduction, reduce

ROWS = 256
"""Rows of the scores that are held at once: memory then grows as N, not as N²."""


class InfoNCE(Function):
    """S = Q Kᵀ / τ; lᵢ = ½ [(log Σⱼ e^Sᵢⱼ − Sᵢᵢ) + (log Σⱼ e^Sⱼᵢ − Sᵢᵢ)], or the first term alone, undivided.

    With δᵢ = ∂L/∂lᵢ, which is 1/N for the mean, and Prow, Pcol the softmax of S over its rows and its columns:
    ∂L/∂S = ½ (δᵢ Prow + δⱼ Pcol − 2 δᵢ I), so that ∂L/∂Q = ½ τ⁻¹ (Prow + Pcol − 2 I) K / N; ∂L/∂K is its transpose
    times Q, and ∂L/∂τ = −τ⁻¹ Σ Q ∘ ∂L/∂Q. N pairs, D features: Q, K (N, D), l (N,). The scores are made again in the
    backward; kept are log Σ e^S of rows and columns, a column's from its running maximum over the tiles of rows.
    Source: van den Oord et al. (2018), arXiv:1807.03748, equation 4; both ways as in Radford et al. (2021),
    arXiv:2103.00020, figure 3.
    """

    @staticmethod
    def forward(
        queries_ND: Tensor, keys_ND: Tensor, temperature: Tensor, symmetric: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        losses_N, rows_N, columns_N = _losses(queries_ND, keys_ND, temperature, symmetric)
        return losses_N, rows_N, columns_N

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.symmetric = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, delta_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        queries_ND, keys_ND, temperature, rows_N, columns_N = ctx.saved_tensors
        inputs = (queries_ND, keys_ND, temperature, ctx.symmetric)
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return pull_back(_reference_losses, inputs, needed, delta_N)
        found = _gradients(delta_N, *inputs, rows_N, columns_N, *needed[:3])
        return (*(gradient if need else None for gradient, need in zip(found, needed[:3], strict=True)), None)


def _fake_losses(queries: Tensor, keys: Tensor, temperature: Tensor, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(queries.dtype, torch.float32)
    losses, rows, columns = (queries.new_empty(len(queries), dtype=wide) for _ in range(3))
    return losses, rows, columns


@opaque(
    "info_nce_losses(Tensor queries, Tensor keys, Tensor temperature, bool symmetric) -> (Tensor, Tensor, Tensor)",
    fake=_fake_losses,
)
def _losses(queries_ND: Tensor, keys_ND: Tensor, temperature: Tensor, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    positives_N, rows_N, sums_N = _fake_losses(queries_ND, keys_ND, temperature, symmetric)
    maxima_N = torch.full_like(rows_N, -torch.inf)
    sums_N.zero_()
    for start in range(0, len(queries_ND), ROWS):
        tile = slice(start, start + ROWS)
        scores_RN = ((queries_ND[tile] / temperature) @ keys_ND.t()).to(rows_N.dtype)
        positives_N[tile] = scores_RN.diagonal(start)
        rows_N[tile] = scores_RN.logsumexp(1)
        if symmetric:
            before_N, maxima_N = maxima_N, torch.maximum(maxima_N, scores_RN.amax(0))
            sums_N.mul_((before_N - maxima_N).exp_()).add_(scores_RN.sub_(maxima_N).exp_().sum(0))
    columns_N = maxima_N.add_(sums_N.log_())
    return ((rows_N + columns_N) / 2 if symmetric else rows_N) - positives_N, rows_N, columns_N


def _fake_gradients(
    delta: Tensor, queries: Tensor, keys: Tensor, temperature: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (queries, keys, temperature)
    of_queries, of_keys, of_temperature = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if need else t.new_empty(0)
        for t, need in zip(inputs, rest[-3:], strict=True)
    )
    return of_queries, of_keys, of_temperature


@opaque(
    "info_nce_gradients(Tensor delta, Tensor queries, Tensor keys, Tensor temperature, bool symmetric, Tensor rows, "
    "Tensor columns, bool for_queries, bool for_keys, bool for_temperature) -> (Tensor, Tensor, Tensor)",
    fake=_fake_gradients,
)
def _gradients(
    delta_N: Tensor,
    queries_ND: Tensor,
    keys_ND: Tensor,
    temperature: Tensor,
    symmetric: bool,
    rows_N: Tensor,
    columns_N: Tensor,
    for_queries: bool,
    for_keys: bool,
    for_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needed = (for_queries, for_keys, for_temperature)
    of_queries, _, _ = _fake_gradients(delta_N, queries_ND, keys_ND, temperature, *needed)
    of_keys = torch.zeros_like(keys_ND, dtype=rows_N.dtype, memory_format=torch.contiguous_format)
    of_temperature = rows_N.new_zeros(())
    half_N = delta_N / 2 if symmetric else delta_N
    for start in range(0, len(queries_ND), ROWS):
        tile = slice(start, start + ROWS)
        scaled_RD = queries_ND[tile] / temperature
        scores_RN = (scaled_RD @ keys_ND.t()).to(rows_N.dtype)
        slopes_RN = (scores_RN - rows_N[tile, None]).exp_().mul_(half_N[tile, None])
        if symmetric:
            slopes_RN.addcmul_(scores_RN.sub_(columns_N).exp_(), half_N)
        slopes_RN.diagonal(start).sub_(delta_N[tile])
        slopes_RN = slopes_RN.to(queries_ND.dtype)
        if for_queries or for_temperature:
            of_tile_RD = (slopes_RN @ keys_ND).div_(temperature)
            if for_queries:
                of_queries[tile] = of_tile_RD
            if for_temperature:
                of_temperature.sub_((scaled_RD.to(rows_N.dtype) * of_tile_RD).sum())
        if for_keys:
            if of_keys.dtype == slopes_RN.dtype:
                of_keys.addmm_(slopes_RN.t(), scaled_RD)
            else:
                of_keys.add_(slopes_RN.t() @ scaled_RD)
    return (
        of_queries,
        of_keys.to(keys_ND.dtype) if for_keys else keys_ND.new_empty(0),
        of_temperature.to(temperature) if for_temperature else temperature.new_empty(0),
    )


def _reference_losses(queries: Tensor, keys: Tensor, temperature: Tensor, symmetric: bool) -> Tensor:
    losses = _reference(queries, keys, temperature=temperature, symmetric=symmetric, reduction="none")
    return losses.to(torch.promote_types(queries.dtype, torch.float32))


def _reference(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = True,
    reduction: str = "mean",
) -> Tensor:
    scores = queries @ keys.t() / temperature
    labels = torch.arange(len(queries), device=queries.device)
    loss = cross_entropy(scores, labels, reduction=reduction)
    return (loss + cross_entropy(scores.t(), labels, reduction=reduction)) / 2 if symmetric else loss


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    learned = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    return {
        "symmetric": Call((draw(6, 4), draw(6, 4)), {"temperature": 0.7}),
        "one way": Call((draw(6, 4), draw(6, 4)), {"temperature": 0.7, "symmetric": False, "reduction": "none"}),
        "learned temperature": Call((draw(5, 3), draw(5, 3)), {"temperature": learned}),
        "more than a tile": Call((draw(ROWS + 2, 2), draw(ROWS + 2, 2)), {"temperature": 1.0, "reduction": "sum"}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    pairs, features = 2048, 16
    queries, keys = (torch.randn(pairs, features, generator=generator).requires_grad_() for _ in range(2))
    return Call((queries, keys)), pairs * pairs


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=0)
def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the contrastive loss of the pairs (qᵢ, kᵢ) among all N keys, and among all N queries where symmetric.

    (N, D) and (N, D), used as they are given: normalize them before if the scores are to be cosines -> 0-d, or (N,)
    with reduction="none". A 0-d tensor as temperature receives a gradient. ValueError where shapes differ, and for a
    temperature that is not above 0.
    """
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            f"info_nce: queries and keys must both be (N, D), got {tuple(queries.shape)} and {tuple(keys.shape)}."
        )
    check_reduction("info_nce", reduction)
    given = queries.dtype
    queries, keys = to_autocast_dtype(queries, keys)
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(f"info_nce: temperature must be a number or 0-d, got shape {tuple(temperature.shape)}.")
    elif temperature > 0:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        temperature = torch.full((), temperature, dtype=dtype, device=queries.device)
    else:
        raise ValueError(f"info_nce: temperature must be above 0, got {temperature}.")
    losses: Tensor = InfoNCE.apply(queries, keys, temperature, symmetric)[0]
    return reduce(losses, reduction).to(given)
