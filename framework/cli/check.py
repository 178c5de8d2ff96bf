"""framework check: whether what can be chosen keeps its word."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from framework import config, plugins
from framework.cli import composition
from framework.errors import ConfigError, Exit, nearest

FORMS = "framework check gradients [OVERRIDES | function=NAME] [--full] [--json FILE]"
PLUGIN = "framework check plugin NAME [kind.option=value ...] [--json FILE]"


def check(arguments: list[str]) -> Exit:
    """Check what the first word says."""
    words = {"gradients": gradients, "plugin": plugin}
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


def plugin(arguments: list[str]) -> Exit:
    """Run every check of everything that a plugin brings, and print what came of each."""
    flags, path, rest = _take_flags(arguments)
    names = [word for word in rest if "=" not in word]
    if len(names) != 1 or names[0].startswith("-") or flags:
        raise ConfigError(f"check plugin needs one name, got '{' '.join([*flags, *names])}': {PLUGIN}")
    options: dict[str, dict[str, Any]] = {}
    for key, value in composition.values_of([word for word in rest if "=" in word]).items():
        kind, _, option = key.rpartition(".")
        if not kind:
            raise ConfigError(f"'{key}' is no option of a component: write kind.option=value.")
        options.setdefault(kind, {})[option] = value
    from framework.testing.conformance import checks_for
    from framework.testing.results import run_check
    from framework.testing.subjects import subjects_of

    results = []
    for subject in subjects_of(names[0], options):
        for _, rule in checks_for(subject):
            results.append(run_check(subject, rule))
            print(results[-1], flush=True)
    verdicts = Counter(result.verdict for result in results)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    right = all(result.ok for result in results)
    if path is not None:
        content = {"ok": right, "results": [asdict(result) for result in results]}
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
