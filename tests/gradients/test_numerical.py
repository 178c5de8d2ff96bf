"""The stencil, and what it says of a derivative that was computed otherwise."""

import math

import pytest

from framework.gradients.numerical import Tolerance, derivative, judge

UNIT = Tolerance(1.0)


def test_exact_for_polynomials_of_degree_four():
    def polynomial(x: float) -> float:
        return 3 + 5 * x - 2 * x**2 + 7 * x**3 - x**4

    assert derivative(polynomial, 0.5) == pytest.approx(5, rel=1e-13)


def test_error_falls_as_the_fourth_power():
    coarse, fine = (abs(derivative(math.exp, h) - 1) for h in (0.2, 0.1))
    assert 15 < coarse / fine < 17


@pytest.mark.parametrize(
    ("function", "slope"),
    [(math.exp, 1.0), (lambda x: math.sin(300 * x), 300.0), (lambda x: 0.0, 0.0), (lambda x: 1e6 + 3 * x, 3.0)],
    ids=["exp", "fast sine", "constant", "large value"],
)
def test_right_derivatives_are_right_and_others_wrong(function, slope):
    tolerance = Tolerance(function(0.0))
    assert judge(function, slope, tolerance).verdict == "ok"
    wrong = judge(function, slope * 1.0001 + 1e-3, tolerance)
    assert wrong.verdict == "wrong"
    assert wrong.numeric == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("distance", [3e-2, 3e-3, 3e-4, 3e-5], ids=str)
def test_a_kink_near_by_is_stepped_over(distance):
    def bent(x: float) -> float:
        return 2 * x + 5 * max(0.0, x - distance)

    found = judge(bent, 2.0, UNIT)
    assert found.verdict == "ok"
    assert found.step < distance
    assert judge(bent, 2.001, UNIT).verdict == "wrong"


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.5, 1.0], ids=str)
def test_at_a_kink_there_is_nothing_to_compare_with(slope):
    """|x| and relu: central differences converge to the mean of both slopes, which no side has."""
    found = judge(lambda x: max(0.0, x), slope, UNIT)
    assert found.verdict == ("ok" if slope == 0.5 else "kink")


def test_kinks_everywhere():
    def saw(x: float) -> float:
        return sum(abs(x - 10 ** (-k / 3)) for k in range(3, 30)) + abs(x)

    assert judge(saw, 123.0, UNIT).verdict == "kink"


def test_outside_of_the_domain_a_smaller_step_decides():
    def logarithm(x: float) -> float:
        return math.log(1e-3 + x) if x > -1e-3 else math.nan

    found = judge(logarithm, 1000.0, UNIT)
    assert found.verdict == "ok"
    assert found.step < 1e-3


def test_error_is_relative_and_none_where_both_are_rounding():
    assert judge(lambda x: 1.0, 1e-17, UNIT).error == 0
    assert judge(lambda x: x, 2.0, UNIT).error == pytest.approx(0.5)
