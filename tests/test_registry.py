"""Components are read from source: names, options, types and defaults, with nothing imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from framework import registry
from framework.errors import ConfigError
from framework.registry import MISSING, Range, convert

SOURCE = '''
"""A file of components."""
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Literal
from framework.registry import Positive, Range, loss, scheduler

raise RuntimeError("importing this file is a mistake")

Mode = Literal["sum", "mean"]
RATE = 1e-3

@loss("one")
class One:
    """The first."""

    def __init__(self, *, gamma: Annotated[float, Range(0)] = 2.0, mode: Mode = "mean", rate: float = RATE,
                 must: int, sizes: tuple[int, ...] = (1, 2)) -> None: ...

@scheduler("two")
@dataclass(frozen=True)
class Two:
    total_steps: int
    _: KW_ONLY
    floor: Positive = 0.1
    marks: list[int] = field(default_factory=lambda: [1, 2])
    hidden: int = field(init=False, default=3)

@loss("three")
class Three(One):
    pass

@loss("four")
def four(base: int, *, x: float | None = None): ...
'''


@pytest.fixture
def found(tmp_path: Path) -> dict[str, registry.Component]:
    path = tmp_path / "components.py"
    path.write_text(SOURCE)
    return {c.name: c for c in registry.read_components(path, "components")}


def test_reads_init_dataclass_function_and_inherited_constructors(found):
    assert set(found) == {"one", "two", "three", "four"}
    options = {o.name: o for o in found["one"].signature.options}
    assert found["one"].summary == "The first."
    assert options["gamma"].default == 2.0
    assert options["rate"].default == 1e-3
    assert options["must"].default is MISSING
    assert convert("sum", options["mode"].annotation, "x") == "sum"
    assert found["two"].signature.runtime == ("total_steps",)
    assert [o.name for o in found["two"].signature.options] == ["floor", "marks"]
    assert found["two"].signature.options[1].default == [1, 2]
    assert found["three"].signature == found["one"].signature
    assert found["four"].signature.runtime == ("base",)


def test_the_documented_import_of_a_base_class_is_followed(tmp_path):
    path = tmp_path / "listener.py"
    path.write_text(
        "from framework import Callback, Regularizer, callback, regularizer\n"
        "@callback('mine')\nclass Mine(Callback):\n    pass\n"
        "@regularizer('yours')\nclass Yours(Regularizer):\n    pass\n"
    )
    assert {c.name: c.signature.options for c in registry.read_components(path, "x")} == {"mine": (), "yours": ()}


def test_options_are_checked(found):
    options = found["one"].signature.options
    assert registry.check_options(options, {"must": 3, "sizes": [4]}, "loss")["sizes"] == (4,)
    for given, message in [
        ({}, "loss.must is required"),
        ({"must": 1, "gama": 2}, "loss.gama is not a setting: did you mean 'gamma'"),
        ({"must": 1, "gamma": -1}, "loss.gamma must be >= 0, got -1"),
        ({"must": 1, "mode": "sun"}, "loss.mode cannot be 'sun': did you mean 'sum'"),
        ({"must": "abc"}, "loss.must must be a whole number, got 'abc'"),
        ({"must": True}, "loss.must must be a whole number"),
        ({"must": 1, "sizes": 3}, "loss.sizes must be a list"),
        ({"must": 1, "sizes": [1.5]}, r"loss.sizes\[0\] must be a whole number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            registry.check_options(options, given, "loss")


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [(Range(0, 1), (0, 1), (-1, 2)), (Range(0, bounds="()"), (0.1,), (0,)), (Range(0, 1, "[)"), (0,), (1,))],
)
def test_range_bounds(range_, inside, outside):
    assert all(v in range_ for v in inside)
    assert not any(v in range_ for v in outside)


def test_unknown_annotation_is_named(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("@loss('bad')\nclass Bad:\n    def __init__(self, *, x: Tensor = None): ...\n")
    with pytest.raises(ConfigError, match=r"option 'x' uses .*Tensor.*no configuration type"):
        list(registry.read_components(path, "bad"))


def test_decorator_refuses_and_checks():
    with pytest.raises(ConfigError, match="lower-case identifier"):
        registry.loss("Bad Name")
    with pytest.raises(ConfigError, match="hides what can be configured"):

        @registry.loss("kwargs_loss")
        def kwargs_loss(**kwargs: float) -> None: ...

    with pytest.raises(ConfigError, match="has no type"):

        @registry.loss("untyped_loss")
        def untyped_loss(*, gamma=1.0) -> None: ...

    @registry.loss("ranged_loss")
    class Ranged:
        def __init__(self, *, gamma: registry.NonNegative = 1.0) -> None:
            self.gamma = gamma

    assert Ranged(gamma=2.0).gamma == 2.0
    with pytest.raises(ConfigError, match=r"loss 'ranged_loss': gamma must be >= 0, got -1\."):
        Ranged(gamma=-1.0)
    with pytest.raises(ConfigError, match="already defined"):
        registry.loss("ranged_loss")(lambda: None)


def test_components_without_a_constructor_have_no_options():
    from torch import nn

    @registry.loss("bare_loss")
    class Bare(nn.Module):
        def forward(self, prediction, target): ...

    @registry.callback("bare_callback")
    class Listener: ...

    assert isinstance(Bare(), nn.Module)
    assert isinstance(Listener(), Listener)


def test_listing_imports_no_torch():
    code = (
        "import sys; from framework import registry\n"
        "for kind in registry.KINDS: registry.components(kind), registry.common_options(kind)\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
