"""The IDX format of MNIST's files (Y. LeCun, C. Cortes, C. Burges, "The MNIST database", file formats)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.errors import ConfigError

UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, name: str, dimensions: int) -> Tensor:
    """Return the uint8 tensor that an IDX file holds; `name` is the file's, for messages.

    Header: two zero bytes, the type (0x08, unsigned byte), the number of dimensions, then each size as a
    big-endian 32-bit integer; then the values, last dimension fastest.
    Raises ConfigError for another type or number of dimensions, and for a length that the sizes contradict.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise ConfigError(
            f"{name}: an IDX file of unsigned bytes in {dimensions} dimensions must start with "
            f"{magic.hex(' ')}, got {content[:4].hex(' ') or 'nothing'}."
        )
    if len(content) < header:
        raise ConfigError(f"{name}: the header must have {header} bytes, got {len(content)}.")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape) or 0 in shape:
        raise ConfigError(
            f"{name}: the header announces {' x '.join(map(str, shape))} = {math.prod(shape):,} values, "
            f"at least one, and {len(content) - header:,} follow it."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)
