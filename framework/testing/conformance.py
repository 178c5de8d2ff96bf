"""What is checked of a component: subjects, checks, and which belongs to which."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from framework import registry
from framework.errors import ConfigError
from framework.registry import Component


class CheckError(AssertionError):
    """A component does not keep a rule; the message says what was seen."""


@dataclass(frozen=True)
class Subject:
    """A component under test, and the options that it is made with besides its defaults."""

    component: Component
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The component's kind, such as `loss`."""
        return self.component.kind

    @property
    def name(self) -> str:
        """The component's registered name."""
        return self.component.name

    @property
    def factory(self) -> Any:
        """The class or function itself; it is imported."""
        return self.component.load()

    def build(self, *runtime: Any, **options: Any) -> Any:
        """Make one, from the arguments before `*` and options that go before the subject's own."""
        where = f"{self.kind} '{self.name}'"
        own = getattr(self.factory, "kit_options", {})
        given = registry.check_options(self.component.signature.options, {**own, **self.options, **options}, where)
        return self.factory(*runtime, **given)


Work = Callable[[Subject], None]


@dataclass(frozen=True)
class Check:
    """One rule: what it demands, how to mend a component that breaks it, and the function that finds out.

    `run` raises CheckError where the rule is broken; any other exception counts as broken too. One that does not apply
    to a component raises `unittest.SkipTest` with the reason.
    """

    name: str
    kinds: frozenset[str]
    rule: str
    mend: str
    run: Work


_checks: dict[str, Check] = {}


def check(*kinds: str, rule: str, mend: str) -> Callable[[Work], Work]:
    """File a function as the check of the same name, for some kinds or, without any, for all."""

    def file(work: Work) -> Work:
        name: str = work.__name__
        assert name not in _checks, name
        _checks[name] = Check(name, frozenset(kinds or registry.KINDS), rule, mend, work)
        return work

    return file


def all_checks() -> list[Check]:
    """Return every check there is, in the order of their files."""
    from framework.testing import checks

    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return list(_checks.values())


def expected_failures(subject: Subject) -> Mapping[str, str]:
    """Return the checks that a component says it fails, and why; raises CheckError where there is no such check."""
    declared: Mapping[str, str] = getattr(subject.factory, "expected_failures", {})
    for name in declared:
        if name not in {found.name for found in all_checks()}:
            raise CheckError(f"expected_failures names '{name}', which is no check")
    return declared


def checks_for(subject: Subject) -> Iterator[tuple[Subject, Check]]:
    """Yield each check that the subject's kind has to pass; where it cannot be imported, only the one that says so."""
    checks = {found.name: found for found in all_checks()}
    try:
        subject.component.load()
    except ConfigError:
        yield subject, checks["can_be_imported"]
        return
    for found in checks.values():
        if subject.kind in found.kinds:
            yield subject, found
