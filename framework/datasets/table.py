"""Tables of numbers."""

from __future__ import annotations

import csv as format_csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from framework.batching.sets import TensorSet
from framework.batching.split import split_indices
from framework.datasets.base import Data
from framework.errors import ConfigError, nearest
from framework.registry import Probability, data
from framework.untrusted import open_regular


@data("csv")
def csv(
    seed: int,
    *,
    path: str,
    target: str | None = None,
    task: Literal["classification", "regression"] = "classification",
    test: Probability = 0.2,
) -> Data:
    """Rows of numbers from a comma-separated file with a header, one column of which is to be predicted.

    Inputs (columns,) floats, each column less its mean over its standard deviation, both over the rows that
    are not held out (a constant column gives 0). `target` is the column's name, null the last one: any texts,
    sorted, are the classes; for regression the targets are (1,) floats as they are. `test` is the fraction
    held out for testing by `seed`, stratified by class; 0 holds out none.
    Raises ConfigError for a file that cannot be read and for a cell that is not a number.
    """
    names, rows = _read(Path(path).expanduser())
    if target is not None and target not in names:
        raise ConfigError(f"data.target '{target}' is no column of {path}: {nearest(target, names)}")
    column = names.index(target) if target is not None else len(names) - 1
    inputs = _numbers(path, names, rows, [c for c in range(len(names)) if c != column])
    classes: tuple[str, ...] = ()
    if task == "classification":
        classes = tuple(sorted({row[column] for _, row in rows}))
        targets = torch.tensor([classes.index(row[column]) for _, row in rows])
    else:
        targets = _numbers(path, names, rows, [column])
    labels = targets if classes else None
    kept, held_out = split_indices(len(rows), test, seed, labels) if test else (torch.arange(len(rows)), None)
    std, mean = torch.std_mean(inputs[kept], dim=0, correction=0)
    standardize = Standardize(mean, torch.where(std > 0, std, 1))
    everything = TensorSet((inputs, targets if classes else targets.float()), standardize)
    return Data(
        task=task,
        input_shape=(inputs.shape[1],),
        outputs=len(classes) or 1,
        train=everything.subset(kept),
        test=None if held_out is None else everything.subset(held_out),
        classes=classes,
    )


@dataclass(frozen=True)
class Standardize:
    """Transform of a batch (inputs, targets): each column less its mean over its standard deviation, in floats."""

    mean: Tensor
    std: Tensor

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the batch with its inputs standardised."""
        inputs, targets = batch
        device = inputs.device
        return ((inputs.double() - self.mean.to(device)) / self.std.to(device)).float(), targets


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with the number of its line."""
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as file:
            reader = format_csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, format_csv.Error) as error:
        raise ConfigError(f"data 'csv' cannot read data.path={path}: {error}") from error
    if len(lines) < 2 or len(lines[0][1]) < 2:
        raise ConfigError(f"data 'csv' needs a header of two columns or more, and rows; {path} has none.")
    names = lines[0][1]
    if len(set(names)) < len(names) or all(_is_number(name) for name in names):
        raise ConfigError(f"data 'csv' needs a first line that names each column, once; {path} has none.")
    for line, row in lines[1:]:
        if len(row) != len(names):
            raise ConfigError(f"{path}:{line} must have {len(names)} cells, as the header has, got {len(row)}.")
    return names, lines[1:]


def _numbers(path: str, names: list[str], rows: list[tuple[int, list[str]]], columns: list[int]) -> Tensor:
    """Return the cells of some columns, (rows, columns) float64."""
    return torch.tensor(
        [[_number(f"{path}:{line}", names[c], row[c]) for c in columns] for line, row in rows],
        dtype=torch.float64,
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(where: str, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: column '{name}' must be a number, got {cell!r}.")
    return value
