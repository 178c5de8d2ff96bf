"""When a trainer saves, and what it does where the disk is full or the user leaves."""

import _thread
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from framework import Callback, Trainer
from framework.checkpoint import CheckpointOptions, folder, read, store, write_json
from framework.distributed import Ranks
from framework.tensorboard import TensorBoard


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 5, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def trainer(directory: Path | None, wide: int = 8, callbacks=(), **settings) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, wide), nn.ReLU(), nn.Linear(wide, 2))
    optimizer = torch.optim.Adam(model.parameters())
    options = {key: settings.pop(key) for key in list(settings) if key in CheckpointOptions.__annotations__}
    checkpoint = CheckpointOptions(**options)
    return Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        directory=directory,
        device="cpu",
        checkpoint=checkpoint,
        callbacks=callbacks,
        **settings,
    )


@pytest.fixture
def saves(monkeypatch):
    """The (step, epoch, score) of every checkpoint asked for."""
    found = []
    save = store.Checkpoints.save

    def noted(self, snapshot, *, best, score=None):
        found.append((snapshot.step, snapshot.state["progress"]["epoch"], score is not None))
        save(self, snapshot, best=best, score=score)

    monkeypatch.setattr(store.Checkpoints, "save", noted)
    return found


def test_saves_every_n_steps_and_each_step_once(tmp_path, saves):
    trainer(tmp_path, max_epochs=2, every_n_steps=4, keep_last=9).fit(data(), data(), batch_size=10)
    # an epoch is 6 steps; 12 is both an evaluation's and a fourth step
    assert saves == [(4, 0, False), (6, 1, True), (8, 1, False), (12, 2, True)]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-12", "step-4", "step-6", "step-8"]
    saved = json.loads((tmp_path / "last" / "manifest.json").read_text())
    assert saved["score"] == json.loads((tmp_path / "result.json").read_text())["best"]["scores"]["loss/val"]


def test_a_due_save_of_an_epoch_s_end_without_an_evaluation_has_the_whole_epoch(tmp_path, saves):
    trainer(tmp_path, max_epochs=2, every_n_steps=3, evaluate_every=2).fit(data(), batch_size=10)
    assert saves == [(3, 0, False), (6, 1, False), (9, 1, False), (12, 2, True)]


