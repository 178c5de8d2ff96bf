"""A trained model as a program for other runtimes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.run import load
from framework.untrusted import read_json

Format = Literal["pt2", "onnx"]


def export(directory: Path, output: Path, form: Format) -> None:
    """Write the best model of a run by torch.export, or as ONNX, for batches of any size.

    Raises ConfigError where the file's name is of another format, or where onnx is not installed.
    """
    if output.suffix != f".{form}":
        raise ConfigError(f"output={output}: format={form} is written to a file named so: output=X.{form}.")
    if form == "onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise ConfigError("format=onnx needs ONNX: pip install 'chainrule[onnx]'.")
    model = load(directory)
    shape = read_json(directory / "environment.json")["data"]["input_shape"]
    program = torch.export.export(
        model, (_example(model, shape),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    if form == "onnx":
        torch.onnx.export(program, (), output, dynamo=True)
    else:
        torch.export.save(program, output)


def _example(model: nn.Module, shape: list[int]) -> Tensor:
    """Return two examples of a model's inputs: numbers, or for a model that looks them up, whole numbers."""
    numbers = torch.zeros(2, *shape)
    try:
        with torch.no_grad():
            model(numbers)
    except RuntimeError:
        return numbers.long()
    return numbers
