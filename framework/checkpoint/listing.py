"""What a run's folder holds, for reading only: a run may be writing there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from framework.checkpoint.folder import FILES, MANIFEST, CorruptError, check_step, verify
from framework.checkpoint.store import STEP
from framework.errors import ConfigError


@dataclass(frozen=True)
class Listed:
    """A checkpoint as it lies on disk: its size in bytes, the links to it, and what is wrong with it, if anything."""

    step: int
    score: float | None
    size: int
    links: tuple[str, ...]
    problem: str


def listed(directory: Path) -> list[Listed]:
    """Return the checkpoints of a run, verified by their sums, by step; raises ConfigError where there is none."""
    home = directory / "checkpoints"
    steps = sorted(int(m[1]) for path in home.glob("step-*") if (m := STEP.fullmatch(path.name)))
    links = {name: (directory / name).resolve() for name in ("best", "last")}
    rows = [
        _row(folder, step, tuple(name for name, target in links.items() if target == folder.resolve()))
        for step in steps
        if (folder := home / f"step-{step}").exists()
    ]
    if not rows:
        raise ConfigError(f"{directory} has no checkpoints: is it the folder of a run that was trained?")
    return rows


def _row(folder: Path, step: int, links: tuple[str, ...]) -> Listed:
    score, problem = None, ""
    try:
        score = verify(folder)["score"]
        check_step(folder, step)
    except CorruptError as error:
        problem = str(error)
    size = sum(path.stat().st_size for name in (*FILES, MANIFEST) if (path := folder / name).is_file())
    return Listed(step, score, size, links, problem)
