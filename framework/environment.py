"""What a run was made with, for its folder."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from framework.functions.products import faster_kernel

PACKAGES = ("chainrule", "torch", "numpy", "hydra-core", "omegaconf", "tensorboard", "torchmetrics", "safetensors")


def environment() -> dict[str, Any]:
    """Return versions, devices, the git commit of the working folder, the host and the command."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "float32_products": faster_kernel(),
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it; None outside a repository or without git."""

    def output(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603  # constant

    try:
        return {
            "commit": output("rev-parse", "HEAD"),
            "dirty": bool(output("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
