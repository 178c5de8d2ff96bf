"""Checks of functions and modules: what is reported, and what is no failure."""

import io
import json

import pytest
import torch
from mutants import MUTANTS, made
from rich.console import Console
from torch import nn
from torch.autograd import Function

from framework.functions import HandWritten
from framework.gradients import check_function, check_module, print_report, print_reports
from framework.gradients.contexts import CONTEXTS
from framework.losses import CrossEntropy
from framework.models import MLP, ConvNet, Transformer
from framework.testing import assert_gradients

BATCH = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


class Round(Function):
    """round(x), whose gradient is that of x."""

    nature = "surrogate"

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g


class Scaled(nn.Module):
    """A layer in a network whose gradient by its weight has a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 5))
        self.factor = factor

    def forward(self, x):
        def save(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g * w, self.factor * (g * x).sum(0)

        return made(lambda x, w: x * w, save, backward)(x, self.weight)


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *layers, nn.Linear(5, 3))


INPUTS, TARGET = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize(
    "model",
    [
        MLP((1, 8, 8), 4, widths=[16], norm="batch", dropout=0.3),
        MLP((1, 8, 8), 4, widths=[16], activation="relu"),
        ConvNet((1, 8, 8), 4, channels=[4, 6]),
    ],
    ids=["batch norm, dropout", "relu", "max pooling"],
)
def test_models_with_kinks_statistics_and_draws_pass(model):
    """Blank pixels and zero biases put ReLU and max-pooling exactly on their kinks."""
    images, target = BATCH
    images = images.clone()
    images[:, :, :, :4] = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = check_module(model, images, loss=CrossEntropy(), target=target)
    assert report.ok, report.explain()
    assert {row.name for row in report.rows} == {"inputs", *dict(model.named_parameters())}
    assert all(row.verdict == "ok" for row in report.rows)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_transformer_passes_in_a_few_passes_a_tensor():
    ids = torch.arange(4 * 9).reshape(4, 9) % 5
    model = Transformer((8,), 5, layers=1, heads=2, width=8)
    report = check_module(model, ids[:, :-1], loss=CrossEntropy(), target=ids[:, 1:])
    assert report.ok, report.explain()
    assert len(report.rows) == 16
    assert report.numerical_passes < 6 * 16
    assert report.backprop_passes == 1
    ran = {c.name for c in report.contexts if c.verdict == "ok"}
    assert {"micro-batches", "padding", "every target ignored", "torch.compile", "double backward"} <= ran


def test_what_is_wrong_is_said_where_by_how_much_and_why():
    report = check_module(network(Scaled(6.0)), INPUTS, loss=CrossEntropy(), target=TARGET)
    (row,) = [r for r in report.rows if r.verdict != "ok"]
    assert (row.name, row.verdict) == ("2.weight", "wrong")
    assert row.error == pytest.approx(5 / 6)
    assert report.where == "2 (Scaled)"
    assert "6 times what it should be" in report.cause
    assert "wrong reduction" in report.cause


def test_a_parent_that_cuts_between_its_modules_is_named():
    case = MUTANTS["detached"].make(True)
    report = check_module(nn.Sequential(nn.Linear(4, 4), case.subject), *case.inputs)
    assert report.where == "1 (Cut), in its own code: the modules inside it are right"
    assert ".detach()" in report.cause
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts["1.first.weight"] == "missing"
    assert verdicts["1.second.weight"] == "ok"


def test_the_loss_and_a_penalty_are_named_too():
    bad = MUTANTS["ignored_gradient_in_a_loss"].make(True).loss
    assert "the loss" in check_module(network(), INPUTS, loss=bad).where

    def penalty(model):
        return sum(
            made(lambda w: w.square().sum(), keep, lambda ctx, g: g * ctx.saved_tensors[0])(w)
            for w in [model[0].weight]
        )

    def keep(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    report = check_module(network(), INPUTS, loss=CrossEntropy(), target=TARGET, penalties={"half": penalty})
    assert report.where == "the penalty (half)"
    assert "0.5 times" in report.cause


CAUSES = {
    "first_element": "one element of the incoming gradient",
    "untrained_weight": ".detach()",
    "sum_for_mean": "20, the elements of x",
    "slightly_too_large": "a constant slightly off",
    "summed_in_bfloat16": "bfloat16",
}


@pytest.mark.parametrize("name", CAUSES)
def test_usual_causes(name):
    case = MUTANTS[name].make(True)
    assert CAUSES[name] in check_function(case.subject, *case.inputs, contexts=[]).cause


def test_an_ignored_incoming_gradient_is_recognised():
    report = check_function(made(lambda x: x.exp(), keep_output, lambda ctx, g: ctx.saved_tensors[0]), INPUTS)
    assert "the incoming gradient is ignored" in report.cause


def keep_output(ctx, inputs, output):
    ctx.save_for_backward(output)


def test_a_surrogate_inside_excuses_what_is_before_it_and_nothing_else():
    class Rounding(nn.Module):
        def forward(self, x):
            return Round.apply(x)

    report = check_module(network(Rounding()), INPUTS, loss=CrossEntropy(), target=TARGET)
    assert report.ok, report.explain()
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts["0.weight"] == "surrogate"
    assert verdicts["3.weight"] == "ok"
    bad = check_module(network(Rounding(), nn.Linear(5, 5), Scaled(2.0)), INPUTS, contexts=[])
    assert [r.name for r in bad.rows if r.verdict == "wrong"] == ["4.weight"]


def entry(**changes):
    plain = {"name": "rounded", "call": lambda x: Round.apply(3 * x), "reference": lambda x: (3 * x).round()}
    return HandWritten(**plain, examples=lambda g: {}, large=lambda g: None, saved_bytes=0, **changes)


def test_a_declared_surrogate_is_held_to_what_it_declares():
    assert check_function(entry(nature="surrogate", surrogate=lambda x: 3 * x), INPUTS).ok
    report = check_function(entry(nature="surrogate", surrogate=lambda x: 2 * x), INPUTS, contexts=[])
    assert "1.5 times what it should be" in report.cause


def test_lossy_gradients_may_differ_by_their_precision_and_no_more():
    def of(factor):
        call = made(lambda x: x.sin(), keep_input, lambda ctx, g: factor * g * ctx.saved_tensors[0].cos())
        return HandWritten("lossy", call, torch.sin, lambda g: {}, lambda g: None, 0, nature="lossy")

    assert check_function(of(1.002), INPUTS, contexts=[]).ok
    assert not check_function(of(1.05), INPUTS, contexts=[]).ok


def keep_input(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])


def test_float32_inside_is_noise_and_no_fault():
    report = check_function(lambda x: (x.float().sin() * 2).double(), INPUTS, contexts=[])
    assert report.ok, report.explain()
    report = check_function(lambda x: x.float().detach().sin().double() + x.sin(), INPUTS, contexts=[])
    assert not report.ok


def test_unused_and_frozen_parameters_are_no_failures():
    model = network()
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    model[0].bias.requires_grad_(False)
    report = check_module(model, INPUTS, contexts=[])
    verdicts = {row.name: row.verdict for row in report.rows}
    assert report.ok
    assert verdicts["spare"] == "unused"
    assert "0.bias" not in verdicts


def test_only_inputs_that_require_a_gradient_are_checked_where_some_do():
    scale = torch.ones(4, requires_grad=True)
    report = check_function(lambda x, scale: x.detach() * scale, INPUTS, scale, contexts=[])
    assert [row.name for row in report.rows] == ["scale"]
    assert report.ok


def test_gradients_that_are_not_finite():
    report = check_function(lambda x: (x * 0).sqrt(), INPUTS, contexts=[])
    assert [row.verdict for row in report.rows] == ["not finite"]
    assert "division by 0" in report.cause


def test_every_single_weight():
    model = network(Scaled(1.0))
    report = check_module(model, INPUTS, loss=CrossEntropy(), target=TARGET, full=True, contexts=[])
    assert report.ok, report.explain()
    weights = sum(p.numel() for p in model.parameters()) + INPUTS.numel()
    assert weights < report.numerical_passes < weights + 20

    def one_off(g):
        changed = g.clone()
        changed[2, 1] += 1e-3
        return changed

    class Fault(nn.Module):
        def forward(self, x):
            x = x * 1.0
            if x.requires_grad:
                x.register_hook(one_off)
            return x

    report = check_module(Fault(), INPUTS, full=True, contexts=[])
    (row,) = report.rows
    assert (row.verdict, row.worst) == ("wrong", (2, 1))
    assert "x[2, 1]" in report.failures[0]


def test_report_as_json_and_as_a_table():
    report = check_module(network(Scaled(6.0)), INPUTS, loss=CrossEntropy(), target=TARGET)
    mapping = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert mapping["ok"] is False
    assert mapping["failures"] == report.failures
    assert {c["name"] for c in mapping["contexts"]} == set(CONTEXTS)
    text = io.StringIO()
    print_report(report, Console(file=text, width=120))
    for part in ("2.weight", "wrong", "where: 2 (Scaled)", "usual cause", "passes", "backpropagation"):
        assert part in text.getvalue()
    several = io.StringIO()
    print_reports([check_function(torch.sin, INPUTS, contexts=[]), report], Console(file=several, width=120))
    assert several.getvalue().count("usual cause") == 1


def test_assert_gradients_says_where_which_by_how_much_and_why():
    assert_gradients(network(Scaled(1.0)), INPUTS, loss=CrossEntropy(), target=TARGET, contexts=["backward twice"])
    assert_gradients(network(), INPUTS, loss=lambda outputs: outputs.square().sum(), contexts=[])
    with pytest.raises(AssertionError) as error:
        assert_gradients(network(Scaled(6.0)), INPUTS, loss=CrossEntropy(), target=TARGET)
    for part in ("2.weight", "relative difference 8.3e-01", "where: 2 (Scaled)", "usual cause", "wrong reduction"):
        assert part in str(error.value)
    with pytest.raises(AssertionError, match=r"strided cotangents.*\n.*where.*\n.*contiguous\(\)"):
        assert_gradients(MUTANTS["contiguous_gradient"].make(True).subject, INPUTS)


def test_outputs_that_are_constant_by_intention_are_left_out_and_named():
    report = check_function(lambda x: (x.sin(), x.detach().square()), INPUTS, contexts=["strided cotangents"])
    assert report.ok
    assert report.note == "not checked, since it has no gradient: output 1"
    assert not check_function(lambda x: x.detach().square(), INPUTS, contexts=[]).ok


def test_a_value_that_is_not_finite_is_a_failure():
    report = check_function(lambda x: (x * 0).log(), INPUTS)
    assert "at these inputs, so there is nothing to differentiate" in report.failures[0]


def test_mistakes():
    with pytest.raises(ValueError, match="has nothing to differentiate by"):
        assert_gradients(lambda index: index, torch.arange(3))
    with pytest.raises(ValueError, match="there is no floating-point output"):
        assert_gradients(lambda x: x.argmax(), INPUTS)
    with pytest.raises(ValueError, match="there is no context 'strided'"):
        assert_gradients(torch.sin, INPUTS, contexts=["strided"])
