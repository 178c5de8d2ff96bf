"""From the start of a process to the end of its first step, and how long help and completion take."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import interleaved
from benchmarks.speed.rows import RAW
from benchmarks.speed.works import DATA, ROOT

SCRIPTS = Path(__file__).parent / "starts"
FRAMEWORK, TRAINER = "framework", "a script with Trainer"
HELP, TAB = "framework --help", "TAB"
RUN = [
    *("experiment=mnist", f"data.root={DATA}", "data.download=false", "model.widths=[128,64]"),
    *("callback=[progress,first_step]", "hydra.run.dir=run"),
]
LINE = "framework optimizer="


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each in each round: the raw script, the command, a script with Trainer, help, TAB.

    MNIST MLP, batch 64, the same files. A first round, which finds the disk's cache cold, does not count.
    """
    mnist = str(DATA / "mnist")
    starts = {
        RAW: [sys.executable, str(SCRIPTS / "raw.py"), mnist],
        FRAMEWORK: [sys.executable, "-m", "framework", *RUN],
        TRAINER: [sys.executable, str(SCRIPTS / "trainer.py"), mnist],
    }
    ends = {
        HELP: ([sys.executable, "-m", "framework", "--help"], {}),
        TAB: (
            [sys.executable, "-m", "framework", "-sc", "query=bash"],
            {"COMP_LINE": LINE, "COMP_POINT": str(len(LINE)), "_HYDRA_OLD_COMP": "none"},
        ),
    }
    found: dict[str, list[float]] = {}

    def take(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if name == FRAMEWORK:
                (Path(folder) / "plugins").mkdir()
                shutil.copy(SCRIPTS / "first_step.py", Path(folder) / "plugins")
            command, extra = ends[name] if name in ends else (starts[name], {})
            environment = {**os.environ, **extra, "PYTHONPATH": str(ROOT)}
            begun = time.time()
            run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            ended = time.time()
        if run.returncode:
            raise RuntimeError(f"{name} failed: {run.stderr[-2000:]}")
        ended = ended if name in ends else float(run.stdout.splitlines()[-1])
        found.setdefault(name, []).append(ended - begun)

    interleaved({name: partial(take, name) for name in (*starts, *ends)}, rounds + 1, math.inf)
    return {name: seconds[1:] for name, seconds in found.items()}
