"""framework check: whether what can be chosen keeps its word."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import OmegaConf

from framework import config, plugins
from framework.cli import composition
from framework.errors import ConfigError, Exit, nearest

FORMS = "framework check gradients [OVERRIDES | function=NAME] [--full] [--json FILE]"


def check(arguments: list[str]) -> Exit:
    """Check what the first word says."""
    words = {"gradients": gradients}
    if not arguments or arguments[0] not in words:
        given = arguments[0] if arguments else ""
        raise ConfigError(f"check needs what to check, got '{given}': {nearest(given, words)}")
    return words[arguments[0]](arguments[1:])


def gradients(arguments: list[str]) -> Exit:
    """Check the gradients of a run as composed, or of a hand-written function, and print what was found."""
    flags, path, rest = _take_flags(arguments)
    full = "--full" in flags
    names, overrides = composition.take_paths(rest, "function")
    if "function" in names:
        if overrides:
            raise ConfigError(f"function=NAME is checked by examples of its own: leave out '{overrides[0]}'.")
        plugins.discover()
        from framework import gradients as checks

        reports = checks.check_named(str(names["function"]), full=full)
    else:
        more, folder, chosen = composition.split_flags(overrides)
        if more:
            raise ConfigError(f"check gradients has no flag '{more[0]}': {FORMS}")
        composed = composition.composed(chosen, folder)
        settings = config.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]  # a mapping
        from framework import gradients as checks
        from framework import run

        reports = [run.check_gradients(settings, full=full)]
    checks.print_reports(reports)
    right = all(report.ok for report in reports)
    if path is not None:
        content = {"ok": right, "reports": [report.to_json() for report in reports]}
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(f"written to {path}")
    return Exit.OK if right else Exit.FAILED


def _take_flags(arguments: list[str]) -> tuple[set[str], Path | None, list[str]]:
    """Return --full where it is given, the file of --json, and the other arguments."""
    flags: set[str] = set()
    path: Path | None = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, _, value = word.partition("=")
        if word == "--full":
            flags.add(word)
        elif flag == "--json":
            path = Path(value or next(words, "")).expanduser()
            if path.suffix != ".json":
                raise ConfigError(f"--json needs a file to write, such as --json gradients.json, got '{path}'.")
            if not path.parent.is_dir():
                raise ConfigError(f"--json {path}: there is no folder {path.parent}: make it first.")
        else:
            rest.append(word)
    return flags, path, rest
