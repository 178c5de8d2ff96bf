"""The hinge loss over several classes."""

from __future__ import annotations

from torch import Tensor, nn

from framework.registry import Positive, loss


@loss("hinge")
class Hinge(nn.Module):
    """Multi-class hinge loss: the right class's score is to beat every other's by a margin.

    L = (1/N) Σₙ (1/C) Σ_{c ≠ yₙ} max(0, margin − x_n,yₙ + x_nc), for scores (..., C) and class indices (...); other
    shapes raise ValueError. The same as torch.nn.MultiMarginLoss with p=1; for two classes with labels ±1, give the
    scores (−x/2, x/2) and twice the loss is the binary max(0, margin − y x).
    Source: Weston and Watkins (1999), Support Vector Machines for Multi-Class Pattern Recognition.
    """

    def __init__(self, *, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean over rows, 0-d."""
        if prediction.shape[:-1] != target.shape or target.is_floating_point() or not prediction.ndim:
            raise ValueError(
                f"Hinge: prediction must be (..., classes) and target class indices (...), got "
                f"{tuple(prediction.shape)} and {target.dtype} {tuple(target.shape)}."
            )
        right = target.long().unsqueeze(-1)
        slack = (self.margin - prediction.gather(-1, right) + prediction).relu().scatter(-1, right, 0.0)
        return slack.mean(-1).mean()

    def weight(self, target: Tensor) -> int:
        """Return the number of rows."""
        return target.numel()
