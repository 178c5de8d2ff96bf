"""CutMix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta

from framework.batching import Batch
from framework.registry import Positive, regularizer
from framework.regularizers import Regularizer, as_numbers, as_pair


@regularizer("cutmix")
class CutMix(Regularizer):
    """Trains on images with a box pasted from another one, and on both their targets by area.

    y ← λy + (1 − λ)y', where x is x' inside a box of (1 − λ) of its area, and (x', y') is the same batch in random
    order. λ ~ Beta(α, α), α being `alpha`; the box's sides are √(1 − λ) of the image's, in whole pixels, its centre is
    uniform, and what lies outside the image is cut off, after which λ is taken from the area that is left. One λ and
    one box a batch. Images (N, H, W) or (N, C, H, W); class indices (N,) become probabilities (N, `outputs`), which
    cross_entropy takes; with one output, they become numbers. Other batches raise ValueError.
    Source: Yun et al. (2019), arXiv:1905.04899, equations 1 and 2, with α = 1.
    """

    def __init__(self, outputs: int, *, alpha: Positive = 1.0) -> None:
        self.outputs = outputs
        self.share = Beta(alpha, alpha, validate_args=False)

    def on_batch(self, batch: Batch) -> Batch:
        """Return the mixed batch."""
        images, target = as_pair(batch, "cutmix")
        if not isinstance(images, Tensor) or images.ndim not in (3, 4):
            got = tuple(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise ValueError(
                f"regularizer 'cutmix' needs images (N, H, W) or (N, C, H, W), got {got}: leave it out, or take mixup."
            )
        order = torch.randperm(len(target), device=target.device)
        rows, columns = self._box(*images.shape[-2:])
        mixed = images.clone()
        mixed[..., rows, columns] = images[order][..., rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / images[0].shape[-1] / images.shape[-2]
        target = as_numbers(target, self.outputs)
        return mixed, (1 - pasted) * target + pasted * target[order]

    def _box(self, height: int, width: int) -> tuple[slice, slice]:
        """Draw the box; on the CPU, where reading it waits for no device."""
        side = float((1 - self.share.sample()).sqrt())

        def span(length: int) -> slice:
            extent = int(length * side)
            start = int(torch.randint(length, ())) - extent // 2
            return slice(max(start, 0), min(start + extent, length))

        return span(height), span(width)
