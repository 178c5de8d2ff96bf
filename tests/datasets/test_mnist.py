"""MNIST: the format's every field is checked, and the real files are the real files."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch
from conftest import body, remote

from framework.datasets import mnist
from framework.datasets.idx import parse_idx
from framework.errors import ConfigError
from framework.registry import build

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
IDX = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + VALUES.tobytes()


def test_parse_idx():
    assert torch.equal(parse_idx(IDX, "x", 3), torch.from_numpy(VALUES))
    assert parse_idx(struct.pack(">HBBI", 0, 8, 1, 2) + b"\x05\xff", "x", 1).tolist() == [5, 255]


@pytest.mark.parametrize(
    ("content", "dimensions", "message"),
    [
        (b"", 3, "must start with 00 00 08 03, got nothing"),
        (b"\0\0", 3, "got 00 00"),
        (b"\x01" + IDX[1:], 3, "got 01 00 08 03"),
        (b"\0\0\x0d\x03" + IDX[4:], 3, "unsigned bytes .* got 00 00 0d 03"),
        (IDX, 1, "in 1 dimensions must start with 00 00 08 01, got 00 00 08 03"),
        (IDX[:11], 3, "the header must have 16 bytes, got 11"),
        (IDX[:-1], 3, "announces 2 x 3 x 4 = 24 values, at least one, and 23 follow"),
        (IDX + b"\0", 3, "24 values, at least one, and 25 follow"),
        (struct.pack(">HBBI", 0, 8, 1, 0), 1, "announces 0 = 0 values, at least one"),
        (struct.pack(">HBBIII", 0, 8, 3, *[2**32 - 1] * 3), 3, "and 0 follow"),
    ],
)
def test_parse_idx_refuses(content, dimensions, message):
    with pytest.raises(ConfigError, match=f"name: .*{message}"):
        parse_idx(content, "name", dimensions)


def test_the_real_files(real_data):
    data = build("data", "mnist", {"root": str(real_data), "download": False})
    assert (len(data.train), len(data.test), data.validation) == (60_000, 10_000, None)
    # the first labels and the class counts that are published of MNIST
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.train.labels).tolist() == counts
    inputs, targets = data.train.gather(torch.arange(60_000))
    assert inputs.shape[1:] == data.input_shape == (1, 28, 28)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert abs(inputs.mean().item()) < 1e-3
    assert abs(inputs.std().item() - 1) < 1e-3
    raw = data.train.tensors[0]
    assert raw.dtype == torch.uint8
    torch.testing.assert_close(inputs[:99], (raw[:99].float() / 255 - 0.1307) / 0.3081)


def small(monkeypatch):
    """Put four files of a few bytes in the place of MNIST's and return their contents."""
    images = struct.pack(">HBBIII", 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)
    labels = struct.pack(">HBBI", 0, 8, 1, 2) + b"\x03\x07"
    contents = dict(zip(NAMES, [images, labels, images, labels], strict=True))
    files = tuple(remote(f"{name}.gz", content) for name, content in contents.items())
    monkeypatch.setattr(sys.modules[mnist.__module__], "FILES", files)
    return contents


NAMES = [f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def test_downloads_what_is_missing(monkeypatch, server, tmp_path):
    contents = small(monkeypatch)
    (tmp_path / NAMES[0]).write_bytes(contents[NAMES[0]])
    server.answers = {f"{name}.gz": [body(gzip.compress(content))] for name, content in contents.items()}
    data = mnist(root=str(tmp_path), source=server.url)
    assert server.requests == [f"{name}.gz" for name in NAMES[1:]]
    assert data.test.labels.tolist() == [3, 7]
    assert data.train.gather(torch.tensor([1]))[0].shape == (1, 1, 28, 28)


def test_says_which_files_to_put_where(tmp_path):
    with pytest.raises(ConfigError) as error:
        mnist(root=str(tmp_path), download=False)
    message = str(error.value)
    assert all(f"{name}.gz" in message for name in NAMES)
    assert str(tmp_path / "mnist") in message
