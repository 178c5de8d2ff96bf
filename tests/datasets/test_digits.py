"""The digits of the package are all there, held out by seed, and ready for a model."""

import gzip
import time
from importlib import resources

import pytest
import torch

from framework.datasets import digits
from framework.errors import ConfigError
from framework.registry import build


def everything(data):
    inputs, targets = zip(data.train.tensors, data.test.tensors, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_content_and_shape():
    data = build("data", "digits", {}, runtime={"seed": 0})
    pixels, targets = everything(data)
    # published with the set: 1,797 images, pixels 0..16, and these counts of the ten classes
    assert pixels.shape == (1797, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 16)
    assert torch.bincount(targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    inputs, labels = data.train.gather(torch.tensor([3, 0]))
    assert inputs.shape[1:] == data.input_shape
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    raw = data.train.tensors[0][[3, 0]].float()
    torch.testing.assert_close(inputs, (raw / 16 - 0.3053) / 0.376)
    whole = torch.cat([s.gather(torch.arange(len(s)))[0] for s in (data.train, data.test)])
    assert abs(whole.mean().item()) < 1e-3
    assert abs(whole.std().item() - 1) < 1e-3


def test_a_fifth_is_held_out_stratified_and_by_seed():
    data = digits(0)
    assert (len(data.train), len(data.test)) == (1438, 359)
    counts = torch.bincount(everything(data)[1])
    share = torch.bincount(data.test.labels) / counts
    assert ((share - 0.2).abs() * counts < 1.5).all()
    assert data.test.tensors[0].equal(digits(0).test.tensors[0])
    assert not data.test.tensors[0].equal(digits(1).test.tensors[0])
    assert digits(0, test=0.0).test is None
    assert len(digits(0, test=0.0).train) == 1797
    for fraction in (1.0, -0.1):
        with pytest.raises(ConfigError, match="test must be >= 0 and < 1"):
            digits(0, test=fraction)


def test_loads_quickly():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        digits(0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_a_damaged_installation_is_named(monkeypatch, tmp_path):
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n"))
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(ConfigError, match=r"digits\.csv\.gz of this installation is damaged"):
        digits(0)
