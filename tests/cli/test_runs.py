"""What the commands do: one run, several devices, sweeps, evaluation, predictions, plots."""

import csv
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import framework

SHORT = "trainer.max_epochs=2"


def result_of(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_s_folder_and_its_evaluation_to_the_last_digit(command, tmp_path):
    run = command(SHORT, "seed=3", "hydra.run.dir=first")
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "first"
    names = {p.name.partition(".")[0] for p in folder.iterdir()}
    assert names == {"config", "overrides", "environment", "events", "checkpoints", "best", "last", "result"}
    assert (folder / "best").readlink().parts[0] == "checkpoints"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["optimizer"]["betas"] == [0.9, 0.999]
    assert yaml.safe_load((folder / "overrides.yaml").read_text()) == [SHORT, "seed=3"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["data"] == {"input_shape": [1, 8, 8], "outputs": 10}
    result = result_of(folder)
    assert (result["status"], result["reason"], result["epochs"], result["steps"]) == ("finished", "max_epochs", 2, 42)
    assert result["samples"] == 2 * 1294
    assert set(result["test"]) == {"loss", "accuracy"}
    assert f"accuracy {result['test']['accuracy']:.4g}" in run.stdout
    assert "first" in run.stdout

    again = command("evaluate", "run=first")
    assert json.loads(again.stdout) == result["test"]
    assert json.loads(command("evaluate", "run=first", "data.test=0.5").stdout) != result["test"]
    assert "data.batch_size must be" in command("evaluate", "run=first", "data.batch_size=x").stderr
    assert "data.rot is not a setting" in command("evaluate", "run=first", "data.rot=x").stderr

    refused = command(SHORT, "hydra.run.dir=first")
    assert refused.returncode == 2
    assert "first has a run already" in refused.stderr
    assert command("trainer.max_epochs=1", "hydra.run.dir=first", "overwrite=true").returncode == 0
    assert result_of(folder)["epochs"] == 1
    assert len(list(folder.glob("events.*"))) == 1

    model = framework.load(folder)
    assert not model.training
    saved = load_file(folder / "best" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


def test_predictions(command, tmp_path):
    assert command(SHORT, "hydra.run.dir=run").returncode == 0
    pixels = np.random.default_rng(0).integers(0, 17, (5, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "new.npy", pixels)
    np.savetxt(tmp_path / "new.csv", pixels.reshape(5, 64), delimiter=",")
    for name in ("new.npy", "new.csv"):
        run = command("predict", "run=run", f"input={name}", "output=out.csv")
        assert run.returncode == 0, run.stderr
        rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
        assert rows[0] == ["class", *"0123456789"]
        model = framework.load(tmp_path / "run")
        with torch.no_grad():
            expected = model((torch.from_numpy(pixels)[:, None] / 16 - 0.3053) / 0.3760).softmax(-1)
        found = torch.tensor([[float(p) for p in row[1:]] for row in rows[1:]])
        assert torch.allclose(found, expected, atol=2e-6)
        assert [row[0] for row in rows[1:]] == [str(i) for i in expected.argmax(-1).tolist()]
    np.save(tmp_path / "bad.npy", np.zeros((3, 7)))
    assert "an example has 64 numbers" in command("predict", "run=run", "input=bad.npy").stderr
    (tmp_path / "bad.txt").write_text("1")
    assert "predict reads .npy and .csv" in command("predict", "run=run", "input=bad.txt").stderr
    np.save(tmp_path / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    assert command("predict", "run=run", "input=evil.npy").returncode == 2


def test_two_devices_give_one_device_s_weights(command, tmp_path):
    for devices in (1, 2):
        arguments = (SHORT, "data.batch_size=50", f"trainer.devices={devices}", f"hydra.run.dir=on{devices}")
        run = command(*arguments, "trainer.device=cpu")
        assert run.returncode == 0, run.stderr
    one, two = (load_file(tmp_path / f"on{n}" / "best" / "model.safetensors") for n in (1, 2))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name
    alone, both = result_of(tmp_path / "on1"), result_of(tmp_path / "on2")
    assert alone["samples"] == both["samples"]
    assert alone["test"]["loss"] == pytest.approx(both["test"]["loss"], rel=1e-4)
    assert json.loads(command("evaluate", "run=on2").stdout) == both["test"]
    assert len(list((tmp_path / "on2").glob("events.*"))) == 1


def test_ranks_take_the_slots_of_accumulation_to_the_last_ragged_one(command, tmp_path):
    """Class weights, penalties, dropout's draws, a rank without an example, and a listener that logs."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "ear.py").write_text(
        "from framework import Callback, callback\n\n@callback('ear')\nclass Ear(Callback):\n"
        "    def on_step_end(self, trainer):\n        trainer.log('norm', next(trainer.model.parameters()).norm())\n"
    )
    for devices, accumulate in ((1, 4), (2, 2)):
        run = command(
            SHORT,
            "data.batch_size=431",
            "loss.class_weights=[1,2,3,4,5,6,7,8,9,10]",
            "regularizer=[l2,dropout]",
            "callback=[ear]",
            "trainer.device=cpu",
            f"trainer.devices={devices}",
            f"trainer.accumulate={accumulate}",
            "trainer.backprop=autograd",  # as several devices do: Adam magnifies the rounding of dead pixels' gradients
            f"hydra.run.dir=on{devices}",
        )
        assert run.returncode == 0, run.stderr
    one, two = (load_file(tmp_path / f"on{n}" / "last" / "model.safetensors") for n in (1, 2))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name
    assert result_of(tmp_path / "on1")["samples"] == result_of(tmp_path / "on2")["samples"] == 2 * 1294
    np.save(tmp_path / "new.npy", np.zeros((2, 64)))
    assert command("predict", "run=on2", "input=new.npy").returncode == 0


def test_a_mistake_with_overwrite_leaves_the_old_run(command, tmp_path):
    assert command("trainer.max_epochs=1", "hydra.run.dir=run").returncode == 0
    before = result_of(tmp_path / "run")
    for mistake in ("trainer.monitor=nope", "metric=[r2]"):
        assert command("hydra.run.dir=run", "overwrite=true", mistake).returncode == 2
    assert result_of(tmp_path / "run") == before


def test_a_rank_s_mistake_is_one_message(command):
    run = command("trainer.devices=2", "trainer.device=cpu", "trainer.monitor=loss/vall")
    assert run.returncode == 2
    assert "error: trainer.monitor: there is no score 'loss/vall': did you mean 'loss/val'?" in run.stderr


def test_sweep_writes_a_folder_a_job_and_a_table_and_a_failure_stops_no_other(command, tmp_path):
    run = command("-m", "optimizer=sgd,adamw", "data.validation=0.1,0.0", "trainer.monitor=loss/val", SHORT)
    assert run.returncode == 1
    (sweep,) = (tmp_path / "multirun").glob("*/*")
    assert sorted(p.name for p in sweep.iterdir() if p.is_dir()) == ["0", "2"]
    assert result_of(sweep / "2")["status"] == "finished"
    assert run.stdout.count("failed") == 2
    assert run.stdout.count("there is no score 'loss/val'") == 2
    good = command("-m", "seed=1,2", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    assert good.returncode == 0, good.stderr
    assert {result_of(tmp_path / "sweep" / n)["status"] for n in "01"} == {"finished"}


def test_the_user_s_configuration_wins(command, tmp_path):
    for folder, rate in [("conf", 0.5), ("other", 0.25)]:
        path = tmp_path / folder / "experiment" / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"# @package _global_\ndefaults:\n  - override /optimizer: sgd\noptimizer:\n  lr: {rate}\n")
    (tmp_path / "other" / "experiment" / "mnist.yaml").write_text("# @package _global_\nseed: 17\n")
    assert "lr: 0.5" in command("experiment=mine", "--help").stdout
    assert "lr: 0.25" in command("--config-dir", "other", "experiment=mine", "--help").stdout
    assert "seed: 17" in command("--config-dir=other", "experiment=mnist", "--help").stdout
    run = command("--config-dir", "other", "experiment=mine", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert run.returncode == 0, run.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["optimizer"]["lr"] == 0.25


def test_an_unknown_key_in_a_file_is_refused(command, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "x.yaml").write_text("# @package _global_\noptimizer:\n  lrr: 1\n")
    run = command("experiment=x")
    assert run.returncode == 2
    assert "lrr" in run.stderr


def test_plot_draws_here_and_to_a_picture(command, tmp_path):
    run = command("plot", "scheduler=warmup_cosine", "trainer.max_steps=200", "output=curve.png")
    assert run.returncode == 0, run.stderr
    assert "⣀" in run.stdout or "⡠" in run.stdout
    assert "0.001" in run.stdout
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_plugin_file_trains_and_a_broken_one_stops_nobody(command, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(
        "from torch.nn import functional as F\nfrom framework.registry import Positive, loss\n\n"
        "@loss('scaled')\nclass Scaled:\n"
        "    def __init__(self, *, scale: Positive = 1.0) -> None:\n        self.scale = scale\n"
        "    def __call__(self, prediction, target):\n        return self.scale * F.cross_entropy(prediction, target)\n"
    )
    (tmp_path / "plugins" / "broken.py").write_text("def :\n")
    (tmp_path / "plugins" / "fails.py").write_text(
        "from framework.registry import loss\nraise OSError('no such device')\n@loss('fails')\nclass Fails: ...\n"
    )
    run = command("loss=scaled", "loss.scale=2", SHORT, "hydra.run.dir=run", "trainer.devices=2", "trainer.device=cpu")
    assert run.returncode == 0, run.stderr
    assert "rows are counted" in run.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    recorded = environment["plugins"]["loss=scaled"]
    digest = hashlib.sha256((tmp_path / "plugins" / "mine.py").read_bytes()).hexdigest()
    assert recorded == {"distribution": "mine", "version": "", "place": "file", "sha256": digest}
    assert json.loads(command("evaluate", "run=run").stdout) == result_of(tmp_path / "run")["test"]
    assert "loss.scale must be > 0, got -1." in command("loss=scaled", "loss.scale=-1").stderr
    failing = command("loss=fails")
    assert failing.returncode == 2
    assert "fails to import: OSError: no such device" in failing.stderr
    absent = command("loss=absent")
    assert "broken.py:1 is not Python" in absent.stderr


@pytest.mark.parametrize("moment", range(4))
def test_ctrl_c_at_any_moment_leaves_whole_weights_and_a_true_result(environment, tmp_path, moment):
    """Interrupted at a random time after the run's folder appears, or right when it does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", "trainer.max_epochs=1000", "hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "run"
    deadline = time.monotonic() + 60
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(moment and random.Random(moment).uniform(0.0, 5.0))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    result = result_of(folder)
    assert (result["status"], result["reason"]) == ("interrupted", "interrupt")
    weights = load_file(folder / "best" / "model.safetensors")
    assert all(torch.isfinite(t).all() for t in weights.values())
    state = json.loads((folder / "last" / "state.json").read_text())
    assert state["progress"]["step"] == result["steps"]
    assert math.isclose(result["samples"], state["progress"]["samples"])
    assert not [p for p in folder.rglob(".*") if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "interrupted")]
)
def test_signals_to_a_launch_reach_every_rank(environment, tmp_path, number, code, status):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "framework",
            "trainer.max_epochs=1000",
            "hydra.run.dir=run",
            "trainer.devices=2",
            "trainer.device=cpu",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not (tmp_path / "run" / "best").exists():
        time.sleep(0.05)
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert result_of(tmp_path / "run")["status"] == status
    assert status in printed


def test_sigterm_is_preemption(environment, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", "trainer.max_epochs=1000", "hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "run" / "config.yaml").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert result_of(tmp_path / "run")["status"] == "preempted"