def test_saves_by_the_clock_from_the_last_save_on(tmp_path, saves, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_step_end(self, trainer):
            now[0] += 60.0

    trainer(tmp_path, max_epochs=2, every_minutes=2.5, callbacks=[Clock()]).fit(data(), batch_size=10)
    assert [step for step, *_ in saves] == [3, 6, 9, 12]


@pytest.mark.parametrize(("minutes", "asked"), [(None, 0), (1e9, 10)])
def test_ranks_agree_on_the_clock_and_only_where_it_is_asked(tmp_path, minutes, asked, saves):
    ours = trainer(tmp_path, max_epochs=2, every_minutes=minutes, every_n_steps=None)
    votes = []

    class Other(Ranks):
        """A main rank whose clock says it is time, heard by a rank whose clock does not."""

        def any(self, *flags):
            if len(flags) > 1:
                return list(flags)
            votes.append(flags)
            return [ours.progress.step == 3]

    ours.ranks = Other()
    ours.fit(data(), batch_size=10)
    assert len(votes) == asked  # not at the two evaluations
    assert [step for step, *_ in saves] == ([6, 12] if minutes is None else [3, 6, 12])


def test_an_epoch_of_unknown_length_that_ends_at_a_due_step_has_its_score(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*data(), strict=True)

    loader = DataLoader(Stream(), batch_size=10)
    result = trainer(tmp_path, max_epochs=1, every_n_steps=3).fit(loader)
    assert result.steps == 6
    assert json.loads((tmp_path / "best" / "manifest.json").read_text())["score"] == result.best.scores["loss/train"]


def test_without_a_folder_nothing_is_due():
    assert trainer(None, max_epochs=1, every_n_steps=1, every_minutes=1e-9).fit(data()).status == "finished"


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_its_own_step(tmp_path, monkeypatch):
    write, weights = folder.write, {}

    class Save(Callback):
        def on_step_end(self, trainer):
            weights[trainer.progress.step] = trainer.model[0].weight.detach().clone()
            if trainer.progress.step == 4:
                trainer.record.save(best=False)

    def slow(path, snapshot, **options):
        while len(weights) < 11:
            time.sleep(0.001)
        write(path, snapshot, **options)

    monkeypatch.setattr(folder, "write", slow)
    ours = trainer(tmp_path, max_steps=12, keep_last=9, evaluate_every="12 steps", callbacks=[Save()])
    ours.fit(data(), batch_size=10)
    assert torch.equal(read(tmp_path / "checkpoints" / "step-4").model["0.weight"], weights[4])
    assert torch.equal(read(tmp_path / "last").model["0.weight"], weights[12])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system of its own needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("in_background", [True, False])
def test_on_a_full_disk_training_goes_on_and_the_last_whole_checkpoint_stays(small_disk, in_background):
    run, filler = small_disk / "run", small_disk / "filler"

    class Fill(Callback):
        def on_step_end(self, trainer):
            trainer.record.checkpoints.wait()
            if trainer.progress.step == 7:
                while shutil.disk_usage(small_disk).free:
                    with filler.open("ab") as file:
                        file.write(bytes(4096))
            elif trainer.progress.step == 13:
                assert read(run / "last").step == 6
                filler.unlink()

    ours = trainer(run, 1000, [Fill()], max_epochs=3, log_every=3, in_background=in_background)
    with pytest.warns(UserWarning, match="step 12 could not be written") as warned:
        result = ours.fit(data(), data(), batch_size=10)
    assert (result.status, result.steps) == ("finished", 18)
    about = next(text for text in (str(w.message) for w in warned) if "step 12" in text)
    assert re.search(r"No space left on device \(os error 28\); it needs \d+,\d\d\d bytes and 0 are free", about)
    assert "step 6 is the last that is whole" in about
    assert read(small_disk / "run" / "last").step == 18
    assert not list((small_disk / "run" / "checkpoints").glob(".*"))
    assert json.loads((small_disk / "run" / "result.json").read_text())["status"] == "finished"


def test_curves_go_on_when_the_disk_takes_them_again(tmp_path, monkeypatch):
    flush = TensorBoard.flush

    def full(self):
        if ours.progress.step == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(self)

    monkeypatch.setattr(TensorBoard, "flush", full)
    ours = trainer(tmp_path, max_epochs=4, log_every=2)
    with pytest.warns(UserWarning, match="takes no curves or results at step 12: No space left on device"):
        assert ours.fit(data(), data(), batch_size=10).status == "finished"
    files = [EventFileLoader(str(path)) for path in tmp_path.glob("events.*")]
    steps = {e.step for file in files for e in file.Load() if any(v.tag == "loss/train" for v in e.summary.value)}
    assert steps >= {2, 4, 6, 8, 10, 20, 22, 24}


def test_json_that_the_disk_does_not_take_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "x.json", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "x.json", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "1\n"


def test_a_second_ctrl_c_during_a_save_leaves_a_whole_last_checkpoint(tmp_path, monkeypatch):
    write = folder.write

    class Twice(Callback):
        def on_step_end(self, trainer):
            if trainer.progress.step == 8:
                os.kill(os.getpid(), signal.SIGINT)

    def slow(path, snapshot, **options):
        if snapshot.step == 8:
            time.sleep(0.05)
            _thread.interrupt_main()
            time.sleep(0.05)
        write(path, snapshot, **options)

    monkeypatch.setattr(folder, "write", slow)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, max_epochs=3, callbacks=[Twice()]).fit(data(), data(), batch_size=10)
    assert read(tmp_path / "last").step == 8
    assert read(tmp_path / "best").step == 6
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
