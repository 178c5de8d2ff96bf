"""Faults strike a training in the short form, which must lose nothing; and the tormentor itself sees what is lost."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import torture  # noqa: E402  # beside the scripts
from faults import calls, inside, training  # noqa: E402


@pytest.fixture(autouse=True)
def threads():
    """As torture itself does, for the children that it forks."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tormented(tmp_path: Path, *words: str) -> dict:
    torture.main(["--short", "--json", str(tmp_path / "table.json"), *words])
    return json.loads((tmp_path / "table.json").read_text())


@pytest.mark.filterwarnings("ignore")  # the warnings of damaged checkpoints are the point
def test_nothing_is_lost(tmp_path, capsys):
    table = tormented(tmp_path)
    printed = capsys.readouterr()
    assert table["all"]["lost"] == 0, printed.out + printed.err
    assert table["all"]["times"] == table["all"]["survived"] >= 60
    assert {row["fault"] for row in table["faults"]} == {*inside.FAULTS, *torture.processes.FAULTS}
    assert "kill between two calls" in printed.out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("framework.resuming.state.load_optimizer", "kill after a step"),
        ("framework.record.Record.load_state", "SIGTERM"),
    ],
)
def test_a_resume_that_forgets_is_seen(tmp_path, monkeypatch, capsys, place, fault):
    monkeypatch.setattr(place, lambda *arguments, **keywords: None)
    table = tormented(tmp_path, "--only", fault)
    assert table["all"]["lost"] > 0
    assert "lost: " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_a_reader_that_verifies_nothing_is_seen(tmp_path, monkeypatch, capsys):
    from framework.checkpoint import folder

    def no_digest(path: Path) -> str:
        """What the manifest says, where there is one."""
        manifest = path.with_name("manifest.json")
        return json.loads(manifest.read_text())["files"][path.name]["sha256"] if manifest.exists() else ""

    monkeypatch.setattr(folder, "_digest", no_digest)
    assert tormented(tmp_path, "--only", "flipped")["all"]["lost"] > 0


def test_the_layer_sees_each_call_and_nothing_changes_after_the_end(tmp_path):
    seen: list[str] = []
    with calls.watched(seen.append, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_text("text")
        (tmp_path / "a" / "b").rename(tmp_path / "c")
        os.fsync(os.open(tmp_path, os.O_RDONLY))
    assert seen == ["mkdir", "create", "write", "rename", "fsync"]
    (tmp_path / "d").mkdir()
    assert seen[-1] == "fsync"

    layer = calls.AtCall(2, inside._raise_killed)
    with calls.watched(layer, tmp_path):
        (tmp_path / "e").mkdir()
        for _ in range(2):
            with pytest.raises(calls.KilledError):
                (tmp_path / "e" / "f").write_text("text")
    assert layer.happened == "create"
    assert not list((tmp_path / "e").iterdir())


def test_content_is_half_written_when_the_process_ends_in_its_midst(tmp_path):
    with calls.watched(calls.AtCall(2, inside._raise_killed), tmp_path), pytest.raises(calls.KilledError):
        (tmp_path / "file").write_text("0123456789")
    assert (tmp_path / "file").read_text() == "01234"


@pytest.mark.parametrize("name", ["weights", "optimizer", "best weights", "history", "curves", "result"])
def test_one_bit_is_a_difference(tmp_path, name):
    training.train(tmp_path / "run", 0)
    one, other = training.outcome(tmp_path / "run"), training.outcome(tmp_path / "run")
    assert training.differences(one, other) == []
    content = other[name]
    if name in ("weights", "optimizer", "best weights"):
        tensor = next(t for t in content.values() if t.dtype == torch.float32 and t.ndim)
        tensor.view(torch.int32).view(-1)[0] ^= 1
    elif name == "history":
        content[0]["scores"]["loss/val"] *= 1 + 2**-50
    elif name == "curves":
        content["lr"][0] = (content["lr"][0][0], content["lr"][0][1] * 2)
    else:
        content["samples"] += 1
    assert training.differences(one, other) == [name]


def test_a_sample_taken_twice_is_a_difference(tmp_path):
    training.train(tmp_path / "run", 0)
    taken = training.order(tmp_path / "run")
    assert len(taken) == training.STEPS
    for epoch in range(training.EPOCHS):
        steps = range(epoch * training.STEPS // training.EPOCHS, (epoch + 1) * training.STEPS // training.EPOCHS)
        assert sorted(sample for step in steps for sample in taken[step]) == list(range(training.EXAMPLES))
    with training.order_file(tmp_path / "run").open("a") as file:
        file.write("3:" + ",".join(["1"] * training.BATCH) + "\n")
    with pytest.raises(ValueError, match="step 3 was taken again with other samples"):
        training.order(tmp_path / "run")


def test_a_bury_that_loses_events_stays_within_what_was_on_disk(tmp_path):
    ground = inside.Ground(tmp_path / "run", 0, random.Random(0))
    ground.killed(calls.AtCall(200, inside._raise_killed))
    assert ground.train().status == "finished"
