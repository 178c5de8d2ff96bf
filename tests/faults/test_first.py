"""The first weights come back bit for bit, and take memory only where no folder holds them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from framework.faults import first


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(3)
        self.tied = self.conv
        self.brain = nn.Parameter(torch.randn(5).bfloat16())
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("flag", torch.tensor(True))


@pytest.mark.parametrize("where", ["folder", "memory", "no such folder"])
def test_every_tensor_comes_back(tmp_path: Path, where: str) -> None:
    model = Odd()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = first.FirstWeights(model, {"folder": tmp_path, "memory": None}.get(where, tmp_path / "none"))
    assert bool(kept.held) == (where != "folder")
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    kept.restore()
    kept.close()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after["conv.weight"].is_contiguous(memory_format=torch.channels_last)


def test_a_full_disk_leaves_them_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        closed = False

        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed = True

    file = Full()
    monkeypatch.setattr(first.tempfile, "TemporaryFile", lambda **options: file)
    kept = first.FirstWeights(Odd(), tmp_path)
    assert kept.file is None
    assert set(kept.held) >= {"conv.weight", "brain", "norm.running_mean"}
    assert file.closed
