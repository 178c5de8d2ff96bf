"""The characters of a text, to be continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.datasets.base import Data
from framework.datasets.tokens import TokenSet
from framework.errors import ConfigError
from framework.registry import Count, Probability, data
from framework.untrusted import open_regular


class Vocabulary:
    """Characters and their token ids, which are their places in `characters`.

    After training it is made again from the data's classes: `Vocabulary(data.classes)`.
    """

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = tuple(characters)
        self._ids = {character: i for i, character in enumerate(self.characters)}

    def encode(self, text: str) -> Tensor:
        """Return the ids of a text, 1-D int64; ConfigError for a character outside the vocabulary."""
        unknown = next((c for c in text if c not in self._ids), None)
        if unknown is not None:
            raise ConfigError(f"the vocabulary of {len(self.characters)} characters has no {unknown!r}.")
        return torch.tensor([self._ids[c] for c in text], dtype=torch.int64)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Return the text of 1-D ids."""
        return "".join(self.characters[i] for i in (ids.tolist() if isinstance(ids, Tensor) else ids))


@data("text")
def text(*, path: str, block: Count = 64, stride: Count | None = None, held_out: Probability = 0.1) -> Data:
    """The characters of any UTF-8 file, in blocks, each predicted from those before it.

    Inputs and targets (block,) token ids, the targets one ahead. The vocabulary is the sorted set of the
    file's characters. Of the last `held_out` of the file the first half is for validation and the second for
    testing, so that neither continues into the training text; 0 holds out none. Training blocks start every
    `stride` characters; null is `block`, each character once an epoch.
    Raises ConfigError for a file that is missing, empty, not UTF-8, or too short.
    """
    ids, characters = _encode(_read(Path(path).expanduser()))
    end = len(ids) - round(len(ids) * held_out)
    middle = (end + len(ids)) // 2

    def blocks(part: Tensor, name: str, stride: int) -> TokenSet:
        try:
            return TokenSet(part, block=block, stride=stride)
        except ConfigError as error:
            raise ConfigError(f"data 'text', {path}, {name} part: {error}") from None

    return Data(
        task="language",
        input_shape=(block,),
        outputs=len(characters),
        train=blocks(ids[:end], "training", stride or block),
        validation=blocks(ids[end:middle], "validation", block) if held_out else None,
        test=blocks(ids[middle:], "test", block) if held_out else None,
        classes=characters,
    )


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data 'text' reads UTF-8, and {path} is not from byte {error.start} on: convert the file."
        ) from error
    except OSError as error:
        raise ConfigError(f"data 'text' cannot read data.path={path}: {error.strerror}.") from error
    if not content:
        raise ConfigError(f"data 'text' needs at least one character, and {path} is empty.")
    return content


def _encode(content: str) -> tuple[Tensor, tuple[str, ...]]:
    points = np.frombuffer(content.encode("utf-32-le"), dtype=np.uint32)
    known, ids = np.unique(points, return_inverse=True)
    return torch.from_numpy(ids.astype(np.int64)), tuple(map(chr, known.tolist()))
