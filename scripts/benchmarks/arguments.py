"""The command line of a benchmark."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Takes --write, --json and --rounds; a mistake is one short message and exit code 2."""

    def __init__(self, benchmark: str, description: str | None, rounds: int) -> None:
        super().__init__(prog=f"bench.py {benchmark}", description=description)
        self.add_argument("--write", action="store_true", help="put the tables into the docs")
        self.add_argument("--json", type=Path, metavar="FILE", help="write every number there, each round's too")
        self.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"rounds at most (default {rounds})")

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        print(f"{self.prog.replace('.py', '')}: {message}", file=sys.stderr)
        raise SystemExit(2)

    def checked(self, arguments: list[str]) -> argparse.Namespace:
        """Return the options; exit with code 2 where one is out of range."""
        options = self.parse_args(arguments)
        if options.rounds < 1:
            self.error(f"--rounds must be at least 1, got {options.rounds}.")
        if options.json and not options.json.parent.is_dir():
            self.error(
                f"--json writes into a folder that exists, got {options.json}: make {options.json.parent} first."
            )
        return options
