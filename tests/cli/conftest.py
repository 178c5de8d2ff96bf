"""The real command, in a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMEWORK_", "HYDRA_", "COMP_"))}
    return {**kept, "PYTHONWARNINGS": "ignore", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def command(tmp_path: Path, environment: dict[str, str]) -> Command:
    def run(*arguments: str, root: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "framework", *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(root), **extra},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def refused() -> Callable[..., None]:
    """Assert a mistake: exit code 2 and one short line that holds the fragments."""

    def check(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        for fragment in fragments:
            assert fragment in line

    return check
