"""Each check fails where its rule is broken, and says the rule, what was seen, and how to mend it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framework.registry import Origin, read_components
from framework.testing import Subject, all_checks, fresh, run_checks

HERE = Path(__file__).parent / "broken"
ORIGIN = Origin("broken", "", "file", root=HERE)
BROKEN = [
    (Subject(component), name)
    for path in sorted(HERE.glob("*.py"))
    for component in (replace(c, origin=ORIGIN) for c in read_components(path, path.stem))
    for name in component.load().breaks
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fresh, "IMPORT_SECONDS", 0.2)


@pytest.mark.parametrize(("subject", "name"), BROKEN, ids=[f"{s.kind}-{s.name}-{name}" for s, name in BROKEN])
def test_a_broken_one_fails(subject, name):
    if name == "runs_on_cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    (result,) = run_checks(subject, checks=[name])
    assert result.verdict == "failed"
    assert result.seen
    for part in (subject.name, name, result.rule, result.seen, result.mend):
        assert part in str(result)


def test_one_that_cannot_be_imported_fails_by_that_alone(tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    source = "from framework import loss\nimport nowhere_to_be_found\n\n\n@loss('lost')\nclass Lost: ...\n"
    (tmp_path / "plugins" / "lost.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    (result,) = run_checks("lost")
    assert (result.check, result.verdict) == ("can_be_imported", "failed")
    assert "No module named 'nowhere_to_be_found'" in result.seen


def test_every_check_has_a_broken_one():
    assert {name for _, name in BROKEN} | {"can_be_imported"} == {check.name for check in all_checks()}
