"""Checks as the parameters of a test function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from framework.testing.conformance import Check, CheckError, Subject, checks_for
from framework.testing.results import run_check
from framework.testing.subjects import Named, as_subjects


@dataclass(frozen=True)
class BoundCheck:
    """A check of one component, to be called from a test of pytest's."""

    subject: Subject
    check: Check

    @property
    def name(self) -> str:
        """Kind, component and check."""
        return f"{self.subject.kind}-{self.subject.name}-{self.check.name}"

    def __call__(self) -> None:
        """Run the check; a failure is a CheckError with the rule, what was seen, and how to mend."""
        import pytest

        __tracebackhide__ = True  # keeps the kit's own lines out of the report
        result = run_check(self.subject, self.check)
        if result.verdict == "failed":
            raise CheckError(str(result)) from None
        if result.verdict == "skipped":
            pytest.skip(result.seen)
        if result.verdict == "expected failure":
            pytest.xfail(result.seen)


def bound_checks(named: Sequence[Named]) -> list[BoundCheck]:
    """Return every check of every component."""
    return [BoundCheck(*pair) for subject in as_subjects(named) for pair in checks_for(subject)]


def parametrize_with_checks(named: Sequence[Named]) -> Callable[[Callable[..., Any]], Any]:
    """Give a test function each check of each component as its argument `check`, to be called without arguments.

    `named` holds Subjects, pairs such as ("loss", "focal"), and names of distributions, of folders or files of
    ./plugins, and of components. A failure that the component declares in `expected_failures` is an expected one:

        @parametrize_with_checks(["focal"])
        def test_focal(check):
            check()
    """
    import pytest

    parameters = [pytest.param(one, id=one.name) for one in bound_checks(named)]
    mark: Callable[[Callable[..., Any]], Any] = pytest.mark.parametrize("check", parameters)
    return mark
