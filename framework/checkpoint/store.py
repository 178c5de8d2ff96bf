"""The checkpoints of a run's folder: a folder each, written under another name and renamed when whole."""

from __future__ import annotations

import math
import re
import shutil
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from framework.checkpoint import folder as one
from framework.checkpoint import retention
from framework.checkpoint.files import sync
from framework.checkpoint.folder import CorruptError
from framework.checkpoint.lock import FolderLock
from framework.checkpoint.options import CheckpointOptions
from framework.checkpoint.retention import Entry, Mode
from framework.checkpoint.snapshot import Snapshot
from framework.checkpoint.writer import Writer
from framework.errors import ConfigError

T = TypeVar("T")

STEP = re.compile(r"step-(0|[1-9]\d*)")
TEMPORARY = re.compile(r"\..+-[0-9a-f]{32}")


class Checkpoints:
    """The checkpoints of a run's folder: `checkpoints/step-N`, and the links `best` and `last` to them.

    The folder belongs to one process at a time, and to one run: ConfigError where another process holds it, or where
    it has a run already and `resume` is off. `mode` says which score is the better one.
    """

    def __init__(
        self, directory: Path, options: CheckpointOptions, *, mode: Mode = "min", resume: bool = False
    ) -> None:
        self.directory = directory
        self.options = options
        self.mode = mode
        self.folder = directory / "checkpoints"
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_link(self.folder)
        self._lock = FolderLock(directory)
        try:
            self.folder.mkdir(exist_ok=resume)
            if resume:
                _remove_leftovers(directory)
        except FileExistsError:
            self._lock.release()
            raise ConfigError(
                f"{directory} has a run already: choose another folder (hydra.run.dir), or set overwrite=true."
            ) from None
        except BaseException:
            self._lock.release()
            raise
        self._writer = Writer(in_background=options.in_background)
        self._reports: list[str] = []
        self._unwritten: tuple[Snapshot, float | None] | None = None
        """The best checkpoint, and its score, where the disk did not take it: the next save tries again."""

    def save(self, snapshot: Snapshot, *, best: bool, score: float | None = None) -> None:
        """Save a step: point `last` (and `best`) at it, and drop those that the options don't keep.

        `score` is what an evaluation of this step gave. A step that is saved already keeps its files, unless only now
        it has a score. Where the disk does not take it, that is a warning, and the checkpoints of before stay.
        """
        score = float(score) if score is not None and math.isfinite(score) else None
        self._writer.start(lambda: self._save(snapshot, best=best, score=score))
        self.report()

    def newest(self) -> Snapshot | None:
        """Return the newest checkpoint that verifies, or None; those that don't are set aside, with a warning.

        The best one is verified too, so that a run does not end with weights that cannot be read.
        """
        self.wait()
        found = None
        for step in sorted(self._steps(), reverse=True):
            found = self._checked(step, one.read)
            if found is not None:
                break
        while entries := self._entries():
            if self._checked(retention.best(entries.values(), self.mode), one.read_model) is not None:
                self._tidy(entries)
                break
        self.report()
        return found

    def wait(self) -> None:
        """Return when everything asked for is on disk, or was reported."""
        self._writer.wait()
        self.report()

    def report(self) -> None:
        """Warn of what went wrong in the background since the last call."""
        while self._reports:
            warnings.warn(self._reports.pop(0), stacklevel=2)

    def close(self) -> None:
        """Wait, and leave the folder to others."""
        try:
            self.wait()
        finally:
            self._lock.release()

    def _save(self, snapshot: Snapshot, *, best: bool, score: float | None) -> None:
        try:
            if self._unwritten is not None and not best:
                self._put(self._unwritten[0], best=True, score=self._unwritten[1])
            self._unwritten = None
            self._put(snapshot, best=best, score=score)
        except (OSError, SafetensorError) as error:
            self._unwritten = (snapshot, score) if best else self._unwritten
            self._reports.append(self._failure(snapshot, error))

    def _put(self, snapshot: Snapshot, *, best: bool, score: float | None) -> None:
        entry = self._entries().get(snapshot.step)
        if entry is None or (entry.score is None and score is not None):
            self._write(snapshot, best=best, score=score)
        self._tidy(self._entries())

    def _failure(self, snapshot: Snapshot, error: Exception) -> str:
        """Return what is said of a checkpoint that could not be written: why, and what is needed."""
        needed = sum(tensor.nbytes for tensors in snapshot.tensors.values() for tensor in tensors.values())
        reason = getattr(error, "strerror", None) or error
        text = f"the checkpoint of step {snapshot.step} could not be written to {self.folder}: {reason}"
        try:
            free, steps = shutil.disk_usage(self.folder).free, self._steps()
        except OSError:
            return f"{text}; the folder cannot be read either. Training goes on, and the next one is tried."
        before = f"step {max(steps)} is the last that is whole" if steps else "there is none before it"
        return (
            f"{text}; it needs {needed:,} bytes and {free:,} are free. Training goes on, and the next one is tried; "
            f"{before}."
        )

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _steps(self) -> list[int]:
        """Return the steps that have a folder; a link to one is none."""
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink()]
        return [int(match[1]) for path in folders if (match := STEP.fullmatch(path.name))]

    def _entries(self) -> dict[int, Entry]:
        """Return what the manifests say, by step."""
        found = {step: self._checked(step, one.read_manifest) for step in self._steps()}
        return {step: Entry(step, m["score"], m["best"]) for step, m in found.items() if m is not None}

    def _checked(self, step: int, read: Callable[[Path], T]) -> T | None:
        """Return what is read of a checkpoint; one that is corrupt is set aside, and None."""
        path = self._path(step)
        try:
            found = read(path)
            one.check_step(path, step)
        except CorruptError as error:
            aside = self.folder / f"corrupt-{path.name}-{uuid.uuid4().hex}"
            path.rename(aside)
            self._reports.append(f"{error} It is set aside as {aside}.")
            return None
        return found

    def _write(self, snapshot: Snapshot, *, best: bool, score: float | None) -> None:
        folder = self._path(snapshot.step)
        temporary = _temporary(folder)
        try:
            one.write(temporary, snapshot, score=score, best=best)
            if folder.exists():
                folder.rename(_temporary(folder))
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(self.folder)

    def _tidy(self, entries: dict[int, Entry]) -> None:
        """Point the links where the manifests say, then drop what is not kept."""
        self._link("last", retention.last(entries.values()))
        self._link("best", retention.best(entries.values(), self.mode))
        sync(self.directory)
        for step in entries.keys() - retention.kept(entries.values(), self.options, self.mode):
            gone = _temporary(self._path(step))
            self._path(step).rename(gone)
            shutil.rmtree(gone)

    def _link(self, name: str, step: int) -> None:
        target = self._path(step).relative_to(self.directory)
        link = self.directory / name
        if not link.is_symlink() or link.readlink() != target:
            temporary = _temporary(link)
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(link)


def clear(directory: Path) -> None:
    """Remove what a run wrote, and nothing else, from its folder; one without a run is left as it is.

    Raises ConfigError where another process holds the folder.
    """
    folder = directory / "checkpoints"
    if not folder.is_dir():
        return
    _refuse_link(folder)
    lock = FolderLock(directory)
    try:
        for name in (
            "config.yaml",
            "overrides.yaml",
            "environment.json",
            "result.json",
            "resumed.json",
            "trace.json",
            "trace.json.gz",
            "best",
            "last",
        ):
            (directory / name).unlink(missing_ok=True)
        for events in directory.glob("events.out.tfevents.*"):
            events.unlink()
        _remove_leftovers(directory)
        for path in folder.glob("*step-*"):
            _remove(path)
        if not any(folder.iterdir()):
            folder.rmdir()
    finally:
        lock.release()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def _remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left under temporary names."""
    for path in (*directory.iterdir(), *(directory / "checkpoints").iterdir()):
        if TEMPORARY.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _refuse_link(folder: Path) -> None:
    """Raise ConfigError where a folder that is written to and cleared is a link to another."""
    if folder.is_symlink():
        raise ConfigError(f"{folder} must be a folder, not a link: what it leads to could be another's.")
