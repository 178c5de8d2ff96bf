"""Test accuracy and time of the default run over seeds, and of MNIST where its files are.

scripts/accuracy.py                         the default, seeds 0 to 4
scripts/accuracy.py data=mnist data.root=…  the same with overrides, such as trainer.max_epochs=5
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = range(5)


def run(seed: int, overrides: list[str], folder: Path) -> tuple[float, float]:
    """Return test accuracy and the seconds of the whole process."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "framework", f"seed={seed}", "callback=[]", f"hydra.run.dir={folder}", *overrides],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - start
    return json.loads((folder / "result.json").read_text())["test"]["accuracy"], seconds


def main() -> None:
    """Print one line a seed, and the mean."""
    overrides = sys.argv[1:]
    print(f"framework {' '.join(overrides)}".strip())
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for seed in SEEDS:
            found.append(run(seed, overrides, Path(folder) / str(seed)))
            print(f"  seed {seed}: test accuracy {100 * found[-1][0]:.2f} %, {found[-1][1]:.1f} s", flush=True)
    accuracies = [accuracy for accuracy, _ in found]
    print(f"  mean {100 * statistics.mean(accuracies):.2f} %, lowest {100 * min(accuracies):.2f} %")


if __name__ == "__main__":
    main()
