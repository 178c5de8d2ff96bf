"""Lines about what is being done."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def note(text: str) -> None:
    """Print a line about what is being done, on standard error."""
    Console(stderr=True).print(Text(text, style="dim"), soft_wrap=True)
