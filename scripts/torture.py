"""Strike a training with faults, resume it, and compare it to the bit with the run that was left in peace.

    python scripts/torture.py [--short] [--seed N] [--json FILE] [--only WORD]

Each fault strikes a run of its own: a small network with dropout, batch norm, AdamW and a schedule, checkpoints every
few steps and an evaluation every epoch. Then the run is resumed until it ends. It is lost where its weights, optimizer,
best weights, scores, curves, result or samples differ from the undisturbed run's in a single bit; then the exit code
is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from faults import inside, processes, training
from faults.calls import watched

SHORT = {"kill between two calls": 40, "kill, and kill again while resuming": 6, "process: disk full": 1}
LONG = {"kill between two calls": 0, "kill, and kill again while resuming": 120, "process: disk full": 10}
"""How often each fault strikes, where it is not OTHERS; 0 is once at every call of a run."""
OTHERS = {True: 2, False: 30}
SEEDS = 3


class Reference:
    """The undisturbed run of each seed: its outcome, its samples, how many calls change its folder, its seconds."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.known: dict[int, tuple[dict[str, Any], training.Order, int, float]] = {}

    def __call__(self, seed: int) -> tuple[dict[str, Any], training.Order, int, float]:
        """Return those of a seed, computed once."""
        if seed not in self.known:
            directory, calls = self.base / f"reference-{seed}", []
            with watched(calls.append, directory):
                started = time.monotonic()
                training.train(directory, seed, in_background=False)
            seconds = time.monotonic() - started
            self.known[seed] = (training.outcome(directory), training.order(directory), len(calls), seconds)
        return self.known[seed]


def strike(name: str, number: int, count: int, seed: int, reference: Reference) -> str:
    """Let one fault of `count` happen, resume, and return what was lost, if anything."""
    run_seed = number % SEEDS
    expected, samples, calls, seconds = reference(run_seed)
    call = 1 + number * calls // count
    directory = Path(tempfile.mkdtemp(dir=reference.base)) / "run"
    ground = inside.Ground(directory, run_seed, random.Random(f"{seed} {name} {number}"))  # noqa: S311
    try:
        if name in inside.FAULTS:
            inside.FAULTS[name](ground, call)
        else:
            processes.FAULTS[name](ground, seconds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = ground.train()
        lost = [f"status {result.status}"] if result.status != "finished" else []
        lost += training.differences(training.outcome(directory), expected)
        lost += [] if training.order(directory) == samples else ["samples"]
    except Exception as error:
        traceback.print_exc()
        lost = [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(directory.parent)
    return ", ".join(lost)


def main(arguments: list[str] | None = None) -> int:
    """Strike, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="sixty faults and more, in less than a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORD", help="faults whose name has it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    memory = Path("/dev/shm")  # noqa: S108  # a disk whose fsync costs nothing
    with tempfile.TemporaryDirectory(prefix="torture-", dir=memory if memory.is_dir() else None) as base:
        rows = torture(options, Path(base))
    print(f"{'fault':40}{'times':>8}{'survived':>10}{'lost':>6}")
    for row in rows:
        print(f"{row['fault']:40}{row['times']:8}{row['survived']:10}{row['lost']:6}")
    total = {key: sum(row[key] for row in rows) for key in ("times", "survived", "lost")}
    print(f"{'all':40}{total['times']:8}{total['survived']:10}{total['lost']:6}")
    for row in rows:
        for reason in row["reasons"]:
            print(f"lost: {row['fault']}: {reason}")
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "faults": rows, "all": total}, indent=2) + "\n")
    return 1 if total["lost"] or not total["times"] else 0


def torture(options: argparse.Namespace, base: Path) -> list[dict[str, Any]]:
    """Strike every chosen fault as often as the form says, and return the table's rows."""
    reference, times = Reference(base), SHORT if options.short else LONG
    rows = []
    for name in (n for n in (*inside.FAULTS, *processes.FAULTS) if options.only in n):
        count = times.get(name, OTHERS[options.short]) or reference(0)[2]
        found: dict[str, list[int]] = defaultdict(list)
        for number in range(count):
            found[strike(name, number, count, options.seed, reference)].append(number)
        survived = len(found.pop("", []))
        reasons = [f"{reason} (numbers {numbers[:8]})" for reason, numbers in found.items()]
        rows.append({"fault": name, "times": count, "survived": survived, "lost": count - survived, "reasons": reasons})
    return rows


if __name__ == "__main__":
    sys.exit(main())
