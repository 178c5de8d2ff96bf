"""framework checkpoint: what a run has saved, whether it is whole, and its weights for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from framework import plugins, registry
from framework.cli import composition
from framework.errors import ConfigError, Exit, nearest

WHICH = Literal["best", "last"]
FORMAT = Literal["pt2", "onnx"]


def checkpoint(arguments: list[str]) -> Exit:
    """Do what the first word says."""
    words = {"list": show, "verify": verify, "convert": convert, "export": export}
    if not arguments or arguments[0] not in words:
        given = arguments[0] if arguments else ""
        raise ConfigError(f"checkpoint needs what to do, got '{given}': {nearest(given, words)}")
    return words[arguments[0]](arguments[1:])


def show(arguments: list[str]) -> Exit:
    """Print a table of a run's checkpoints."""
    directory, _ = _split("list", arguments)
    from framework import reporting
    from framework.checkpoint.listing import listed

    reporting.print_checkpoints(listed(directory))
    return Exit.OK


def verify(arguments: list[str]) -> Exit:
    """Check every file of every checkpoint against its sum; where one is corrupt name it, and fail."""
    directory, _ = _split("verify", arguments)
    from framework.checkpoint.listing import listed

    rows = listed(directory)
    problems = [row.problem for row in rows if row.problem]
    problems += [f"{directory / n} points at nothing." for n in ("best", "last") if not (directory / n).exists()]
    for problem in problems:
        print(problem)
    count = _counted(len(rows), "checkpoint")
    if problems:
        print(f"{count}, {len(problems)} corrupt. A run that is resumed sets them aside and goes on from one before.")
        return Exit.FAILED
    print(f"{count}, every file as its manifest says.")
    return Exit.OK


def convert(arguments: list[str]) -> Exit:
    """Write the weights of a run, or of another program's file, as safetensors."""
    source, values = _split("convert", arguments, "output", "which")
    output = _output(values, "convert", "X.safetensors")
    which = registry.convert(values.get("which", "best"), WHICH, "which")
    from framework.checkpoint.conversion import convert as write

    tensors = write(source, output, which=which)
    print(f"{_counted(len(tensors), 'tensor')}: {output}")
    return Exit.OK


def export(arguments: list[str]) -> Exit:
    """Write the best model of a run as a program for other runtimes."""
    directory, values = _split("export", arguments, "output", "format")
    output = _output(values, "export", "X.pt2")
    form = registry.convert(values.get("format", "pt2"), FORMAT, "format")
    plugins.discover()
    from framework.export import export as write

    write(directory, output, form)
    print(f"model: {output}")
    return Exit.OK


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _split(command: str, arguments: list[str], *names: str) -> tuple[Path, dict[str, str]]:
    """Return the path that a command is about, and its name=value arguments."""
    paths, rest = composition.take_paths(arguments, *names)
    if len(rest) != 1 or rest[0].startswith("-"):
        form = f"framework checkpoint {command} DIR{''.join(f' [{name}=…]' for name in names)}"
        raise ConfigError(f"checkpoint {command} takes one path, got '{' '.join(rest)}': {form}")
    return Path(rest[0]).expanduser(), {name: str(path) for name, path in paths.items()}


def _output(values: dict[str, str], command: str, form: str) -> Path:
    if "output" not in values:
        raise ConfigError(f"checkpoint {command} needs output={form}.")
    return Path(values["output"])
