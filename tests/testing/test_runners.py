"""The ways to run the checks of a plugin: a function, a command, a flag of pytest's, a decorator."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from framework.errors import ConfigError
from framework.testing import run_checks

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
    from torch import nn

    from framework.registry import Positive, loss


    @loss("powers")
    class Powers(nn.Module):
        "Mean of powers."

        def __init__(self, *, power: Positive = 2.0) -> None:
            super().__init__()
            self.power = power

        def forward(self, prediction, target):
            if prediction.shape != target.shape:
                raise ValueError("one shape")
            return (prediction - target).abs().pow(self.power).mean()

        def weight(self, target):
            return target.numel()
"""
SUMS = GOOD.replace(".mean()", ".sum()")
EXPECTED = SUMS.replace(
    '"Mean of powers."', 'expected_failures = {"loss_is_the_mean_of_its_parts": "a sum, as in the paper"}'
)
PYPROJECT = """
    [project]
    name = "acme-powers"
    version = "1.2"

    [project.entry-points."framework.v1.loss"]
    powers = "acme_powers:Powers"
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write plugins/acme/, of the distribution acme-powers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "acme_powers", raising=False)
    folder = tmp_path / "plugins" / "acme"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(textwrap.dedent(PYPROJECT))

    def write(source):
        (folder / "acme_powers.py").write_text(textwrap.dedent(source))

    return write


@pytest.fixture
def run(tmp_path):
    def run(*arguments, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMEWORK_", "PYTEST_", "COLUMNS"))}
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


def pytest_in(run, *arguments):
    plugin = ("-p", "framework.testing.pytest_plugin", "-p", "no:cacheprovider")
    return run("pytest", *plugin, *arguments, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


@pytest.mark.parametrize("name", ["acme-powers", "acme_powers", "acme", "powers", "loss.powers", ("loss", "powers")])
def test_every_name_of_a_plugin_stands_for_it(plugin, name):
    plugin(GOOD)
    (result,) = run_checks(name, checks=["can_be_imported"])
    assert (result.kind, result.name, result.verdict, result.ok) == ("loss", "powers", "ok", True)


def test_what_does_not_exist_is_refused_with_the_nearest(plugin):
    plugin(GOOD)
    with pytest.raises(
        ConfigError, match="there is no plugin 'acme-power', nor a component: did you mean 'acme-powers'"
    ):
        run_checks("acme-power")
    with pytest.raises(ConfigError, match="there is no check 'can_be_import': did you mean 'can_be_imported'"):
        run_checks("acme", checks=["can_be_import"])
    with pytest.raises(ConfigError, match=r"'acme' has no optimizer: give options of one of loss.powers"):
        run_checks("acme", options={"optimizer": {"lr": 1}})


def test_the_command_prints_each_check_and_writes_json(plugin, run, tmp_path):
    plugin(GOOD)
    done = run("framework", "check", "plugin", "acme", "loss.power=3", "--json", "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss 'powers': loss_gradients_are_right: ok\n" in done.stdout
    assert "failed" not in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"] is True
    assert {"can_be_imported", "loss_ignores_the_order"} <= {result["check"] for result in found["results"]}
    plugin(SUMS)
    done = run("framework", "check", "plugin", "acme-powers")
    assert done.returncode == 1
    failed = done.stdout.partition("loss 'powers': loss_is_the_mean_of_its_parts: failed\n")[2].splitlines()
    assert [line.strip().partition(":")[0] for line in failed[:3]] == ["rule", "seen", "mend"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acm"], "there is no plugin 'acm', nor a component: did you mean 'acme'?"),
        ([], "check plugin needs one name, got ''"),
        (["acme", "mse"], "check plugin needs one name, got 'acme mse'"),
        (["acme", "loss.powr=3"], "did you mean 'power'?"),
        (["acme", "power=3"], "'power' is no option of a component: write kind.option=value."),
    ],
)
def test_mistakes(plugin, run, arguments, message):
    plugin(GOOD)
    done = run("framework", "check", "plugin", *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stdout + done.stderr


def test_pytest_needs_no_test_file(plugin, run):
    plugin(GOOD)
    done = pytest_in(run, "--framework-plugin", "acme", "-v", "-k", "gradients")
    assert done.returncode == 0, done.stdout
    assert "acme::loss-powers-loss_gradients_are_right PASSED" in done.stdout
    plugin(SUMS)
    done = pytest_in(run, "--framework-plugin", "acme", "-k", "mean_of_its_parts")
    assert done.returncode == 1
    assert "rule: the loss of a batch is the mean of its parts'" in done.stdout
    assert "framework/testing" not in done.stdout  # no traceback through the kit
    assert pytest_in(run, "--framework-plugin", "nobodys").returncode == 4


def test_expected_failures_are_expected_and_no_others(plugin, run):
    plugin(EXPECTED)
    done = pytest_in(run, "--framework-plugin", "acme", "-rx", "-k", "mean_of_its_parts")
    assert (done.returncode, "1 xfailed" in done.stdout) == (0, True), done.stdout
    assert "a sum, as in the paper" in done.stdout
    plugin(EXPECTED.replace(".sum()", ".mean()"))
    (result,) = run_checks("acme", checks=["loss_is_the_mean_of_its_parts"])
    assert result.verdict == "failed"
    assert "is expected to fail (a sum, as in the paper) and does not" in result.seen


def test_parametrize_with_checks(plugin, run, tmp_path):
    plugin(SUMS)
    test = """
        from framework.testing import parametrize_with_checks

        @parametrize_with_checks(["acme", ("loss", "mse")])
        def test_it(check):
            check()
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(test))
    done = pytest_in(run, "-v", "--tb=short", "test_it.py", "-k", "mean_of_its_parts")
    assert "test_it[loss-mse-loss_is_the_mean_of_its_parts] PASSED" in done.stdout
    assert "test_it[loss-powers-loss_is_the_mean_of_its_parts] FAILED" in done.stdout
    assert "1 failed" in done.stdout


def test_the_plugin_of_pytest_loads_nothing(run):
    code = (
        "import sys, framework.testing.pytest_plugin; print(sorted({'torch', 'numpy', 'hydra'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
