import json
import math

import pytest
import torch

from framework.checkpoint import flatten, unflatten
from framework.errors import ConfigError


def test_everything_comes_back_through_strict_json():
    nested = {
        "ema": {"0.weight": torch.arange(3.0), "0": {"weight": torch.ones(2, dtype=torch.bfloat16)}},
        "list": [torch.tensor(3), (1, 2.5, None, True, "text"), {}],
        "numbers": [math.inf, -math.inf, 0.1, 1e300, -0.0, 2**70],
        "$tensor": "a text", "$5": "a text", 5: {"$float": {"inf": 1}}, -1: [],
    }  # fmt: skip
    tensors, values = flatten(nested)
    assert sorted(tensors) == ["ema.0.weight", "ema.0.weight'", "list.0"]
    values = json.loads(json.dumps(values, allow_nan=False))
    back = unflatten(tensors, values)
    assert back["ema"]["0.weight"] is nested["ema"]["0.weight"]
    assert back["ema"]["0"]["weight"] is nested["ema"]["0"]["weight"]
    assert back["list"] == [nested["list"][0], [1, 2.5, None, True, "text"], {}]
    assert list(map(repr, back["numbers"])) == list(map(repr, nested["numbers"]))
    assert {k: back[k] for k in ("$tensor", "$5", 5, -1)} == {k: nested[k] for k in ("$tensor", "$5", 5, -1)}
    assert math.isnan(unflatten(*flatten([math.nan]))[0])
    twice = flatten(values)[1]
    assert unflatten({}, twice) == values


@pytest.mark.parametrize(
    ("nested", "message"),
    [({"a": [object()]}, "a.0 is a object"), ({"a": {1.5: 0}}, "a has 1.5"), (b"", "the value is a bytes")],
)
def test_what_it_cannot_hold_is_named(nested, message):
    with pytest.raises(TypeError, match=message):
        flatten(nested)


@pytest.mark.parametrize("values", [{"$tensor": "b"}, {"$float": "1e5"}, {"$tensor": []}, {"$x": 1}])
def test_what_flatten_never_made_is_refused(values):
    with pytest.raises(ConfigError, match=r"saved|no key"):
        unflatten({"a": torch.ones(1)}, [values])
