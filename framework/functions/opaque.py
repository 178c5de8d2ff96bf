"""Operators that compilers do not look into, so that none can undo what a backward pass chose to save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("chainrule", "FRAGMENT")


def opaque(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a body of torch operations the operator `chainrule::<schema>`.

    `fake` computes the outputs' shapes and types from inputs without values. The body runs without autocast. Under
    vmap it is called once for each example. torch.compile keeps the operator whole: what it traces it may recompute
    or save as it likes, and so bring back the very tensors that a hand-written backward avoids (pytorch issue 117901).
    """

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]

        def without_autocast(*arguments: Any) -> Any:
            device = next(a.device.type for a in arguments if isinstance(a, torch.Tensor))
            with torch.autocast(device, enabled=False):
                return body(*arguments)

        LIBRARY.define(schema)
        LIBRARY.impl(name, without_autocast, "CompositeExplicitAutograd")
        torch.library.register_fake(f"chainrule::{name}", fake, lib=LIBRARY)
        operator: Callable[..., Any] = getattr(torch.ops.chainrule, name).default
        torch.library.register_vmap(f"chainrule::{name}", _one_by_one(operator), lib=LIBRARY)
        return operator

    return register


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        results = [
            operator(*(a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])

    return rule
