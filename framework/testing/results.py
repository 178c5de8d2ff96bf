"""Running checks, and what came of each."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unittest import SkipTest

from framework.errors import ConfigError, nearest
from framework.testing.conformance import Check, CheckError, Subject, all_checks, checks_for, expected_failures
from framework.testing.subjects import Named, as_subjects, subjects_of

Verdict = Literal["ok", "failed", "skipped", "expected failure"]


@dataclass(frozen=True)
class CheckResult:
    """What came of one check of one component; `seen` is why it failed, was skipped, or was expected to fail."""

    kind: str
    name: str
    check: str
    verdict: Verdict
    rule: str
    mend: str
    seen: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing needs mending."""
        return self.verdict != "failed"

    def __str__(self) -> str:
        where = f"{self.kind} '{self.name}': {self.check}"
        if self.verdict != "failed":
            return f"{where}: {self.verdict}{f' ({self.seen})' if self.seen else ''}"
        return f"{where}: failed\n  rule: {self.rule}\n  seen: {self.seen}\n  mend: {self.mend}"


def run_checks(
    subject: Named, *, checks: Collection[str] | None = None, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[CheckResult]:
    """Run every check of a component, or of everything that a plugin brings, and return what came of each.

    `subject` is a Subject, a pair such as ("loss", "focal"), or a name: of a distribution, of a folder or file of
    ./plugins, or of a component. `checks` names those to run, None all; `options` are by kind, such as
    {"loss": {"gamma": 3}}. Raises ConfigError for a name that does not exist.
    """
    known = {check.name for check in all_checks()}
    for name in checks or ():
        if name not in known:
            raise ConfigError(f"there is no check '{name}': {nearest(name, known)}")
    subjects = subjects_of(subject, options) if isinstance(subject, str) else list(as_subjects([subject]))
    pairs = [pair for one in subjects for pair in checks_for(one)]
    return [run_check(one, check) for one, check in pairs if checks is None or check.name in checks]


def run_check(subject: Subject, check: Check) -> CheckResult:
    """Run one check of one component."""
    try:
        expected = expected_failures(subject).get(check.name)
    except Exception:
        expected = None  # it cannot be imported, which the check says better
    verdict, seen = _verdict(subject, check)
    if expected is not None and verdict == "failed":
        verdict, seen = "expected failure", expected
    elif expected is not None and verdict == "ok":
        verdict, seen = "failed", f"it is expected to fail ({expected}) and does not: leave it out of expected_failures"
    return CheckResult(subject.kind, subject.name, check.name, verdict, check.rule, check.mend, seen)


def _verdict(subject: Subject, check: Check) -> tuple[Verdict, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check.run(subject)
    except SkipTest as reason:
        return "skipped", str(reason)
    except CheckError as error:
        return "failed", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "ok", ""
