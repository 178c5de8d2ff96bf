"""How kernels go over memory: in few passes where that pays for a compilation, and in blocks that stay in a cache."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 20
"""Elements of a tensor from which what is done to it is compiled: a pass over fewer takes less than a millisecond."""
BLOCK = {"cpu": 1 << 18}
"""Elements in a block of rows, by device: on CPU a few of them fit into a cache, elsewhere they only bound memory."""
BLOCK_ELSEWHERE = 1 << 24


def fused(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run(size, *arguments)`, which runs the body of a kernel, compiled where the size is large.

    The environment variable FRAMEWORK_FUSE decides. `auto`, the default, compiles where the size in elements is
    LARGE or more, and the compiler is there that Inductor needs: for C++ on CPU, Triton on CUDA; should the
    compilation fail, it warns and goes on with the body's own torch operations. `on` compiles at every size; `off`
    never. A body is compiled when it is first run so, which takes seconds, and once for all shapes; each combination
    of types and of arguments that are None has its own. While something is traced, the body is a part of it.
    """
    broken = False

    @functools.cache
    def compiler() -> Callable[..., Any]:
        return torch.compile(body, fullgraph=True, dynamic=True)

    def compiled(*arguments: Any) -> Any:
        # else what requires a gradient would be compiled apart from what requires none
        return compiler()(*(a.detach() if isinstance(a, Tensor) else a for a in arguments))

    @functools.wraps(body)
    def run(size: int, *arguments: Any) -> Any:
        nonlocal broken
        if torch.compiler.is_compiling() or (policy := fuse_policy()) == "off":
            return body(*arguments)
        if policy == "on":
            return compiled(*arguments)
        device = next(a.device.type for a in arguments if isinstance(a, Tensor))
        if broken or size < LARGE or not _has_compiler(device):
            return body(*arguments)
        try:
            return compiled(*arguments)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            broken = True
            warnings.warn(
                f"{body.__name__} could not be compiled and takes more time: {type(error).__name__}; "
                "FRAMEWORK_FUSE=on shows the whole error, FRAMEWORK_FUSE=off silences this.",
                stacklevel=2,
            )
            return body(*arguments)

    return run


def fuse_policy() -> str:
    """Return what FRAMEWORK_FUSE says: auto, on or off; raises ValueError for anything else."""
    policy = os.environ.get("FRAMEWORK_FUSE", "auto")
    if policy not in ("auto", "on", "off"):
        raise ValueError(f"FRAMEWORK_FUSE must be auto, on or off, got {policy!r}.")
    return policy


@functools.cache
def _has_compiler(device: str) -> bool:
    if device == "cpu":
        default = "clang++" if sys.platform == "darwin" else "g++"
        return shutil.which(os.environ.get("CXX", default)) is not None
    return device == "cuda" and importlib.util.find_spec("triton") is not None


def row_blocks(first: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield the same rows of each, None for None, in about equal blocks of which several fit into a cache."""
    block = BLOCK.get(first.device.type, BLOCK_ELSEWHERE)
    count = max(1, min(first.numel() // block, first.shape[0]))
    parts = ([None] * count if t is None else t.tensor_split(count) for t in (first, *others))
    return zip(*parts, strict=True)
