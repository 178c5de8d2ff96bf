"""Muon, with AdamW for what is no hidden matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from framework.errors import ConfigError, nearest
from framework.optimizers import Group, Optimizer, ParamsT, State, Tensors, adam_step, decay_weights, slots
from framework.parameters import bare_model, named_parameters
from framework.registry import Count, NonNegative, Probability, optimizer

SLOPE, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
"""The polynomial of a Newton-Schulz step, p(s) = 3.4445s − 4.7750s³ + 2.0315s⁵ of every singular value s."""


@optimizer("muon")
class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz for hidden matrices, AdamW for everything else.

    m ← μm + (1−μ)g, u = (1−μ)g + μm with `nesterov`, else m, and w ← w − ηλw − ηs·O, where O is u with all its
    singular values brought near 1: from X = u/‖u‖, `newton_schulz_steps` times X ← aX + (bA + cA²)X, A = XXᵀ, in
    bfloat16. Jordan et al. (2024), kellerjordan.github.io/posts/muon. The scale s, by `adjust_lr` in torch's words:
    `original` √max(1, rows/columns), theirs; `match_rms_adamw` 0.2√max(rows, columns), with which learning rates tuned
    for AdamW can stay (Liu et al., 2025, arXiv:2502.16982, section 2.2).

    Hidden matrices are parameters of two dimensions or more, convolution kernels flattened to a row for each output
    channel, of at least two rows and columns. Not among them are embeddings and what is tied to one, the output layer,
    which is the model's last module with parameters, and parameters whose name matches a pattern
    of `exclude`, as in shell globs. These, biases and normalisations are AdamW's, with `adamw_lr` in place of `lr`;
    multipliers and schedules act on both alike. The decay λ is `weight_decay` for both.
    Raises ConfigError for a pattern that matches no parameter of `model`.
    """

    # the kit seeks a rate for `lr`; what is AdamW's has to come as far in its few steps
    kit_options: ClassVar = {"adamw_lr": 0.1}

    def __init__(
        self,
        params: ParamsT,
        model: nn.Module,
        *,
        lr: NonNegative = 0.02,
        momentum: Probability = 0.95,
        nesterov: bool = True,
        weight_decay: NonNegative = 0.0,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original",
        newton_schulz_steps: Count = 5,
        adamw_lr: NonNegative = 1e-3,
        adamw_betas: tuple[Probability, Probability] = (0.9, 0.95),
        adamw_eps: NonNegative = 1e-8,
        exclude: Sequence[str] = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "adjust_lr": adjust_lr,
            "newton_schulz_steps": newton_schulz_steps,
            "betas": adamw_betas,
            "eps": adamw_eps,
            "orthogonal": False,
        }
        self.hidden = _hidden_matrices(model, exclude)
        self.ratio = adamw_lr / lr if lr else 0.0
        super().__init__(params, defaults)
        # those of Muon first: the rate that a run shows is the first group's
        self.param_groups.sort(key=lambda group: not group["orthogonal"])

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as one of hidden matrices and one of what is AdamW's."""
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for part in ({**group, "orthogonal": True}, {**group, "orthogonal": False, "lr": group["lr"] * self.ratio}):
            belongs = [(param in self.hidden) == part["orthogonal"] for param in group["params"]]
            for key in {"params", "param_names"} & group.keys():
                part[key] = [item for item, here in zip(group[key], belongs, strict=True) if here]
            if part["params"]:
                self.param_groups.append(part)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take Muon's step on a group of hidden matrices, AdamW's on another."""
        decay_weights(group, params)
        if not group["orthogonal"]:
            adam_step(group, params, grads, states)
            return
        momentum = group["momentum"]
        means = slots("momentum_buffer", params, states)
        torch._foreach_lerp_(means, grads, 1 - momentum)
        directions = torch._foreach_lerp(grads, means, momentum) if group["nesterov"] else means
        matrices = orthogonalize([d.flatten(1) for d in directions], group["newton_schulz_steps"])
        updates = [m.to(p.dtype).view_as(p) for m, p in zip(matrices, params, strict=True)]
        torch._foreach_mul_(updates, [-group["lr"] * _scale(m, group["adjust_lr"]) for m in matrices])
        torch._foreach_add_(params, updates)


def orthogonalize(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """Bring the singular values of matrices near 1, in bfloat16; those of one shape go through together."""
    places: dict[tuple[torch.Size, torch.device], list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        places[matrix.shape, matrix.device].append(place)
    found: dict[int, Tensor] = {}
    for same in places.values():
        stack = torch.stack([matrices[place].bfloat16() for place in same])
        found |= zip(same, _newton_schulz(stack, steps).unbind(), strict=True)
    return [found[place] for place in range(len(matrices))]


def _newton_schulz(stack: Tensor, steps: int) -> Tensor:
    """Iterate X ← aX + (bA + cA²)X, A = XXᵀ, on matrices (N, rows, columns), with XXᵀ the smaller square."""
    tall = stack.shape[1] > stack.shape[2]
    X = stack.mT if tall else stack
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=CUBIC, alpha=QUINTIC)
        X = torch.baddbmm(X, B, X, beta=SLOPE)
    return X.mT if tall else X


def _scale(matrix: Tensor, adjust_lr: str) -> float:
    """Return what the learning rate of a matrix is multiplied by."""
    rows, columns = matrix.shape
    return math.sqrt(max(1, rows / columns)) if adjust_lr == "original" else 0.2 * math.sqrt(max(rows, columns))


def _hidden_matrices(model: nn.Module, exclude: Sequence[str]) -> set[nn.Parameter]:
    """Return the parameters of a model that are Muon's."""
    named = named_parameters(model)
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ConfigError(
                f"optimizer.exclude: {pattern!r} matches no trainable parameter: {nearest(pattern, named)}"
            )
    bare = bare_model(model)
    layers = [m for m in bare.modules() if m is not bare and any(True for _ in m.parameters(recurse=False))]
    others = {id(m.weight) for m in layers if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    others |= {id(getattr(m, "weight", None)) for m in layers[-1:]}
    return {
        param
        for name, param in named.items()
        if param.ndim > 1
        and min(param.shape[0], param[0].numel()) > 1
        and id(param) not in others
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
