"""Every command and every program in README and docs is run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("FRAMEWORK_DATA", ROOT.parent / "shared" / "data"))
BLOCK = re.compile(r"^```(bash|python|yaml)(?: ([^\n]*))?\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_runs(page: Path, tmp_path: Path):
    """Run a page from top to bottom in an empty folder; ```yaml and ```python blocks with a file name are written."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    if DATA.exists():
        (tmp_path / "data").symlink_to(DATA)
    for number, (language, title, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), start=1):
        if title.endswith((".py", ".yaml")):
            path = tmp_path / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
            continue
        if "pip install" in code:
            assert code.strip() in (ROOT / ".ci" / "run").read_text(), "run by .ci/run, in a fresh virtual environment"
            continue
        if "data/" in code and not DATA.exists():
            pytest.skip(f"{page.name} needs the data sets: set FRAMEWORK_DATA to their folder")
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, f"{page.name}, block {number}:\n{code}\n{run.stdout}\n{run.stderr}"


def test_tables_are_true():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "tables.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}: run scripts/tables.py"


def test_no_block_hides_from_the_tests():
    for page in PAGES:
        opened = re.findall(r"^```(\w*)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(opened) <= {"", "bash", "python", "yaml", "text"}, page.name
