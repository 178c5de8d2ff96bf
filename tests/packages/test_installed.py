"""A stranger's package: built, installed into a fresh environment, trained from the command line."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).resolve().parent / "acme-signum"


def run(*command: object, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMEWORK_", "HYDRA_", "COMP_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "COLUMNS": "160"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    work = tmp_path_factory.mktemp("build")
    shutil.copytree(PACKAGE, work / "source")
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", "./source")
    done = run(sys.executable, *build, cwd=work, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The interpreter of a new environment that has the wheel, and what this one has."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    done = run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent, environment=environment)
    assert done.returncode == 0, done.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "outside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    fresh = home / "bin" / "python"
    pip = ("-m", "pip", "--python", fresh, "install", "--no-deps", "--no-index", wheel)
    done = run(sys.executable, *pip, cwd=home.parent, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return fresh


def test_wheel_holds_the_package(wheel: Path):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if not n.startswith("acme_signum-1.2.0.dist-info/")}
    source = PACKAGE / "src"
    assert names == {str(p.relative_to(source)) for p in source.rglob("*.*") if p.suffix in (".py", ".yaml")}


def test_it_is_listed(python: Path, tmp_path: Path, environment: dict[str, str]):
    done = run(python, "-m", "framework", "plugins", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    rows = sorted(line.split() for line in done.stdout.splitlines() if "acme-signum" in line)
    assert [(*row[:5], row[-1]) for row in rows] == [
        ("conf", "acme_signum", "acme-signum", "1.2.0", "v1", "ok"),
        ("loss", "generalized_cross_entropy", "acme-signum", "1.2.0", "v1", "ok"),
        ("optimizer", "signum", "acme-signum", "1.2.0", "v1", "ok"),
    ]


def test_it_trains_from_the_command_line(python: Path, tmp_path: Path, environment: dict[str, str]):
    choices = ("experiment=signum_digits", "optimizer=signum", "optimizer.beta=0.8", "hydra.run.dir=first")
    done = run(python, "-m", "framework", *choices, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "first" / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("finished", 4)
    assert result["test"]["accuracy"] > 0.85
    composed = (tmp_path / "first" / "config.yaml").read_text()
    assert "beta: 0.8" in composed
    assert "lr: 0.002" in composed
    record = json.loads((tmp_path / "first" / "environment.json").read_text())["plugins"]
    assert {(choice, about["distribution"], about["version"]) for choice, about in record.items()} == {
        ("optimizer=signum", "acme-signum", "1.2.0"),
        ("loss=generalized_cross_entropy", "acme-signum", "1.2.0"),
    }


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["optimizer=signun"], "optimizer 'signun' does not exist: did you mean 'signum'?"),
        (["optimizer=signum", "optimizer.bta=0.9"], "optimizer.bta is not a setting of signum: did you mean 'beta'?"),
        (["optimizer=signum", "optimizer.beta=1"], "beta must be >= 0 and < 1, got 1"),
    ],
)
def test_mistakes_are_told_as_of_the_built_in_ones(python: Path, tmp_path: Path, environment, choices, message):
    done = run(python, "-m", "framework", *choices, cwd=tmp_path, environment=environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_same_folder_needs_no_installation(tmp_path: Path, environment: dict[str, str]):
    shutil.copytree(PACKAGE, tmp_path / "plugins" / "acme-signum")
    choices = ("experiment=signum_digits", "trainer.max_epochs=1", "hydra.run.dir=first")
    done = run(sys.executable, "-m", "framework", *choices, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "first" / "environment.json").read_text())["plugins"]
    assert {about["place"] for about in record.values()} == {"folder"}
