"""Sections of the documentation that scripts write: between <!-- MARK --> and <!-- end -->."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def rewrite(page: Path, mark: str, section: str) -> None:
    """Put a section between its marks on a page; raise ValueError where the page has none."""
    text = page.read_text(encoding="utf-8")
    found = re.compile(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not found.search(text):
        raise ValueError(f"{page.name} must have the lines <!-- {mark} --> and <!-- end -->: add them.")
    page.write_text(found.sub(lambda match: f"{match[1]}{section}\n{match[2]}", text), encoding="utf-8")
