"""The folder of checkpoints: what survives damage, full disks, other processes and the end of the writer."""

import errno
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from framework.checkpoint import (
    CheckpointOptions,
    Checkpoints,
    CorruptError,
    Snapshot,
    clear,
    folder,
    read,
)
from framework.errors import ConfigError


def snapshot(step: int, numbers: int = 4) -> Snapshot:
    model = {"weight": torch.full((numbers,), float(step)), "half": torch.tensor(step, dtype=torch.bfloat16)}
    state = {"history": [{"scores": {"loss": math.nan}}], "seed": 3}
    return Snapshot(step, model, {"0.step": torch.tensor(float(step))}, {"ema.weight": torch.ones(2) * step}, state)


def store(directory: Path, *, resume: bool = False, mode="min", **options) -> Checkpoints:
    return Checkpoints(directory, CheckpointOptions(**options), mode=mode, resume=resume)


def filled(directory: Path, *steps: int, best: int | None = None, **options) -> Path:
    checkpoints = store(directory, **{"keep_last": 9, **options})
    for step in steps:
        checkpoints.save(snapshot(step), best=step == best, score=float(-step))
    checkpoints.close()
    return directory / "checkpoints"


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in (directory / "checkpoints").iterdir())


def test_what_is_read_is_what_was_saved(tmp_path):
    filled(tmp_path, 1, 2)
    found = read(tmp_path / "last")
    expected = snapshot(2)
    assert found.step == 2
    for name, tensors in expected.tensors.items():
        assert found.tensors[name].keys() == tensors.keys()
        assert all(
            torch.equal(found.tensors[name][k], t) and found.tensors[name][k].dtype == t.dtype
            for k, t in tensors.items()
        )
    assert math.isnan(found.state["history"][0]["scores"]["loss"])
    assert found.state["seed"] == 3
    manifest = json.loads((tmp_path / "last" / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"], manifest["score"], manifest["best"]) == (1, 2, -2.0, False)
    for name, said in manifest["files"].items():
        sums = subprocess.run(["sha256sum", tmp_path / "last" / name], capture_output=True, text=True, check=True)
        assert sums.stdout.split()[0] == said["sha256"]
        assert (tmp_path / "last" / name).stat().st_size == said["bytes"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped model": (lambda f: flip(f / "model.safetensors"), "model.safetensors has another SHA-256"),
    "flipped optimizer": (lambda f: flip(f / "optimizer.safetensors"), "optimizer.safetensors has another SHA-256"),
    "flipped state": (lambda f: flip(f / "state.json"), "state.json has another SHA-256"),
    "cut": (lambda f: os.truncate(f / "run.safetensors", 9), "run.safetensors has 9 bytes where"),
    "gone": (lambda f: (f / "state.json").unlink(), "state.json cannot be read: No such file"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
    "half a manifest": (lambda f: os.truncate(f / "manifest.json", 40), "manifest.json cannot be read"),
    "another's manifest": (lambda f: shutil.copy(f.parent / "step-1" / "manifest.json", f), "has another SHA-256"),
    "another's folder": (lambda f: shutil.copytree(f.parent / "step-1", f, dirs_exist_ok=True), "is of another step"),
    "not a manifest": (lambda f: (f / "manifest.json").write_text('{"format": 1}'), "is not the manifest"),
    "bottomless": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "manifest.json cannot be read"),
    "a pipe": (lambda f: (f / "state.json").unlink() or os.mkfifo(f / "state.json"), "state.json is no file"),
    "a device": (lambda f: (f / "state.json").unlink() or (f / "state.json").symlink_to("/dev/zero"), "is no file"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_corrupt_newest_is_set_aside_and_the_one_before_taken(tmp_path, name):
    damage, message = DAMAGES[name]
    home = filled(tmp_path, 1, 2, 3, best=3)
    damage(home / "step-3")
    checkpoints = store(tmp_path, resume=True, keep_last=9)
    with pytest.warns(UserWarning, match=message):
        found = checkpoints.newest()
    assert found is not None
    assert found.step == 2
    assert [n for n in names(tmp_path) if not n.startswith("corrupt-step-3-")] == ["step-1", "step-2"]
    assert len(names(tmp_path)) == 3
    assert [(tmp_path / link).readlink().name for link in ("best", "last")] == ["step-2", "step-2"]
    assert checkpoints.newest().step == 2
    checkpoints.save(snapshot(3), best=True)
    checkpoints.close()
    assert read(tmp_path / "best").step == 3


def test_with_every_checkpoint_corrupt_the_run_starts_again(tmp_path):
    home = filled(tmp_path, 1, 2)
    for step in (1, 2):
        flip(home / f"step-{step}" / "model.safetensors")
    checkpoints = store(tmp_path, resume=True)
    with pytest.warns(UserWarning, match="another SHA-256") as warned:
        assert checkpoints.newest() is None
    assert ["step-2/model" in str(warned[0].message), "step-1/model" in str(warned[1].message)] == [True, True]
    checkpoints.save(snapshot(1), best=True)
    checkpoints.close()
    assert read(tmp_path / "best").step == 1


def test_a_corrupt_best_is_set_aside_too(tmp_path):
    home = filled(tmp_path, 1, 2, 3, best=2)
    flip(home / "step-2" / "model.safetensors")
    checkpoints = store(tmp_path, resume=True, keep_last=9)
    with pytest.warns(UserWarning, match="step-2/model.safetensors"):
        assert checkpoints.newest().step == 3
    checkpoints.close()
    assert (tmp_path / "best").readlink().name == "step-3"  # the best score of those left


def test_links_and_leftovers_of_a_writer_killed_at_any_moment_are_put_right(tmp_path):
    home = filled(tmp_path, 1, 2, 3, best=3)
    for link in ("best", "last"):
        (tmp_path / link).unlink()
        (tmp_path / link).symlink_to("checkpoints/step-1")
    half = home / f".step-4-{'0' * 32}"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / f".last-{'0' * 32}").symlink_to("checkpoints/step-4")
    (tmp_path / ".lock").write_text("")  # as SIGKILL leaves it
    (tmp_path / ".mine").write_text("")
    checkpoints = store(tmp_path, resume=True)
    assert checkpoints.newest().step == 3
    checkpoints.close()
    assert [(tmp_path / link).readlink().name for link in ("best", "last")] == ["step-3", "step-3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine", "best", "checkpoints", "last"]
    assert names(tmp_path) == ["step-3"]


def test_a_format_of_the_future_is_refused_and_stays(tmp_path):
    path = filled(tmp_path, 1) / "step-1" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ConfigError, match="has format 2, this version reads 1"):
        store(tmp_path, resume=True).newest()
    assert names(tmp_path) == ["step-1"]


def test_the_best_scores_and_the_newest_stay(tmp_path):
    checkpoints = store(tmp_path, keep_last=2, keep_best=2, mode="max")
    for step, score in enumerate([0.1, 0.9, 0.5, 0.7, None, math.nan, 0.2], start=1):
        checkpoints.save(snapshot(step), best=step in (1, 2), score=score)
    checkpoints.close()
    assert names(tmp_path) == ["step-2", "step-4", "step-6", "step-7"]
    assert [(tmp_path / link).readlink().name for link in ("best", "last")] == ["step-2", "step-7"]


def test_a_step_is_saved_once_unless_a_score_comes_later(tmp_path):
    checkpoints = store(tmp_path, in_background=False)
    checkpoints.save(snapshot(5), best=False)
    first = (tmp_path / "last" / "manifest.json").stat().st_ino
    checkpoints.save(snapshot(5), best=False)
    assert (tmp_path / "last" / "manifest.json").stat().st_ino == first
    checkpoints.save(snapshot(5, numbers=7), best=True, score=1.0)
    checkpoints.save(snapshot(5), best=True, score=2.0)
    checkpoints.close()
    assert len(read(tmp_path / "best").model["weight"]) == 7
    assert json.loads((tmp_path / "best" / "manifest.json").read_text())["score"] == 1.0


def test_one_writer_at_a_time_beside_the_caller(tmp_path, monkeypatch):
    go, inside, seen = threading.Event(), [], []
    write = folder.write

    def slow(*arguments, **options):
        inside.append(threading.current_thread())
        go.wait(30)
        seen.append(len(inside))
        write(*arguments, **options)

    monkeypatch.setattr(folder, "write", slow)
    checkpoints = store(tmp_path, keep_last=9)
    checkpoints.save(snapshot(1), best=True)  # comes back with nothing written
    assert not (tmp_path / "last").exists()
    second = threading.Thread(target=checkpoints.save, args=(snapshot(2),), kwargs={"best": False})
    second.start()
    second.join(0.05)
    assert second.is_alive()
    assert len(inside) <= 1
    go.set()
    second.join()
    checkpoints.wait()
    assert seen == [1, 2]
    assert threading.main_thread() not in inside
    checkpoints.close()
    assert names(tmp_path) == ["step-1", "step-2"]


NO_SPACE = r"No space left on device; it needs 30 bytes and [\d,]+ are free"


def save_and_wait(checkpoints: Checkpoints, taken: Snapshot) -> None:
    checkpoints.save(taken, best=True)
    checkpoints.wait()


@pytest.mark.parametrize("in_background", [True, False])
@pytest.mark.parametrize("moment", ["save_file", "write_json", "sync"])
def test_a_disk_that_takes_no_more_is_a_warning_and_the_checkpoints_of_before_stay(
    tmp_path, monkeypatch, moment, in_background
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = store(tmp_path, in_background=in_background)
    checkpoints.save(snapshot(1), best=True)
    checkpoints.wait()
    with monkeypatch.context() as patched:
        patched.setattr(folder, moment, full)
        with pytest.warns(UserWarning, match=NO_SPACE) as warned:
            save_and_wait(checkpoints, snapshot(2))
    assert f"{tmp_path / 'checkpoints'}" in str(warned[0].message)
    assert "step 1 is the last that is whole" in str(warned[0].message)
    assert names(tmp_path) == ["step-1"]
    assert read(tmp_path / "best").step == read(tmp_path / "last").step == 1
    checkpoints.save(snapshot(3), best=True)
    checkpoints.close()
    assert read(tmp_path / "best").step == 3


def test_a_folder_that_is_gone_is_a_warning_too(tmp_path):
    checkpoints = store(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"No such file or directory; the folder cannot be read either\."):
        save_and_wait(checkpoints, snapshot(1))
    checkpoints.close()


def forge(path: Path, **changes) -> None:
    """Change a checkpoint's files and its manifest with them, as only somebody could who means to."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    for name, said in manifest["files"].items():
        if (path / name).exists():
            content = (path / name).read_bytes()
            said |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", "[1]", r"state\.json cannot be read: it must hold a mapping, got a list"),
        ("state.json", '{"step": 1, "x": {"$tensor": "y"}}', r"state\.json cannot be read: \$tensor 'y'"),
        ("state.json", "[" * 100_000, r"state\.json cannot be read"),
        ("state.json", '{"step": 1, "x": ' + "[" * 900 + "]" * 900 + "}", r"state\.json cannot be read"),
        ("model.safetensors", "\xff" * 8 + "{}", r"model\.safetensors cannot be read"),
    ],
)
def test_a_forged_file_is_refused(name, content, message, tmp_path):
    path = filled(tmp_path, 1) / "step-1"
    (path / name).write_text(content, encoding="latin-1")
    forge(path)
    with pytest.raises(CorruptError, match=message):
        read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": math.nan},
        {"score": "0"},
        {"score": 10**400},
        {"step": "1"},
        {"best": 1},
        {"files": {}},
        {"files": {"../../secret": {"bytes": 1, "sha256": ""}}},
        {"more": 1},
        {"format": 0},
    ],
)
def test_a_forged_manifest_is_refused(changes, tmp_path):
    path = filled(tmp_path, 1) / "step-1"
    forge(path, **changes)
    with pytest.raises(
        CorruptError, match=r"manifest\.json (is not the manifest of a checkpoint|cannot be read: it is not JSON)"
    ):
        read(path)


def test_what_no_disk_is_to_blame_for_is_raised(tmp_path):
    checkpoints = store(tmp_path)
    wrong = snapshot(1)
    wrong.state["x"] = object()
    checkpoints.save(wrong, best=True)
    with pytest.raises(TypeError, match="x is a object"):
        checkpoints.close()
    assert names(tmp_path) == []
    store(tmp_path, resume=True).close()


def claim(directory: Path) -> None:
    try:
        store(directory, resume=True)
    except ConfigError as error:
        os._exit(7 if "another process trains in it" in str(error) else 1)
    os._exit(0)


def test_one_process_at_a_time(tmp_path):
    checkpoints = store(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be locked: another process trains in it"):
        clear(tmp_path)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=claim, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 7
    checkpoints.close()
    process = fork.Process(target=claim, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0


PARENT = """
import os, sys, time
from pathlib import Path
from framework.checkpoint import CheckpointOptions, Checkpoints
held = Checkpoints(Path(sys.argv[1]), CheckpointOptions())
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


def test_a_killed_process_frees_the_folder_though_its_children_live_on(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(ConfigError, match="another process"):
            store(tmp_path, resume=True)
        process.kill()
        process.wait()
        store(tmp_path, resume=True).close()
    finally:
        os.kill(child, 9)
        process.stdout.close()


def test_clearing_takes_everything_a_run_wrote(tmp_path):
    home = filled(tmp_path, 1, 2)
    flip(home / "step-2" / "model.safetensors")
    checkpoints = store(tmp_path, resume=True)
    with pytest.warns(UserWarning, match="set aside"):
        checkpoints.newest()
    checkpoints.close()
    (home / f".step-9-{'f' * 32}").mkdir()
    (tmp_path / ".lock").write_text("")
    (tmp_path / "mine.txt").write_text("kept")
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_reading_what_is_none_says_so(tmp_path):
    with pytest.raises(CorruptError, match=r"has no manifest\.json"):
        read(tmp_path / "nowhere")
