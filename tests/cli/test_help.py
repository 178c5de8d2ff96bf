"""Help and completion: everything on offer, with no torch imported."""

import subprocess
import sys
import time

import pytest

from framework import registry


def test_help_lists_every_group_and_option(command):
    run = command("--help")
    assert run.returncode == 0
    for kind in registry.KINDS:
        line = next(x for x in run.stdout.splitlines() if x.startswith(f"{kind}: "))
        assert line == f"{kind}: {', '.join(registry.components(kind))}"
    assert "experiment: " in run.stdout
    assert "framework evaluate run=DIR" in run.stdout
    for option in registry.read_signature("framework.trainer.settings:Settings").options:
        assert f"  {option.name}:" in run.stdout


def test_help_shows_the_keys_of_what_is_chosen(command):
    assert "momentum: 0.0" in command("optimizer=sgd", "--help").stdout
    assert "momentum: 0.0" not in command("--help").stdout


@pytest.mark.parametrize("name", ["evaluate", "predict", "plot"])
def test_help_of_the_other_commands(command, name):
    run = command(name, "--help")
    assert run.returncode == 0
    assert f"framework {name}" in run.stdout


def test_version(command):
    assert command("--version").stdout == "chainrule 0.1.0\n"


def completed(command, line: str) -> list[str]:
    run = command("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), _HYDRA_OLD_COMP="none")
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("framework optimizer=", {"optimizer=adam", "optimizer=sgd", "optimizer=momentum"}),
        ("framework optimizer=a", {"optimizer=adagrad", "optimizer=adam", "optimizer=adamw"}),
        ("framework train optimizer=sg", {"optimizer=sgd"}),
        ("framework optimizer=sgd optimizer.", {"optimizer.momentum=", "optimizer.lr="}),
        ("framework trainer.max_", {"trainer.max_epochs=", "trainer.max_steps=", "trainer.max_time="}),
        ("framework experiment=", {"experiment=mnist", "experiment=shakespeare"}),
        ("framework regul", {"regularizer="}),
    ],
)
def test_completion(command, line, expected):
    assert expected <= set(completed(command, line))


def test_completion_offers_a_plugin(command, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(
        "from framework.registry import loss\n@loss('mine')\nclass Mine:\n"
        "    def __init__(self, *, gamma: float = 2.0) -> None: ...\n"
    )
    assert "loss=mine" in completed(command, "framework loss=m")
    assert "loss.gamma=" in completed(command, "framework loss=mine loss.")


@pytest.mark.parametrize("arguments", [["--help"], ["-sc", "query=bash"], ["optimizer=adm"]])
def test_listing_imports_no_torch(arguments, environment, tmp_path):
    code = (
        "import sys\nfrom framework.cli import main\n"
        f"sys.argv = ['framework', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch'\nassert 'rich' not in sys.modules, 'rich'"
    )
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "COMP_LINE": "framework optimizer="},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    print(f"{arguments}: {time.monotonic() - start:.2f} s")
    assert run.returncode == 0, run.stderr
