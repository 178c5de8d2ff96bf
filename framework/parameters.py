"""Which parameters decay, and at what multiple of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import ConfigError, nearest


@dataclass(frozen=True)
class GroupOptions:
    """How an optimizer's parameters are grouped.

    `decay_exempt` spares biases and normalisation parameters from weight decay. The multipliers are by
    parameter-name pattern, as in shell globs: {"head.*": 10}; where several match, the last one counts.
    """

    _: KW_ONLY
    decay_exempt: bool = True
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    decay_multipliers: dict[str, float] = field(default_factory=dict)


NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by canonical name, tied ones once.

    A canonical name is the one in the bare model: DistributedDataParallel's and torch.compile's prefixes are
    taken off.
    """
    named = bare_model(model).named_parameters()
    return {canonical_name(name): param for name, param in named if param.requires_grad}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint has of a model, not copied, by canonical name: tied ones once."""
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in bare_model(model).state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[canonical_name(name)] = tensor
    return tensors


def exempt_from_decay(model: nn.Module) -> set[str]:
    """Return the canonical names of the trainable parameters that weight decay spares by default.

    They are biases, every parameter of a normalisation layer, and whatever has fewer than two dimensions.
    """
    normalising = {
        id(param)
        for module in model.modules()
        if isinstance(module, NORMALISATIONS)
        for param in module.parameters(recurse=False)
    }
    return {
        name
        for name, param in named_parameters(model).items()
        if param.ndim < 2 or id(param) in normalising or name.rpartition(".")[2] == "bias"
    }


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float | None = 0.0, options: GroupOptions | None = None
) -> list[dict[str, Any]]:
    """Return a model's trainable parameters as the fewest groups that any torch optimizer takes.

    Each group has `params`, their canonical `param_names`, `lr` = lr · multiplier, and `weight_decay` =
    weight_decay · multiplier, or 0 where exempt. A `weight_decay` of None is for optimizers that have no such
    option: the groups then say nothing of it. Raises ConfigError for a pattern that matches no parameter, and
    for a negative multiplier.
    """
    options = options or GroupOptions()
    named = named_parameters(model)
    lr_of = _multipliers(options.lr_multipliers, named, "lr_multipliers")
    decay_of = _multipliers(options.decay_multipliers, named, "decay_multipliers")
    spared = exempt_from_decay(model) if options.decay_exempt else set()
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, param in named.items():
        rate = lr * lr_of[name]
        decay = 0.0 if weight_decay is None or name in spared else weight_decay * decay_of[name]
        group = groups.setdefault((rate, decay), {"params": [], "param_names": [], "lr": rate})
        if weight_decay is not None:
            group["weight_decay"] = decay
        group["params"].append(param)
        group["param_names"].append(name)
    return list(groups.values())


def bare_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and torch.compile, in whichever order they stand."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def canonical_name(name: str) -> str:
    """Return a name without what torch.compile puts before the names of a compiled part."""
    return name.replace("_orig_mod.", "")


def _multipliers(patterns: Mapping[str, float], names: Mapping[str, Any], option: str) -> dict[str, float]:
    """Return each name's multiplier: that of the last pattern that matches it, else 1."""
    found = dict.fromkeys(names, 1.0)
    for pattern, multiplier in patterns.items():
        if multiplier < 0:
            raise ConfigError(f"optimizer.{option}: {pattern!r} must be >= 0, got {multiplier:g}.")
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            layers = {f"{name.rpartition('.')[0]}.*" for name in names if "." in name}
            raise ConfigError(
                f"optimizer.{option}: {pattern!r} matches no trainable parameter: "
                f"{nearest(pattern, layers.union(names))}"
            )
        found |= dict.fromkeys(matched, multiplier)
    return found
