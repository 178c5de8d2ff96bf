"""Peak tensor memory and resident size of a training step, each contestant in a process of its own.

python -m benchmarks.speed.memory ROW CONTESTANT DEVICE    prints both, in bytes, as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import PeakTrace
from benchmarks.speed.contestants import Clock
from benchmarks.speed.rows import OURS, RAW, lineup
from benchmarks.speed.works import CPU, ROOT, WORKS

STEPS = 55
"""In the trace: more than an interval of the log, at whose end what it gathers is freed."""
NAMES = ("mlp64", "mlp512", "one", "convnet", "gpt", "loader")

Found = dict[str, dict[str, dict[str, int]]]
"""By row and contestant, `peak` and `resident`, in bytes."""


def measure(device: torch.device = CPU, names: tuple[str, ...] = NAMES) -> Found:
    """Return the bytes of ours and of the raw loop in each row."""
    return {name: {who: _ask(name, who, device) for who in (OURS, RAW)} for name in names}


def _ask(name: str, contestant: str, device: torch.device) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
    command = [sys.executable, "-m", "benchmarks.speed.memory", name, contestant, device.type]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"the memory of {contestant} in {name} was not measured: {run.stderr[-2000:]}")
    found: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return found


def alone(name: str, contestant: str, device: torch.device, steps: int = STEPS) -> dict[str, int]:
    """Return what a contestant's steps need: its data is there before, and is part of the resident size only.

    The peak counts the network, the optimizer's state and everything else from their making to the last step; the
    evaluation after it does not count.
    """
    work = replace(WORKS[name], steps=steps - 1, warm_up=1, device=device)
    train = lineup(name, {})[contestant]
    found: dict[str, int] = {}
    train(work, Clock(work, lambda: found.update(resident=resident())))
    trace = PeakTrace(device)
    clock = Clock(work, lambda: found.update(peak=trace.stop()))
    trace.start()
    train(work, clock)
    return found


def resident() -> int:
    """Return the bytes of this process in memory, or 0 where nobody says so."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


if __name__ == "__main__":
    print(json.dumps(alone(sys.argv[1], sys.argv[2], torch.device(sys.argv[3]))))
