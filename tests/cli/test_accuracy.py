"""The default run, and MNIST where its files are, reach what is promised of them."""

import json
import os
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FRAMEWORK_DATA", ROOT.parent / "shared" / "data"))


def accuracies(folder: Path) -> list[float]:
    return [json.loads(p.read_text())["test"]["accuracy"] for p in folder.glob("*/result.json")]


def test_digits(command, tmp_path):
    run = command("-m", "seed=0,1,2,3,4", "hydra.sweep.dir=sweep", "callback=[]")
    assert run.returncode == 0, run.stderr
    found = accuracies(tmp_path / "sweep")
    assert len(found) == 5
    assert statistics.mean(found) >= 0.975
    assert min(found) >= 0.965


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "mnist").exists(), reason=f"no {DATA}/mnist: set FRAMEWORK_DATA to the data sets' folder"
)
def test_mnist(command, tmp_path):
    run = command("data=mnist", f"data.root={DATA}", "trainer.max_epochs=5", "hydra.run.dir=sweep/0", "callback=[]")
    assert run.returncode == 0, run.stderr
    assert accuracies(tmp_path / "sweep")[0] >= 0.98
