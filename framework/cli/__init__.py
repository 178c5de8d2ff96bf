"""The command line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from framework.cli import collector
from framework.errors import ConfigError, Exit, nearest

USAGE = """framework [train] [OVERRIDES]      train; without overrides, a network on handwritten digits
framework -m [OVERRIDES]           a sweep: optimizer=sgd,adam seed=1,2
framework resume=DIR [OVERRIDES] [accept=[KEYS]]   goes on with a run; resume=auto: with the newest cut short
framework evaluate run=DIR         the test figures of a run's best model
framework predict run=DIR input=FILE [output=FILE]
framework plot scheduler=NAME [OVERRIDES] [steps_per_epoch=100] [output=FILE.png]
framework explain [OVERRIDES] [example=0]   every z, a, δ and ∂L/∂W of one example
framework checkpoint list|verify DIR        what a run has saved, and whether it is whole
framework checkpoint convert DIR|FILE output=X.safetensors [which=best|last]
framework checkpoint export DIR output=X.pt2 [format=pt2|onnx]
framework check gradients [OVERRIDES | function=NAME] [--full] [--json FILE]
framework check plugin NAME [kind.option=value] [--json FILE]   whether a plugin keeps every rule of its kind
framework new KIND NAME [--file]            a plugin to begin with: plugins/NAME/, or plugins/NAME.py
framework plugins                  every plugin that is found, and what is wrong with it
framework [OVERRIDES] --help       every group, its options, and the composed settings"""

COMMANDS = ("train", "evaluate", "predict", "plot", "explain", "check", "checkpoint", "plugins", "new")


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    collector.put_off()
    sys.exit(int(_guarded(lambda: run(sys.argv[1:]))))


def run(arguments: list[str]) -> Exit:
    """Run one command; a mistake raises ConfigError."""
    command, rest = split_command(arguments)
    if command == "--version":
        from framework import __version__

        print(f"chainrule {__version__}")
        return Exit.OK
    if command == "train" and any(argument.startswith("resume=") for argument in rest):
        from framework.cli.resume import resume

        return resume(rest)
    if command == "train":
        from framework.cli.train import train

        return train(rest)
    if {"-h", "--help"} & set(rest):
        print(USAGE)
        return Exit.OK
    from framework.cli import commands
    from framework.cli.check import check
    from framework.cli.checkpoint import checkpoint
    from framework.cli.new import new
    from framework.cli.plugins import plugins

    own = {"check": check, "checkpoint": checkpoint, "new": new, "plugins": plugins}
    collector.take_up()
    work: Callable[[list[str]], Exit] = own.get(command) or getattr(commands, command)
    return work(rest)


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the command's name, `train` by default, and the arguments after it."""
    if not arguments or arguments[0][:1] in "-+~" or "=" in arguments[0]:
        return ("--version", []) if arguments[:1] == ["--version"] else ("train", arguments)
    if arguments[0] not in COMMANDS:
        raise ConfigError(f"there is no command '{arguments[0]}': {nearest(arguments[0], COMMANDS)}")
    return arguments[0], arguments[1:]


def _guarded(work: Callable[[], Exit]) -> Exit:
    """Make every way to fail one short message and an exit code; FRAMEWORK_TRACEBACK=1 shows where it came from."""
    try:
        return work()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except Exception as error:
        from framework.cli.messages import explain

        mistake = explain(error)
        if os.environ.get("FRAMEWORK_TRACEBACK") == "1":
            traceback.print_exc()
        if mistake:
            print(f"error: {mistake}", file=sys.stderr)
            return Exit.MISTAKE
        last = (str(error).strip() or "no message").splitlines()[-1]
        print(
            f"error: {type(error).__name__}: {last} (FRAMEWORK_TRACEBACK=1 shows where it came from)", file=sys.stderr
        )
        return Exit.FAILED
