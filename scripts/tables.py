"""Write the tables of names in README.md and docs/ from the registry; --check only says whether they are true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from framework import registry
from framework.config import SECTIONS
from framework.registry.values import describe

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def names() -> str:
    """Return one line a kind: its names."""
    rows = ["| choose with | names |", "|---|---|"]
    for kind in registry.KINDS.values():
        choice = f"`{kind.name}=[…]`" if kind.plural else f"`{kind.name}=…`"
        rows.append(f"| {choice} | {', '.join(f'`{n}`' for n in registry.components(kind.name))} |")
    return "\n".join(rows)


def options(kind: str) -> str:
    """Return one line a component: its name, options and what it is."""
    rows = ["| name | options | |", "|---|---|---|"]
    for component in registry.components(kind).values():
        described = ", ".join(f"`{o.name}={_value(o.default)}`" for o in component.signature.options)
        rows.append(f"| `{component.name}` | {described} | {component.summary} |")
    return "\n".join(rows)


def settings(section: str) -> str:
    """Return one line a setting of a section."""
    rows = ["| setting | default | admits |", "|---|---|---|"]
    for option in registry.read_signature(SECTIONS[section]).options:
        admits = describe(option.annotation).replace("|", "\\|")
        rows.append(f"| `{section}.{option.name}` | `{_value(option.default)}` | {admits} |")
    return "\n".join(rows)


def _value(default: object) -> str:
    if isinstance(default, tuple | list):
        return f"[{','.join(map(_value, default))}]"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def table(name: str) -> str:
    """Return a table by its marker's word."""
    if name == "names":
        return names()
    return settings(name) if name in SECTIONS else options(name)


def main() -> int:
    """Rewrite every marked table; return 1 where --check finds one that is out of date."""
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = SECTION.sub(lambda m: f"{m[1]}{table(m[2])}\n{m[3]}", text)
        if new != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'out of date' if '--check' in sys.argv else 'rewrote'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
