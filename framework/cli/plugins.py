"""framework plugins: what is found, where it is from, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from framework import plugins as found_plugins
from framework import registry
from framework.cli import composition
from framework.errors import ConfigError, Exit
from framework.registry import Component

COLUMNS = ("kind", "name", "distribution", "version", "API", "import, ms", "status")
NONE = "no plugins: pip install one, or write one into ./plugins: framework new KIND NAME"
WIDEST = 2000
"""Characters of a line where no screen folds it."""


def plugins(arguments: list[str]) -> Exit:
    """Print a table of every plugin's components; this alone imports them all."""
    if arguments:
        raise ConfigError(f"plugins takes no arguments, got '{arguments[0]}'.")
    found_plugins.discover()
    composition.offer_conf()
    found = found_plugins.found
    if not found.components:
        print(f"{found_plugins.SWITCH}=off: no plugins" if found_plugins.is_off() else NONE)
        return Exit.OK
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from framework import trainer  # noqa: F401  # so that no plugin's time counts the import of torch

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in (*map(_row, found.components), *map(_replaced, found.replaced)):
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console.width = WIDEST
    console.print(table)
    return Exit.OK


def _row(component: Component) -> tuple[str, ...]:
    status, spent = _status(component), ""
    if not component.broken and component.kind in registry.KINDS:
        start = time.perf_counter()
        try:
            component.load()
        except ConfigError as error:
            status = f"broken: {error}"
        spent = f"{(time.perf_counter() - start) * 1e3:.0f}"
    return (*_about(component), spent, status)


def _replaced(component: Component) -> tuple[str, ...]:
    return (*_about(component), "", "not used: the folder in ./plugins is")


def _about(component: Component) -> Iterator[str]:
    origin = component.origin
    assert origin is not None
    yield from (component.kind, component.name, origin.distribution, origin.version or origin.place, f"v{origin.api}")


def _status(component: Component) -> str:
    if component.broken:
        return f"broken: {component.broken}"
    if component.kind not in registry.KINDS:
        return "ok"
    known = registry.components(component.kind)
    if known.get(component.name) is component:
        return "ok"
    if component.name in known and known[component.name].origin is None:
        return f"shadowed by the built-in one: use {component.qualified}"
    return f"of several plugins: use {component.qualified}"
