"""One long sequence of tokens, read in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.errors import ConfigError


class TokenSet:
    """Blocks of a 1-D int64 tensor of tokens: (inputs, targets), each (batch, block), the targets one ahead.

    Example i is inputs = tokens[i * stride : i * stride + block] and targets = the same, shifted by one, so
    that p(t_1 ... t_n) = prod_i p(t_{i+1} | t_1 ... t_i) is learned at every position. With stride = block
    each token is a target once; the last tokens that fill no block are left out.
    Raises ConfigError where the tokens are too few for one block.
    """

    def __init__(self, tokens: Tensor, *, block: int, stride: int, starts: Tensor | None = None) -> None:
        if len(tokens) < block + 1:
            raise ConfigError(
                f"a block of {block} needs at least {block + 1} tokens, one ahead included, "
                f"got {len(tokens)}: set a smaller data.block."
            )
        self.tokens = tokens
        self.block = block
        self.stride = stride
        self._starts = torch.arange(0, len(tokens) - block, stride, device=tokens.device) if starts is None else starts

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._starts)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets) of the blocks at the 1-D positions `index`."""
        starts = self._starts.index_select(0, index.to(self._starts.device))
        windows = self.tokens.unfold(0, self.block, 1)
        return windows.index_select(0, starts), windows.index_select(0, starts + 1)

    def subset(self, index: Tensor) -> TokenSet:
        """Return the set of only these blocks, in this order; the tokens are shared."""
        starts = self._starts.index_select(0, index.to(self._starts.device))
        return TokenSet(self.tokens, block=self.block, stride=self.stride, starts=starts)

    def to(self, device: torch.device) -> TokenSet:
        """Return the same set held on a device."""
        starts = self._starts.to(device)
        return TokenSet(self.tokens.to(device), block=self.block, stride=self.stride, starts=starts)

    @property
    def labels(self) -> None:
        """Return None: a block has no one class."""
        return
