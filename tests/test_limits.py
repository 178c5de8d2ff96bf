import pytest

from framework.errors import ConfigError
from framework.history import Progress
from framework.limits import Every, Limits


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        (2, 2, "epochs"),
        ("3", 3, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("500 steps", 500, "steps"),
        ("7steps", 7, "steps"),
    ],
)
def test_every_is_read(text, count, unit):
    assert Every.parse(text) == Every(count, unit)


@pytest.mark.parametrize("text", ["", "0", "-1", "epochs", "5 minutes", "1.5 epochs", "2 stepsy"])
def test_every_refuses(text):
    with pytest.raises(ConfigError, match=r"evaluate_every must be .* got"):
        Every.parse(text)


def test_due():
    assert Every(3, "steps").due("steps", 6)
    assert not Every(3, "steps").due("steps", 7)
    assert not Every(3, "steps").due("epochs", 6)


def test_steps_is_the_smaller_limit():
    assert Limits(max_epochs=2, max_steps=50).steps(10) == 20
    assert Limits(max_epochs=2, max_steps=5).steps(10) == 5
    assert Limits(max_epochs=2).steps(None) is None
    assert Limits(max_time=1.0).steps(10) is None


def test_reached():
    limits = Limits(max_epochs=2, max_steps=50)
    assert limits.reached(Progress(epoch=1, step=49)) == ""
    assert limits.reached(Progress(epoch=2, step=20)) == "max_epochs"
    assert limits.reached(Progress(epoch=1, step=50)) == "max_steps"


def test_without_a_limit_it_is_forty_epochs_and_any_limit_stands_alone():
    assert Limits().steps(10) == 400
    assert Limits(max_steps=5000).steps(10) == 5000
    assert Limits(max_time=1.0).max_epochs is None


def test_time_runs_out():
    limits = Limits(max_time=10.0)
    assert not limits.out_of_time()
    limits.started -= 11
    assert limits.out_of_time()
