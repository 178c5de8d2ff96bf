"""A sweep: every job composed and checked first, then each in turn, one that fails stopping no other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from framework import config
from framework.cli.messages import explain

HOME = "hydra_plugins.framework"
"""Where Hydra 1.3 wants launchers to live: it imports them again by this name."""


@dataclass
class LauncherOptions:
    """What Hydra instantiates for hydra/launcher=framework."""

    _target_: str = f"{HOME}.SweepLauncher"


class SweepLauncher(Launcher):
    """Runs the jobs of a sweep in this process, in order."""

    folder: ClassVar[Path | None] = None
    """Where the sweep of this process is to be."""

    @classmethod
    def offer(cls) -> None:
        """Make the launcher known to Hydra."""
        parent = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
        parent.__path__ = getattr(parent, "__path__", [])
        home = sys.modules.setdefault(HOME, ModuleType(HOME))
        cls.__module__ = HOME
        home.SweepLauncher = cls  # type: ignore[attr-defined]  # the alias itself
        parent.framework = home  # type: ignore[attr-defined]  # the alias itself
        Plugins.instance().register(cls)
        ConfigStore.instance().store(
            group="hydra/launcher", name="framework", node=LauncherOptions, provider="framework"
        )

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what a job needs; Hydra calls this before `launch`."""
        self.context = hydra_context
        self.task = task_function
        self.settings = config
        SweepLauncher.folder = Path(str(config.hydra.sweep.dir))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose and check all jobs, run each, and print the table of results."""
        from framework import reporting

        setup_globals()
        jobs = [self._compose(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        rows: list[tuple[list[str], Path, Mapping[str, Any]]] = []
        returns: list[JobReturn] = []
        for number, job in enumerate(jobs, start=1):
            overrides = list(job.hydra.overrides.task)
            reporting.note(f"job {number} of {len(jobs)}: {' '.join(overrides)}")
            done = run_job(self.task, job, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
            directory, result = done.return_value
            if isinstance(result, KeyboardInterrupt):
                result = {"status": "interrupted"}
            elif isinstance(result, BaseException):
                result = {"status": "failed", "error": explain(result) or f"{type(result).__name__}: {result}"}
                reporting.note(f"job {number} failed: {result['error']}")
            rows.append((overrides, directory, result))
            returns.append(done)
            if result["status"] in ("interrupted", "preempted"):
                break
        reporting.print_sweep(rows)
        return returns

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        job = self.context.config_loader.load_sweep_config(self.settings, overrides)
        with open_dict(job):
            job.hydra.job.id, job.hydra.job.num = str(number), number
            settings = OmegaConf.to_container(
                OmegaConf.masked_copy(job, [str(k) for k in job if k != "hydra"]), resolve=True
            )
        config.parse(settings)  # type: ignore[arg-type]  # a mapping
        return job


def discard_sweep() -> None:
    """Remove what Hydra's sweeper wrote for a sweep that is not to be."""
    if SweepLauncher.folder is not None:
        (SweepLauncher.folder / "multirun.yaml").unlink(missing_ok=True)
        remove_empty(SweepLauncher.folder)


def remove_empty(directory: Path) -> None:
    """Remove a folder that Hydra made for what is not to be, and those above it, as far as they are empty."""
    for folder in (directory, *directory.parents[:2]):
        if not folder.is_dir() or folder.resolve() == Path.cwd() or any(folder.iterdir()):
            return
        folder.rmdir()
