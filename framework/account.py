"""What a run was asked to do, and with what, in its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from framework import registry, reporting
from framework.callbacks.base import Callback
from framework.checkpoint import write_json
from framework.config import RunConfig
from framework.datasets.base import Data
from framework.environment import environment

if TYPE_CHECKING:
    from framework.trainer import Trainer


class Account(Callback):
    """Writes what a run was asked to do, and with what, once it is sure to start."""

    def __init__(self, config: RunConfig, overrides: Sequence[str], data: Data) -> None:
        self.config = config
        self.overrides = overrides
        self.shape = {"input_shape": data.input_shape, "outputs": data.outputs}

    def on_fit_start(self, trainer: Trainer) -> None:
        """Write the files of the folder, the configuration as text, and what was overridden as hparams."""
        board, directory = trainer.record.board, trainer.record.directory
        assert board is not None
        assert directory is not None
        settings = to_yaml(self.config.to_mapping())
        (directory / "config.yaml").write_text(settings, encoding="utf-8")
        (directory / "overrides.yaml").write_text(to_yaml(list(self.overrides)), encoding="utf-8")
        write_json(directory / "environment.json", {**environment(), "plugins": self._plugins(), "data": self.shape})
        board.text("config", f"```yaml\n{settings}```")
        board.text("backprop", trainer.backpropagate.why)
        reporting.note(trainer.backpropagate.why)
        part = "train" if trainer.validation_batches is None else "val"
        compared = dict.fromkeys([trainer.score.name, *(f"{name}/{part}" for name in ("loss", *trainer.metrics))])
        board.hparams({"seed": self.config.seed, **self._chosen()}, list(compared))

    def _plugins(self) -> dict[str, str]:
        """Return the file, and its hash, of each chosen component that is not the package's own."""
        chosen = {kind: getattr(self.config, kind) for kind in registry.KINDS}
        names = [(k, n) for k, c in chosen.items() for n in (c if isinstance(c, dict) else [c.name] if c else [])]
        found = [registry.find(kind, name) for kind, name in names]
        others = [c for c in found if not c.module.startswith("framework.")]
        hashes = [hashlib.sha256(c.path.read_bytes()).hexdigest() for c in others]
        return {f"{c.kind}={c.name}": f"{c.path} sha256:{found}" for c, found in zip(others, hashes, strict=True)}

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
