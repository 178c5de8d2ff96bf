"""Linear decay over a budget, against torch's LinearLR and by hand."""

from pathlib import Path

import pytest
import torch
from chainrule_budgeted_linear import BudgetedLinear
from torch.optim.lr_scheduler import LinearLR

from framework import ConfigError, plugins, run
from framework.config import parse


@pytest.mark.parametrize("minimum", [0.0, 0.1])
@pytest.mark.parametrize(
    ("options", "budget"),
    [({"total_steps": 60}, 60), ({"total_steps": 100, "steps_per_epoch": 10, "budget": 4}, 40)],
    ids=["whole run", "epochs"],
)
def test_is_torchs_linear_over_the_budget(options, budget, minimum):
    mine = BudgetedLinear(**options, minimum=minimum)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = LinearLR(optimizer, start_factor=1.0, end_factor=minimum, total_iters=budget)
    for step in range(100):
        assert mine(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_the_runs_length_leaves_a_budget_of_its_own_alone():
    runs = [BudgetedLinear(total, 5, budget=8, unit="steps") for total in (4, 8, 1000, None)]
    trajectories = [[mine(step) for step in range(12)] for mine in runs]
    assert trajectories[0] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0, 0.0]
    assert all(trajectory == trajectories[0] for trajectory in trajectories)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match=r"needs an end, a total of at least 1 step, got None: set scheduler\.budget"):
        BudgetedLinear(steps_per_epoch=10)
    with pytest.raises(ConfigError, match="BudgetedLinear counts epochs and needs steps_per_epoch >= 1, got None"):
        BudgetedLinear(100, budget=3)
    with pytest.raises(ConfigError, match="scheduler 'budgeted_linear': budget must be >= 1, got 0"):
        BudgetedLinear(100, budget=0)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "scheduler": {"name": "budgeted_linear", "budget": 30, "unit": "steps"},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
