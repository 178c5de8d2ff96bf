"""Tables: columns standardised by the training rows, classes from texts, and bad cells named."""

import numpy as np
import pytest
import torch

from framework.datasets import csv
from framework.errors import ConfigError
from framework.registry import build


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    return generator.normal([5, -100, 7], [2, 30, 0], (40, 3))


@pytest.fixture
def path(tmp_path, rows):
    lines = [f"{a},{'no' if i % 4 else 'yes'},{b},{c}" for i, (a, b, c) in enumerate(rows)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,kind,b,c", *lines, ""]))
    return str(path)


def test_classification(path, rows):
    data = build("data", "csv", {"path": path, "target": "kind", "test": 0.25}, runtime={"seed": 1})
    assert (data.task, data.input_shape, data.outputs) == ("classification", (3,), 2)
    assert data.classes == ("no", "yes")
    assert torch.bincount(data.train.labels).tolist() == [22, 8] or len(data.train) == 30
    inputs, targets = data.train.gather(torch.arange(30))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert inputs[:, :2].mean(0).abs().max() < 1e-6
    assert (inputs[:, :2].std(0, correction=0) - 1).abs().max() < 1e-6
    assert (inputs[:, 2] == 0).all()
    # undoing the standardisation by two rows' own values gives every row back, the held-out ones too
    whole = torch.cat([inputs, data.test.gather(torch.arange(10))[0]])[:, 0].double().sort().values
    a = torch.from_numpy(rows[:, 0]).sort().values
    slope = (a[-1] - a[0]) / (whole[-1] - whole[0])
    torch.testing.assert_close(whole * slope + (a[0] - whole[0] * slope), a, rtol=1e-5, atol=1e-5)


def test_regression_takes_the_last_column_as_it_is(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,10\n3,30\n\n")
    data = csv(0, path=str(path), task="regression", test=0.0)
    inputs, targets = data.train.gather(torch.arange(2))
    assert inputs.tolist() == [[-1], [1]]
    assert targets.tolist() == [[10], [30]]
    assert (data.outputs, data.classes, data.test, data.train.labels) == (1, (), None, None)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1,x\n", {"target": "c"}, "data.target 'c' is no column of .*: choose one of: a, b"),
        ("a,b\n1,x\n,y\n", {}, "wrong.csv:3: column 'a' must be a number, got ''"),
        ("a,b\nnan,x\n", {}, "column 'a' must be a number, got 'nan'"),
        ("a,b\n1,x\n", {"task": "regression"}, "column 'b' must be a number, got 'x'"),
        ("a,b\n1,x\n1\n", {}, "wrong.csv:3 must have 2 cells, as the header has, got 1"),
        ("a,b\n", {}, "needs a header of two columns or more, and rows"),
        ("a\n1\n", {}, "needs a header of two columns or more"),
        ("", {}, "needs a header"),
        ("a,b\n1,x\n", {"test": 0.5}, "both sides need at least one"),
        (None, {}, "cannot read data.path=.*No such file"),
    ],
)
def test_wrong_files_are_refused(content, options, message, tmp_path):
    path = tmp_path / "wrong.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        csv(0, path=str(path), **({"test": 0.0} | options))
