"""Files of inputs in, files of predictions out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from framework.batching import TensorSet
from framework.datasets import Data, Vocabulary
from framework.errors import ConfigError
from framework.untrusted import open_regular, read_text


def read_inputs(path: Path, data: Data) -> TensorSet:
    """Read one example a row, in the units of the data set's own files, and make it ready for the model.

    `.npy` (no pickles) or `.csv` of numbers, each row as many numbers as an example has. Raises ConfigError for a
    file that is absent, of another kind or of another size.
    """
    if path.suffix not in (".npy", ".csv"):
        raise ConfigError(f"input={path}: predict reads .npy and .csv files, got '{path.suffix}'.")
    try:
        with open_regular(path) as file:
            # a mapped file cannot announce more than it has, nor hold objects
            rows = open_memmap(path, mode="r") if path.suffix == ".npy" else np.loadtxt(file, delimiter=",", ndmin=2)
    except OSError as error:
        raise ConfigError(f"input={path} cannot be read: {error.strerror or error}.") from None
    except ConfigError:
        raise
    except (ValueError, OverflowError):
        raise ConfigError(f"input={path} must hold numbers only, one example a row, and no header.") from None
    if rows.dtype.kind not in "biuf" or not np.isfinite(rows).all():
        raise ConfigError(f"input={path} must hold finite numbers, got {rows.dtype} with others among them.")
    size = int(np.prod(data.input_shape))
    if rows.size == 0 or rows.size % size or (rows.ndim > 1 and rows[0].size != size):
        raise ConfigError(
            f"input={path}: an example has {size} numbers {data.input_shape}, got rows of {rows.shape[1:]}."
        )
    inputs = torch.from_numpy(np.array(rows).reshape(-1, *data.input_shape))
    if inputs.is_floating_point():
        inputs = inputs.float()
    # a data set's transform is of (inputs, target) batches
    transform = getattr(data.train, "transform", None)
    return TensorSet((inputs, torch.zeros(len(inputs), dtype=torch.int64)), transform)


def continued(path: Path, model: nn.Module, data: Data, seed: int) -> str:
    """Return the text of a file with 500 characters more, drawn from a language model by seed.

    Raises ConfigError for a file that is absent, empty, not UTF-8 or of other characters, and for a model that cannot
    generate.
    """
    try:
        prompt = read_text(path)
    except (OSError, ConfigError) as error:
        raise ConfigError(f"input={path} cannot be read as UTF-8 text: {error}") from None
    if not prompt:
        raise ConfigError(f"input={path} is empty: a language model continues a text of at least one character.")
    generate: Any = getattr(model, "generate", None)
    if generate is None:
        raise ConfigError(f"a {type(model).__name__} cannot continue a text: it has no method generate.")
    vocabulary = Vocabulary(data.classes)
    tokens = vocabulary.encode(prompt).unsqueeze(0).to(next(model.parameters()).device)
    generator = torch.Generator(tokens.device).manual_seed(seed)
    with torch.no_grad():
        return vocabulary.decode(generate(tokens, 500, generator=generator)[0].cpu())


def write_predictions(path: Path, outputs: Tensor, data: Data) -> None:
    """Write predictions as CSV: for classes the likeliest and each one's probability, else the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if data.task == "classification" and outputs.ndim == 2:
            names = data.classes or tuple(map(str, range(outputs.shape[1])))
            writer.writerow(["class", *names])
            for row in outputs.float().softmax(-1):
                writer.writerow([names[int(row.argmax())], *(f"{p:.6f}" for p in row.tolist())])
        else:
            writer.writerow([f"value_{i}" for i in range(outputs[0].numel())])
            writer.writerows(outputs.flatten(1).tolist())
