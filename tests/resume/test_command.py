"""framework resume, by the real command: killed by SIGKILL, resumed, accepted, refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from runs import result_of, scalars
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["trainer.max_epochs=2", "trainer.device=cpu", "trainer.log_every=4", "data.batch_size=200", "callback=[]"]
KILLING = """
import os, time
from framework import Callback, callback

@callback('killing')
class Killing(Callback):
    '''Sends this process a signal at a step, or its launcher, which passes it on to every rank.'''

    def on_step_end(self, trainer):
        if trainer.progress.step == int(os.environ.get('KILL_AT', '0')):
            ranks = 'LOCAL_RANK' in os.environ
            os.kill(os.getppid() if ranks else os.getpid(), int(os.environ['KILL_BY']))
            time.sleep(ranks)
"""
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "killing.py").write_text(KILLING)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMEWORK_", "HYDRA_", "COMP_"))}

    def run(*arguments: str, kill: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
        at, by = kill or (0, 0)
        added = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "KILL_AT": str(at), "KILL_BY": str(by)}
        return subprocess.run(
            [sys.executable, "-m", "framework", *arguments],
            cwd=tmp_path,
            env={**kept, **added},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file((folder / "last" / name).resolve()) for folder in (ours, theirs))
        assert one.keys() == two.keys()
        assert all(one[key].equal(two[key]) for key in one), name
    assert scalars(ours) == scalars(theirs)
    assert repr(result_of(ours)) == repr(result_of(theirs))


def test_killed_resumed_and_equal_to_the_run_that_was_not(command, tmp_path):
    # not in the background, so that step 4 is on disk when step 6 is killed
    saving = ["checkpoint.every_n_steps=4", "checkpoint.in_background=false"]
    arguments = [*SMALL, "callback=[killing]", "model.dropout=0.2", *saving]
    assert command(*arguments, "hydra.run.dir=whole").returncode == 0
    assert command(*arguments, "hydra.run.dir=cut", kill=(6, signal.SIGKILL)).returncode == -signal.SIGKILL
    cut = tmp_path / "cut"
    assert not (cut / "result.json").exists()
    configuration = (cut / "config.yaml").read_text()
    stopped = command("resume=auto", *arguments, "hydra.run.dir=cut", kill=(9, signal.SIGTERM))
    assert stopped.returncode == 75, stopped.stderr
    assert json.loads((cut / "result.json").read_text())["status"] == "preempted"
    ended = command("resume=cut")
    assert ended.returncode == 0, ended.stderr
    assert_same_run(cut, tmp_path / "whole")
    assert result_of(cut)["test"]
    assert (cut / "config.yaml").read_text() == configuration
    assert [r["changes"] for r in json.loads((cut / "resumed.json").read_text())] == [{}, {}]
    assert [r["step"] for r in json.loads((cut / "resumed.json").read_text())] == [4, 9]

    again = command("resume=cut", "trainer.log_every=1")
    assert (again.returncode, "cut has finished" in again.stdout) == (0, True), again.stderr
    refused = command("resume=cut", "trainer.max_epochs=3", "optimizer.lr=0.01")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    for part in ("trainer.max_epochs: 2 → 3", "optimizer.lr: 0.001 → 0.01", "accept=[optimizer.lr,trainer.max_epochs]"):
        assert part in line
    assert result_of(cut)["steps"] == result_of(tmp_path / "whole")["steps"]

    more = ["trainer.max_epochs=3", "optimizer.lr=0.01", "accept=[optimizer.lr,trainer.max_epochs]"]
    raised = command("resume=cut", *more)
    assert raised.returncode == 0, raised.stderr
    assert "optimizer.lr: 0.001 → 0.01" in raised.stderr
    assert result_of(cut)["epochs"] == 3
    steps = result_of(cut)["steps"] // 3
    assert [step for step, _ in scalars(cut)["loss/val"]] == [steps, 2 * steps, 3 * steps]
    rates = dict(scalars(cut)["lr"])
    assert rates[2 * steps] < 0.001 < rates[min(step for step in rates if step > 2 * steps)]
    assert yaml.safe_load((cut / "config.yaml").read_text())["optimizer"]["lr"] == 0.001
    # what was accepted once stays
    assert "has finished" in command("resume=cut", *more[:2]).stdout


def test_auto_begins_where_nothing_was_cut_short_and_takes_the_newest_that_was(command, tmp_path):
    first = command("resume=auto", *SMALL, "trainer.max_steps=3")
    assert first.returncode == 0, first.stderr
    (done,) = (tmp_path / "runs").glob("*/*")
    assert command(*SMALL, "callback=[killing]", "seed=5", kill=(2, signal.SIGTERM)).returncode == 75
    second = command("resume=auto", "seed=5", *SMALL[:-1], "callback=[killing]", "loss=cross_entropy")
    assert second.returncode == 0, second.stderr
    (other,) = set((tmp_path / "runs").glob("*/*")) - {done}
    assert result_of(other)["status"] == "finished"
    assert (other / "resumed.json").exists()
    assert not (done / "resumed.json").exists()


def test_auto_leaves_a_run_from_python_alone(command, tmp_path):
    step = tmp_path / "python" / "checkpoints" / "step-3"
    step.mkdir(parents=True)
    refused = command("resume=auto", "hydra.run.dir=python")
    assert refused.returncode == 2
    assert "of a run from Python, which goes on by fit(resume=True)" in refused.stderr
    assert step.is_dir()


def test_mistakes(command, tmp_path):
    assert command(*SMALL, "callback=[killing]", "hydra.run.dir=cut", kill=(2, signal.SIGINT)).returncode == 130
    cases = {
        ("resume=nowhere",): "has no config.yaml",
        ("resume=cut", "optimizer=sgd"): "optimizer=sgd: a run goes on with the components that it began with, "
        "optimizer=adam",
        ("resume=cut", "regularizer=[l2]"): "regularizer=[]",
        ("resume=cut", "optimizer.larning=1"): "not a setting of this run",
        ("resume=cut", "optimizer.lr=fast"): "optimizer.lr must be",
        ("resume=cut", "seed=1", "accept=[sede]"): "did you mean 'seed'",
        ("resume=cut", "-m"): "no flag of resume",
        ("resume=cut", "hydra.run.dir=other"): "in its folder",
        ("resume=",): "resume=DIR",
    }
    for arguments, message in cases.items():
        done = command(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        (line,) = done.stderr.splitlines()
        assert message in line
    assert not (tmp_path / "cut" / "resumed.json").exists()
    assert json.loads((tmp_path / "cut" / "result.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_two_devices_go_on_as_two_and_as_one(command, tmp_path):
    arguments = [*SMALL, "callback=[killing]", "trainer.devices=2", "trainer.log_every=5", "model.dropout=0.2"]
    assert command(*arguments, "hydra.run.dir=whole").returncode == 0
    stopped = command(*arguments, "hydra.run.dir=two", kill=(3, signal.SIGTERM))
    assert stopped.returncode == 75, stopped.stderr
    shutil.copytree(tmp_path / "two", tmp_path / "one", symlinks=True)
    ended = command("resume=two")
    assert ended.returncode == 0, ended.stderr
    assert_same_run(tmp_path / "two", tmp_path / "whole")
    ended = command("resume=one", "trainer.devices=1", "accept=[trainer.devices]")
    assert ended.returncode == 0, ended.stderr
    one, two = scalars(tmp_path / "one"), scalars(tmp_path / "whole")
    assert [step for step, _ in one["loss/train"]] == [step for step, _ in two["loss/train"]]
    # what the other rank had gathered by then counts too
    assert dict(one["samples"]) == dict(two["samples"])
    assert dict(one["loss/train"])[5] == pytest.approx(dict(two["loss/train"])[5], rel=0.1)
    assert dict(one["accuracy/train"])[5] == pytest.approx(dict(two["accuracy/train"])[5], abs=0.03)
