"""What authors of plugins run against their own: the conformance kit, and gradients as an assertion."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.testing.conformance import Check, CheckError, Subject, all_checks, check, checks_for
    from framework.testing.gradients import assert_gradients
    from framework.testing.parametrize import parametrize_with_checks
    from framework.testing.results import CheckResult, run_checks

__all__ = [
    "Check",
    "CheckError",
    "CheckResult",
    "Subject",
    "all_checks",
    "assert_gradients",
    "check",
    "checks_for",
    "parametrize_with_checks",
    "run_checks",
]

_HOMES = {
    **dict.fromkeys(("Check", "CheckError", "Subject", "all_checks", "check", "checks_for"), "conformance"),
    **dict.fromkeys(("CheckResult", "run_checks"), "results"),
    "assert_gradients": "gradients",
    "parametrize_with_checks": "parametrize",
}


def __getattr__(name: str) -> Any:
    # on demand, since pytest imports this package in every session for its plugin
    if name not in _HOMES:
        raise AttributeError(f"module 'framework.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(f"framework.testing.{_HOMES[name]}"), name)
