"""skipped.jsonl: what a run has left out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

NAME = "skipped.jsonl"


class SkippedFile:
    """A line of JSON for each step, or each example, that was left out; several ranks may append at once.

    Without a folder nothing is written.
    """

    def __init__(self, directory: Path | None) -> None:
        self.path = directory and directory / NAME

    def forget_from(self, step: int, passed_over: Set[int]) -> None:
        """Drop the lines of steps still to be taken, but for those passed over, and any that is not whole."""
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step(line) < step or _step(line) in passed_over]
        if not kept:
            self.path.unlink()
        elif kept != lines:
            temporary = self.path.with_name(f".{NAME}")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(self.path)

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add a line an entry, in one write that other processes' do not cut."""
        if self.path is None or not entries:
            return
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
