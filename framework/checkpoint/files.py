"""Files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; numbers that JSON lacks (nan, inf) become null."""
    write_text(path, json.dumps(_only_finite(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in place of whatever has its name, be it a link."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _only_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _only_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_only_finite(v) for v in value]
    if isinstance(value, Tensor):
        return _only_finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync(path: Path) -> None:
    """Return when a file, or what a folder lists, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
