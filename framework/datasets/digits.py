"""The digits that come with the package: small, real, and needing no download.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
doi:10.24432/C50P49, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). `digits.csv.gz`
is the test part of that set: one row an image, 64 pixels and the digit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from importlib import resources

import numpy as np
import torch

from framework.batching.sets import TensorSet
from framework.batching.split import split
from framework.datasets.base import Data
from framework.datasets.pixels import Normalize
from framework.errors import ConfigError
from framework.registry import Probability, data

SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
"""Of the decompressed file."""

NORMALIZE = Normalize(scale=16, mean=0.3053, std=0.3760)
"""Pixels are 0 to 16; mean and standard deviation are those of all 1,797 images."""


@data("digits")
def digits(seed: int, *, test: Probability = 0.2) -> Data:
    """1,797 handwritten digits of 8 x 8 pixels, inside the package (UCI; Alpaydin and Kaynak, 1998).

    Inputs (1, 8, 8) floats, targets the digits. `test` is the fraction held out for testing, stratified, by
    `seed`; 0 holds out none. Raises ConfigError where the installed file is damaged.
    """
    content = gzip.decompress(resources.files("framework.datasets").joinpath("digits.csv.gz").read_bytes())
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigError("data 'digits': the file digits.csv.gz of this installation is damaged; reinstall it.")
    rows = np.loadtxt(io.BytesIO(content), dtype=np.uint8, delimiter=",")
    pixels = torch.from_numpy(rows[:, :64].reshape(-1, 1, 8, 8).copy())
    everything = TensorSet((pixels, torch.from_numpy(rows[:, 64].astype(np.int64))), NORMALIZE)
    train, held_out = split(everything, test, seed) if test else (everything, None)
    return Data(
        task="classification",
        input_shape=(1, 8, 8),
        outputs=10,
        train=train,
        test=held_out,
        classes=tuple("0123456789"),
    )
