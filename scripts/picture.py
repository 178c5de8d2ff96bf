"""Draw docs/curves.png: the loss curves of the default run, and of one that overfits."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OVERFITS = ["data.validation=0.9", "data.batch_size=16", "optimizer.lr=0.01", "scheduler=constant"]
RUNS = {"framework": [], f"framework {' '.join(OVERFITS[:2])}\n{' '.join(OVERFITS[2:])}": OVERFITS}


def main() -> None:
    """Train both, read their events, and draw them side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    with tempfile.TemporaryDirectory() as home:
        for place, (title, overrides) in enumerate(RUNS.items(), start=1):
            folder = Path(home) / str(place)
            command = [sys.executable, "-m", "framework", "callback=[]", f"hydra.run.dir={folder}", *overrides]
            subprocess.run(command, check=True)
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
            events.Reload()
            axes = figure.add_subplot(1, 2, place, title=title, xlabel="step", ylabel="loss")
            for tag in ("loss/train_slice", "loss/val", "gap/loss"):
                points = events.Scalars(tag)
                axes.plot([p.step for p in points], [p.value for p in points], label=tag)
            axes.legend()
            axes.grid(alpha=0.3)
    figure.savefig(Path(__file__).resolve().parent.parent / "docs" / "curves.png", dpi=90)


if __name__ == "__main__":
    main()
