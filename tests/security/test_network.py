"""Whatever listens while several processes train listens on this machine alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framework.reporting import print_summary

ROOT = Path(__file__).resolve().parents[2]
LISTENS = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def family(process: int) -> list[int]:
    """Return a process and all that it has started, and they."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split() if int(child) not in found]
    return found


def sockets(process: int) -> set[str]:
    names = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            names.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return {name.removeprefix("socket:[").removesuffix("]") for name in names if name.startswith("socket:[")}


def listeners(process: int) -> list[str]:
    """Return the addresses, in the kernel's hexadecimal, at which a process and its children listen."""
    own = set().union(*(sockets(p) for p in family(process)))
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == LISTENS and row[9] in own]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc")
def test_ranks_listen_on_loopback_and_save_at_slurm_s_warning(tmp_path):
    """SIGUSR1 to the launching process alone, as `sbatch --signal=B:USR1` sends it, reaches every rank."""
    options = ("trainer.max_epochs=100000", "trainer.devices=2", "trainer.device=cpu", "hydra.run.dir=run")
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "run" / "best").exists():
        assert process.poll() is None
        time.sleep(0.05)
    found = listeners(process.pid)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "preempted"
    assert found, "gloo's listeners are not seen: the test looks at the wrong place"
    assert set(found) <= set(LOOPBACK)


def test_the_command_that_shows_tensorboard_binds_to_this_machine(tmp_path, capsys):
    from framework.history import Result

    print_summary(Result("finished", "max_epochs", 1, 1, 1, 1.0), tmp_path)
    printed = capsys.readouterr().out
    assert "tensorboard --logdir" in printed
    assert "bind_all" not in printed
    assert "--host" not in printed
