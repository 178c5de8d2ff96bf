"""A run's folder in a stranger's hands, and a command that meets it with little memory and little time."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framework import cli, config, run

MEMORY = 512 * 2**20
"""Bytes that a command may take beyond those of the process."""
SECONDS = 30


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made at the command line's level."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    folder.mkdir()
    mapping = {
        "model": {"name": "mlp", "widths": [8]},
        "data": {"name": "digits", "batch_size": 512},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adam"},
        "scheduler": {"name": "constant"},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    run.train(config.parse(mapping), folder, [])
    return folder


@pytest.fixture
def stranger(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder, `run` in the working folder, to be tampered with."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (tmp_path / "private").write_text("secret")
    return tmp_path / "run"


@contextmanager
def bounded() -> Iterator[None]:
    """Let the process grow by MEMORY, and no further, for SECONDS at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, hard))
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_slow(number: int, frame: object) -> None:
    pytest.fail("it hangs")


def _listing(folder: Path, but: Path | None) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        if but is None or not path.is_relative_to(but):
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command and return its message: one short line, exit code 2, nothing run and nothing written outside."""

    def check(*words: str, own: Path | None = None) -> str:
        before = _listing(tmp_path, own)
        capsys.readouterr()
        with bounded():
            code = cli._guarded(lambda: cli.run(list(words)))
        message = capsys.readouterr().err
        assert code == cli.Exit.MISTAKE, message
        lines = message.splitlines()
        assert len(lines) == 1, message
        assert lines[0].startswith("error: ")
        assert len(lines[0]) < 1200
        assert not list(tmp_path.rglob("MARKER*"))
        assert _listing(tmp_path, own) == before
        return lines[0]

    return check


def rewrite_json(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
