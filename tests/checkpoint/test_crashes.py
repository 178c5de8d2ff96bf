"""A process that dies before any of the system calls of a save leaves a folder that goes on."""

import os
from pathlib import Path

import pytest
import torch

from framework.checkpoint import CheckpointOptions, Checkpoints, Snapshot, folder

CALLS = ("mkdir", "fsync", "rename", "replace", "symlink", "unlink", "rmdir")


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"weight": torch.full((5,), float(step))}, {}, {}, {})


def store(directory: Path, *, resume: bool) -> Checkpoints:
    return Checkpoints(directory, CheckpointOptions(in_background=False), resume=resume)


def die_before(count: int) -> None:
    """Kill this process before the call of that number that changes the disk; writing to a file is one."""
    left = [count]

    def counted(call):
        def counting(*arguments, **options):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return call(*arguments, **options)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    folder.save_file = counted(folder.save_file)
    Path.write_text = counted(Path.write_text)


def save_and_die(directory: Path, count: int) -> int:
    """Open a folder, save two steps, of which the second is the best, and return the exit code of who does it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            checkpoints = store(directory, resume=True)
            die_before(count)
            for step, best in ((2, False), (3, True)):
                checkpoints.save(snapshot(step), best=best, score=float(-step))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("start", range(4))
def test_death_before_any_call_of_a_save(start, tmp_path):
    seen, count, code = set(), start, 9
    while code == 9:
        directory = tmp_path / f"run{count}"
        first = store(directory, resume=False)
        first.save(snapshot(1), best=True, score=-1.0)
        first.close()
        code = save_and_die(directory, count)
        assert code in (0, 9)
        for link in ("best", "last"):
            assert folder.read(directory / link).step in (1, 2, 3)  # whole before anybody puts it right
        again = store(directory, resume=True)
        newest = again.newest()
        again.close()
        assert newest is not None
        assert torch.equal(newest.model["weight"], torch.full((5,), float(newest.step)))
        assert folder.read(directory / "last").step == newest.step
        assert folder.read(directory / "best").step == (3 if newest.step == 3 else 1)
        assert {p.name for p in directory.iterdir()} == {"best", "last", "checkpoints"}
        steps = {int(p.name.removeprefix("step-")) for p in (directory / "checkpoints").iterdir()}
        # of equals in nothing but age and score, a step's better score keeps it
        assert steps == ({1} if newest.step == 1 else {1, 2} if newest.step == 2 else {3})
        seen.add(newest.step)
        count += 4
    assert seen == {1, 2, 3}
    assert count > 30
