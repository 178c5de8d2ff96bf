"""A causal language model."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from framework.errors import ConfigError
from framework.functions.linear import faster_linear
from framework.models.layers import Linear
from framework.registry import Count, Probability, model

SHORT = 256
"""Tokens up to which attention in bfloat16 on CPUs keeps its weights, T² a head.

Torch's kernel, which keeps none, takes six times as long for 64 tokens, nearly all of it in the backward pass.
"""


def attend(query_BHTD: Tensor, key_BHTD: Tensor, value_BHTD: Tensor, dropout: float) -> Tensor:
    """Return softmax(Q Kᵀ / √d) V over each position's own and the earlier ones, (B, H, T, d)."""
    batch, heads, length, width = query_BHTD.shape
    if query_BHTD.dtype is not torch.bfloat16 or query_BHTD.device.type != "cpu" or length > SHORT or dropout:
        return functional.scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, dropout_p=dropout, is_causal=True
        )
    later_TT = torch.full((length, length), -math.inf, dtype=torch.bfloat16).triu(1)
    with torch.autocast("cpu", enabled=False):  # which would make softmax's output float32
        query, key, value = (part.reshape(batch * heads, length, -1) for part in (query_BHTD, key_BHTD, value_BHTD))
        scores = torch.baddbmm(later_TT, query, key.transpose(1, 2), alpha=1 / math.sqrt(width))
        return torch.bmm(scores.softmax(2), value).view(batch, heads, length, -1)


class Attention(nn.Module):
    """Causal self-attention of several heads: softmax(Q Kᵀ / √d) V over earlier positions and the own one.

    (B, T, C) -> (B, T, C), C = heads · d. Vaswani et al. (2017, arXiv:1706.03762), eq. 1 and section 3.2.2.
    """

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = Linear(width, 3 * width, bias)
        self.project = Linear(width, width, bias)
        # Never called: holds the rate of the attention weights' dropout where whoever sets a model's
        # dropout layers finds it.
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs_BTC: Tensor) -> Tensor:
        """Return what each position gathers from those before it and itself."""
        query_BHTD, key_BHTD, value_BHTD = (
            part_BTC.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part_BTC in self.query_key_value(inputs_BTC).chunk(3, dim=2)
        )
        rate = self.dropout.p if self.training else 0.0
        mixed_BHTD = attend(query_BHTD, key_BHTD, value_BHTD, rate)
        output_BTC: Tensor = self.project(mixed_BHTD.transpose(1, 2).flatten(2))
        return output_BTC


class Block(nn.Module):
    """x ← x + attention(norm(x)); x ← x + feedforward(norm(x)), on (B, T, C)."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, dropout, bias)
        self.attention_dropout = nn.Dropout(dropout)
        self.feedforward_norm = nn.LayerNorm(width, bias=bias)
        self.feedforward = nn.Sequential(
            Linear(width, 4 * width, bias),
            nn.GELU(approximate="tanh"),
            Linear(4 * width, width, bias),
            nn.Dropout(dropout),
        )

    def forward(self, inputs_BTC: Tensor) -> Tensor:
        """Return the residual stream after this block."""
        stream_BTC = inputs_BTC + self.attention_dropout(self.attention(self.attention_norm(inputs_BTC)))
        output_BTC: Tensor = stream_BTC + self.feedforward(self.feedforward_norm(stream_BTC))
        return output_BTC


@model("transformer")
class Transformer(nn.Module):
    """Causal transformer in the form of GPT-2: each position predicts the next token.

    tokens (B, T) of integers below `outputs`, T <= block, where `input_shape` is (block,) -> logits
    (B, T, outputs). Radford et al. (2019), section 2.3: learned positions, LayerNorm before attention and
    feedforward and after the last block, GELU in its tanh form (Hendrycks & Gimpel, 2016,
    arXiv:1606.08415), the embedding as output weights. Weights start as N(0, 0.02²), those that write to
    the residual stream divided by √(2 · layers), biases zero. `bias` gives linear layers and LayerNorms one.

    Raises ConfigError where heads do not divide width or input_shape is not (block,).
    """

    activation = "gelu"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        *,
        layers: Count = 4,
        heads: Count = 4,
        width: Count = 128,
        dropout: Probability = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"model 'transformer' needs sequences of tokens, an input_shape (length,), "
                f"got {tuple(input_shape)}; use data=text, or another model."
            )
        if width % heads:
            raise ConfigError(
                f"model 'transformer': heads must divide width, got heads={heads}, width={width}; "
                f"a width that fits is {math.ceil(width / heads) * heads}."
            )
        self.block_size = input_shape[0]
        self.tokens = nn.Embedding(outputs, width)
        self.positions = nn.Embedding(self.block_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, bias) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=bias)
        self._initialize()

    @property
    def residual_branches(self) -> list[nn.Module]:
        """The modules whose output is added to the residual stream, from the input to the output."""
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        return [branch for block in blocks for branch in (block.attention, block.feedforward)]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits of each position's next token; raises ValueError where T > block."""
        return faster_linear(self.hidden(tokens_BT), self.tokens.weight)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Return what the output layer sees, (B, T, width): `tokens.weight` makes logits of it."""
        length = tokens_BT.shape[1]
        if length > self.block_size:
            raise ValueError(
                f"a sequence may have at most {self.block_size} tokens, the model's block, got {length}; "
                f"cut it, or build the model with a longer input_shape."
            )
        positions_T = torch.arange(length, device=tokens_BT.device)
        stream_BTC = self.dropout(self.tokens(tokens_BT) + self.positions(positions_T))
        for block in self.blocks:
            stream_BTC = block(stream_BTC)
        hidden_BTC: Tensor = self.norm(stream_BTC)
        return hidden_BTC

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, count: int, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """Return tokens (B, T) followed by `count` drawn ones, (B, T + count), in evaluation mode.

        Each is drawn from softmax(logits / temperature) given the last `block` tokens before it.
        Raises ValueError where temperature is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature:g}; near 0 is greedy, 1 is the model.")
        was_training = self.training
        self.eval()
        try:
            for _ in range(count):
                logits = self(tokens[:, -self.block_size :])[:, -1] / temperature
                drawn = torch.multinomial(logits.softmax(1), 1, generator=generator)
                tokens = torch.cat((tokens, drawn), 1)
        finally:
            self.train(was_training)
        return tokens

    def _initialize(self) -> None:
        residual = 0.02 / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if name.endswith(("project.weight", "feedforward.2.weight")):
                nn.init.normal_(parameter, 0, residual)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, 0, 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
