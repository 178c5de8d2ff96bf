"""pytest --framework-plugin NAME: the conformance kit as tests, with no test file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the names of the plugins."""
    group = parser.getgroup("framework", "conformance of plugins")
    group.addoption(
        "--framework-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="check a plugin: a distribution, a folder or file of ./plugins, or a component; may be repeated. "
        "Without paths of tests, only that is done.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect no tests of files where none are named beside a plugin."""
    if config.getoption("framework_plugin") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add an item for each check of each component."""
    for name in session.config.getoption("framework_plugin"):
        plugin: Any = Plugin.from_parent(session, name=name, nodeid=name)
        items += plugin.collect()


class Plugin(pytest.Collector):
    """Everything that a name stands for."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the checks."""
        from framework.errors import ConfigError
        from framework.testing.parametrize import bound_checks

        try:
            found = bound_checks([self.name])
        except ConfigError as error:
            raise pytest.UsageError(f"--framework-plugin {self.name}: {error}") from None
        for one in found:
            item: Any = CheckItem.from_parent(self, name=one.name)
            item.run = one
            yield item


class CheckItem(pytest.Item):
    """One check of one component."""

    run: Any

    def runtest(self) -> None:
        """Run it."""
        self.run()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """Say rule, what was seen and how to mend, and nothing of the kit's own code."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return where the component is, and the item's name."""
        return self.run.subject.component.path, None, self.name
