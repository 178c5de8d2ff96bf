"""MNIST (Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11), 1998).
"""

from __future__ import annotations

from pathlib import Path

import torch

from framework.batching.sets import TensorSet
from framework.datasets.base import Data
from framework.datasets.files import RemoteFile, contents
from framework.datasets.idx import parse_idx
from framework.datasets.pixels import Normalize
from framework.registry import data

FILES = (
    RemoteFile(
        "train-images-idx3-ubyte.gz",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    RemoteFile(
        "train-labels-idx1-ubyte.gz",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    RemoteFile(
        "t10k-images-idx3-ubyte.gz",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    RemoteFile(
        "t10k-labels-idx1-ubyte.gz",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)

NORMALIZE = Normalize(scale=255, mean=0.1307, std=0.3081)
"""Mean and standard deviation are those of the training images."""


@data("mnist")
def mnist(
    *,
    root: str = "data",
    download: bool = True,
    source: str = "https://ossci-datasets.s3.amazonaws.com/mnist/",
) -> Data:
    """70,000 handwritten digits of 28 x 28 pixels: 60,000 to train on, 10,000 to test (LeCun et al., 1998).

    Inputs (1, 28, 28) floats, targets the digits. The four IDX files, gzip or unpacked, are taken from `root`
    or `root/mnist`; missing ones are downloaded to `root/mnist` from the folder `source`.
    Raises ConfigError where a file is missing or is not MNIST's.
    """
    packed = contents(FILES, Path(root).expanduser(), "mnist", source=source, download=download)
    train_x, train_y, test_x, test_y = (
        parse_idx(content, file.name, dimensions=3 if "images" in file.name else 1)
        for file, content in zip(FILES, packed, strict=True)
    )
    return Data(
        task="classification",
        input_shape=(1, 28, 28),
        outputs=10,
        train=TensorSet((train_x.unsqueeze(1), train_y.to(torch.int64)), NORMALIZE),
        test=TensorSet((test_x.unsqueeze(1), test_y.to(torch.int64)), NORMALIZE),
        classes=tuple("0123456789"),
    )
