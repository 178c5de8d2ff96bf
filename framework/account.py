"""What a run was asked to do, and with what, in its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from framework import plugins, reporting, untrusted
from framework.callbacks.base import Callback
from framework.checkpoint import write_json, write_text
from framework.config import RunConfig
from framework.datasets.base import Data
from framework.environment import environment
from framework.plugins import records

if TYPE_CHECKING:
    from framework.trainer import Trainer


class Account(Callback):
    """Writes what a run was asked to do, and with what, once it is sure to start."""

    def __init__(
        self, config: RunConfig, overrides: Sequence[str], data: Data, changes: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.overrides = overrides
        self.changes = changes
        """What a resume has changed, by dotted key; None in a new run."""
        self.plugins = records.used(config.names())
        self.shape = {"input_shape": data.input_shape, "outputs": data.outputs}

    def on_fit_start(self, trainer: Trainer) -> None:
        """Write the files of the folder, the configuration as text, and what was overridden as hparams.

        Of a run that goes on only the resume is noted; what it wrote at its start stays.
        """
        board, directory = trainer.record.board, trainer.record.directory
        assert board is not None
        assert directory is not None
        settings = to_yaml(self.config.to_mapping())
        if self.changes is None:
            write_text(directory / "overrides.yaml", to_yaml(list(self.overrides)))
            about = {**environment(), "plugins": self.plugins, "data": self.shape}
            write_json(directory / "environment.json", about)
            write_text(directory / "config.yaml", settings)  # the last: a folder that has it has a run
        else:
            self._note_resume(directory / "resumed.json", trainer.progress.step)
        for line in plugins.remarks(self.config.names()):
            reporting.note(line)
        if trainer.progress.step:
            return
        board.text("config", f"```yaml\n{settings}```")
        board.text("backprop", trainer.backpropagate.why)
        for line in trainer.announcements:
            reporting.note(line)
        part = "train" if trainer.validation_batches is None else "val"
        compared = dict.fromkeys([trainer.score.name, *(f"{name}/{part}" for name in ("loss", *trainer.metrics))])
        board.hparams({"seed": self.config.seed, **self._chosen()}, list(compared))

    def state(self) -> dict[str, Any]:
        """Return the configuration's hash, and the plugins, so that a checkpoint says what it was made with."""
        used = {c: {k: r[k] for k in ("distribution", "version")} for c, r in self.plugins.items()}
        return {"sha256": hashlib.sha256(to_yaml(self.config.to_mapping()).encode()).hexdigest(), "plugins": used}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up nothing: the configuration may have been changed, as was accepted."""

    def _note_resume(self, path: Path, step: int) -> None:
        before = untrusted.read_json_value(path) if path.exists() else []
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, [*before, {"time": moment, "step": step, "changes": self.changes}])

    def _chosen(self) -> dict[str, bool | int | float | str]:
        """Return what the overrides set, as values of the configuration where they are plain, else as written."""
        chosen: dict[str, bool | int | float | str] = {}
        for key, _, text in (override.partition("=") for override in self.overrides):
            value: Any = self.config.to_mapping()
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if not key.startswith("hydra"):
                chosen[key] = value if isinstance(value, bool | int | float | str) else text
        return chosen


def to_yaml(content: Any) -> str:
    """Return plain values as YAML, in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
