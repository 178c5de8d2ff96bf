"""framework train: one run, or a sweep of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from framework import config
from framework.cli import collector, composition
from framework.cli.commands import help_of_train
from framework.cli.launcher import SweepLauncher, discard_sweep, remove_empty
from framework.errors import Exit
from framework.signals import listen

EXITS = {"interrupted": Exit.INTERRUPTED, "preempted": Exit.PREEMPTED, "failed": Exit.FAILED}
"""The exit code that a run's status stands for, where it is not 0."""

Outcome = tuple[Path, dict[str, Any] | BaseException]
"""A job's folder, and the content of its result.json or what stopped it."""

_outcomes: list[Outcome] = []


def train(arguments: list[str]) -> Exit:
    """Compose, check and run; return the exit code of the run, or of the worst of a sweep."""
    flags, folder, overrides = composition.split_flags(arguments)
    if {"-h", "--help"} & set(flags):
        return help_of_train(overrides, folder)
    home = composition.prepare(folder)
    SweepLauncher.offer()
    if "COMP_LINE" in os.environ:  # for completion Hydra takes each word for an override, so our own goes
        os.environ["COMP_LINE"] = os.environ["COMP_LINE"].replace("framework train ", "framework ", 1)
    _outcomes.clear()
    before = sys.argv
    sys.argv = [before[0], *flags, *overrides]
    try:
        # from here on, since Hydra makes the run's folder before it calls the job
        with listen(), composition.plain_errors():
            hydra.main(version_base="1.3", config_path=str(home), config_name="train")(_job)()
    except Exception:
        discard_sweep()
        raise
    finally:
        sys.argv = before
    results = [result for _, result in _outcomes]
    if len(results) == 1 and isinstance(results[0], BaseException):
        raise results[0]
    return max(map(_exit_code, results), default=Exit.OK)


def _exit_code(result: dict[str, Any] | BaseException) -> Exit:
    if isinstance(result, BaseException):
        return Exit.INTERRUPTED if isinstance(result, KeyboardInterrupt) else Exit.FAILED
    return EXITS.get(result["status"], Exit.OK)


def _job(composed: DictConfig) -> Outcome:
    """Run one composed configuration in Hydra's output folder; what it raises is returned, as Hydra would print it."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    outcome: dict[str, Any] | BaseException
    try:
        settings = config.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]  # a mapping
        from framework import reporting, run

        collector.take_up()
        overrides = [f"{o[1:]}=null" if o.startswith("~") else o for o in HydraConfig.get().overrides.task]
        result = run.train(settings, directory, overrides)
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            reporting.print_summary(result, directory)
        outcome = result.to_json()
    except (Exception, KeyboardInterrupt) as error:
        outcome = error
        remove_empty(directory)
    _outcomes.append((directory, outcome))
    return directory, outcome
