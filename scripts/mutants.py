"""Print which seeded bugs framework check and torch.autograd.gradcheck catch; --write puts the table into the docs."""

from __future__ import annotations

import sys
from pathlib import Path

from pages import DOCS, rewrite

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gradients")]


def table() -> str:
    """Return a line for each mutant, and the rates."""
    from judge import check, found_by, gradcheck_finds
    from mutants import MUTANTS

    rows = ["| bug | caught by `framework check` | caught by `gradcheck` |", "|---|---|---|"]
    caught, by_gradcheck, alarms = 0, 0, 0
    for mutant in MUTANTS.values():
        report = check(mutant.make(True))
        found = gradcheck_finds(mutant.make(True))
        caught, by_gradcheck = caught + (not report.ok), by_gradcheck + found
        alarms += not check(mutant.make(False)).ok
        rows.append(f"| {mutant.bug} | {_first(found_by(report)) or 'no'} | {'yes' if found else 'no'} |")
    count = len(MUTANTS)
    rows.append(f"| **caught of {count}** | **{caught}** | **{by_gradcheck}** |")
    rows.append(f"| right twins that are taken for wrong, of {count} | {alarms} | {_alarms_of_gradcheck()} |")
    return "\n".join(rows)


def _alarms_of_gradcheck() -> int:
    from judge import gradcheck_finds
    from mutants import MUTANTS

    return sum(gradcheck_finds(mutant.make(False)) for mutant in MUTANTS.values())


def _first(found: str) -> str:
    first, *others = found.split(", ")
    return f"{first} (and {len(others)} more)" if others else first


def main() -> None:
    """Print the table, or write it."""
    made = table()
    print(made)
    if "--write" in sys.argv:
        rewrite(DOCS / "checking.md", "mutants", made)


if __name__ == "__main__":
    main()
