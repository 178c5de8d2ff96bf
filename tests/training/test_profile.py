"""trainer.profile: a trace of some steps."""

import gzip
import json

import pytest
import torch
from torch import nn

from framework import ConfigError, Trainer, profiling
from framework.profiling import WARM_UP


def train(directory, steps, **settings):
    model = nn.Linear(3, 1)
    data = (torch.randn(64, 3), torch.randn(64, 1))
    trainer = Trainer(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        directory=directory,
        max_steps=steps,
        backprop="autograd",
        device="cpu",
        **settings,
    )
    trainer.fit(data, batch_size=4)


def updates(content: str) -> int:
    """Return how many times a trace has the optimizer's step."""
    return sum(e.get("name") == "Optimizer.step#SGD.step" for e in json.loads(content)["traceEvents"])


def test_ten_steps_are_traced_after_the_first(tmp_path, capsys):
    train(tmp_path, WARM_UP + 12, profile=10)
    assert updates((tmp_path / "trace.json").read_text()) == 10
    assert f"profile: 10 steps in {tmp_path / 'trace.json'}: open it at" in capsys.readouterr().err


def test_a_run_that_ends_before_writes_what_it_has(tmp_path, capsys):
    train(tmp_path, WARM_UP + 2, profile=10)
    assert updates((tmp_path / "trace.json").read_text()) == 2
    assert "profile: 2 steps" in capsys.readouterr().err


def test_a_run_that_ends_in_the_warm_up_says_so(tmp_path, capsys):
    train(tmp_path, WARM_UP - 1, profile=10)
    assert not (tmp_path / "trace.json").exists()
    assert "profile: no trace" in capsys.readouterr().err


def test_a_large_trace_is_compressed_and_takes_the_place_of_another(tmp_path, monkeypatch):
    train(tmp_path, WARM_UP + 2, profile=2)
    monkeypatch.setattr(profiling, "LARGE", 100)
    train(tmp_path, WARM_UP + 2, profile=2, overwrite=True)
    assert not (tmp_path / "trace.json").exists()
    assert updates(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()).decode()) == 2


def test_without_it_nothing_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.profiler, "profile", None)
    train(tmp_path, WARM_UP + 3)
    assert not list(tmp_path.glob("trace*"))


def test_a_trace_needs_a_folder_and_a_step():
    with pytest.raises(ConfigError, match=r"trainer.profile needs a folder to write its trace into"):
        train(None, 1, profile=10)
    with pytest.raises(ConfigError, match=r"trainer.profile must be >= 1, got 0"):
        train(None, 1, profile=0)
