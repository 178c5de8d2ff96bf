"""A GPT and its loop in nanoGPT's form, as one writes them by hand: what our transformer is measured against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CPU = torch.device("cpu")


class Attention(nn.Module):
    """Causal self-attention by torch's fused function."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class Block(nn.Module):
    """Attention and feedforward, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, vocabulary); the embedding is the output layer's weight too."""

    def __init__(self, vocabulary: int, block: int, *, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(block, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each position's next token."""
        position = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(position)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over all positions."""
    return functional.cross_entropy(logits.view(-1, logits.size(-1)), target.reshape(-1))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return torch's AdamW, which decays matrices alone; fused on CUDA, as nanoGPT has it."""
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = {"fused": True} if params[0].is_cuda else {}
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), **fused)


@dataclass(frozen=True)
class Blocks:
    """Makes a batch of blocks of a text: each is sliced from it and stacked, the targets one ahead."""

    tokens: Tensor
    block: int
    device: torch.device = CPU

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the blocks that start at these positions, on the device."""
        data = self.tokens.numpy()
        starts = index.tolist()
        x = torch.stack([torch.from_numpy(data[i : i + self.block].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + self.block].astype(np.int64)) for i in starts])
        if self.device.type == "cpu":
            return x, y
        return tuple(part.pin_memory().to(self.device, non_blocking=True) for part in (x, y))  # type: ignore[return-value]

    def to(self, device: torch.device) -> Blocks:
        """Return the same from the same text, for a device."""
        return replace(self, device=device)
