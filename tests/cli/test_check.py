"""framework check gradients, as a command."""

import json
import textwrap

import pytest

LOSS = """
    import torch
    from torch import Tensor, nn
    from torch.autograd import Function

    from framework.registry import loss


    class Squares(Function):
        @staticmethod
        def forward(prediction, target):
            return (prediction - target).square().mean()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, gradient):
            prediction, target = ctx.saved_tensors
            return gradient * (prediction - target) * FACTOR / prediction.numel(), None


    @loss("squares")
    class SquaresLoss(nn.Module):
        "Mean of squares."

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return Squares.apply(prediction, nn.functional.one_hot(target, prediction.shape[-1]).to(prediction.dtype))
"""


@pytest.fixture
def plugin(tmp_path):
    def write(factor: int) -> None:
        (tmp_path / "plugins").mkdir(exist_ok=True)
        (tmp_path / "plugins" / "squares.py").write_text(textwrap.dedent(LOSS).replace("FACTOR", str(factor)))

    return write


def test_the_default_run_passes_and_leaves_nothing(command, tmp_path):
    done = command("check", "gradients", "model.widths=[16]", "model.dropout=0.2", "regularizer=[l2]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "layers.1.weight" in done.stdout
    assert "passes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_plugin_with_a_wrong_gradient_fails_and_is_named(command, plugin, tmp_path):
    plugin(3)
    done = command("check", "gradients", "model=linear", "loss=squares", "--json", "found.json")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "where: the loss (SquaresLoss)" in done.stdout
    assert "1.5 times what it should be" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"] is False
    (report,) = found["reports"]
    assert {row["verdict"] for row in report["rows"]} == {"wrong"}
    assert report["where"] == "the loss (SquaresLoss)"
    plugin(2)
    assert command("check", "gradients", "model=linear", "loss=squares").returncode == 0


def test_every_weight_with_the_cost_of_both_ways(command):
    done = command("check", "gradients", "model=mlp", "model.widths=[3]", "model.activation=tanh", "--full")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every single weight: 236 forward passes" in done.stderr
    assert "numerical: 7" in done.stdout  # 512 pixels of eight images are among what is moved
    assert "backpropagation: 1 forward and backward" in done.stdout


def test_a_registered_function(command):
    done = command("check", "gradients", "function=linear", "--json=f.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "linear: no bias" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "check needs what to check, got '': choose one of: gradients, plugin."),
        (["gradient"], "did you mean 'gradients'?"),
        (["gradients", "function=linr"], "there is no function 'linr': did you mean 'linear'?"),
        (["gradients", "function=linear", "seed=1"], "leave out 'seed=1'"),
        (["gradients", "optimzer=adam"], "optimzer is not a setting: did you mean 'optimizer'?"),
        (["gradients", "--foo"], "'--foo' is no flag of framework"),
        (["gradients", "-m"], "check gradients has no flag '-m'"),
        (["gradients", "--json"], "--json needs a file to write"),
        (["gradients", "--json", "no/where.json"], "there is no folder no"),
        (["gradients", "loss=mse"], "MSE: prediction and target must have the same shape"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes(command, refused, arguments, message):
    refused(command("check", *arguments), message)
