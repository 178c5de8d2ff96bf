"""framework new: what it writes works as it stands."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework import plugins, registry
from framework.cli.new import check_name, write
from framework.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

LIKE_AN_IMPORT = {
    "model": "count",
    "data": "torch",
    "loss": "tensor",
    "optimizer": "optimizer",
    "scheduler": "bounded",
    "initializer": "initializer",
    "regularizer": "regularizer",
    "metric": "metric",
    "callback": "callback",
}
"""Names whose class or function would hide what the example imports."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind, under a plain name and one like an import's, as folders."""
    home = tmp_path_factory.mktemp("folders")
    for kind in registry.KINDS:
        write(kind, f"my_{kind}", home / "plugins")
        write(kind, LIKE_AN_IMPORT[kind], home / "plugins")
    return home


def run(home: Path, *command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=home,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_passes_its_own_tests(folders: Path, environment: dict[str, str]):
    # a name changes nothing in what the kit sees
    flags = ["-v", "-W", "error", "-p", "no:cacheprovider", "-k", "my_ or not test_contract"]
    out = run(folders, "pytest", *flags, "plugins", environment=environment)
    for kind in registry.KINDS:
        assert f"plugins/my_{kind}/test_my_{kind}.py::test_contract[{kind}-my_{kind}-" in out
        assert f"plugins/{LIKE_AN_IMPORT[kind]}/test_{LIKE_AN_IMPORT[kind]}.py::" in out


def test_every_kind_is_formatted_and_linted(folders: Path, environment: dict[str, str]):
    rules = ["--config", str(ROOT / "pyproject.toml")]
    run(folders, "ruff", "format", "--check", *rules, "plugins", environment=environment)
    # the import order is that of this repository, where the framework is no third party
    rules += ["--config", 'lint.isort.known-first-party=["framework"]', "--no-cache"]
    run(folders, "ruff", "check", *rules, "plugins", environment=environment)


def test_a_folder_is_a_package(folders: Path, environment: dict[str, str]):
    source = folders / "source"
    shutil.copytree(folders / "plugins" / "my_data", source)
    build = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", str(source)]
    run(folders, "pip", "wheel", *build, environment=environment)
    (wheel,) = (folders / "dist").glob("chainrule_my_data-0.1.0-*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert [n for n in file.namelist() if ".dist-info/" not in n] == ["chainrule_my_data.py"]
        points = file.read("chainrule_my_data-0.1.0.dist-info/entry_points.txt").decode()
    assert points.split("\n")[:2] == ["[framework.v1.data]", "my_data = chainrule_my_data:my_data"]


@pytest.mark.slow
def test_every_kind_is_typed(folders: Path, environment: dict[str, str]):
    files = [str(p) for p in sorted(folders.glob("plugins/*/*.py"))]
    run(folders, "mypy", "--strict", *files, environment=environment)


CHOICES = [
    f"{kind}={f'[my_{kind}]' if registry.KINDS[kind].plural else f'my_{kind}'}"
    for kind in registry.KINDS  # a run has one of each
]


def test_single_files_train_together(tmp_path: Path, environment: dict[str, str]):
    for kind in registry.KINDS:
        (written,) = write(kind, f"my_{kind}", tmp_path / "plugins", single=True)
        assert written == tmp_path / "plugins" / f"my_{kind}.py"
    limits = ["trainer.max_epochs=1", "trainer.device=cpu", "hydra.run.dir=run"]
    run(tmp_path, "framework", *CHOICES, *limits, environment=environment)
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "files", "lines"),
    [
        (
            ("regularizer", "my_own"),
            ["README.md", "chainrule_my_own.py", "pyproject.toml", "test_my_own.py"],
            [
                "framework regularizer=[my_own] regularizer.my_own.strength=0.0001",
                "python -m pytest plugins/my_own",
                "framework check plugin my_own",
                "pip install ./plugins/my_own",
            ],
        ),
        (
            ("optimizer", "my_own", "--file"),
            ["my_own.py"],
            ["framework optimizer=my_own optimizer.lr=0.05", "framework check plugin my_own"],
        ),
    ],
)
def test_command_says_what_was_written_and_what_is_next(command, tmp_path: Path, arguments, files, lines):
    done = command("new", *arguments)
    assert done.returncode == 0, done.stderr
    written = sorted(p for p in (tmp_path / "plugins").rglob("*") if p.is_file())
    assert [p.name for p in written] == files
    out = done.stdout.splitlines()
    assert sorted(out[: len(files)]) == [f"wrote {p.relative_to(tmp_path)}" for p in written]
    assert [line.partition("  #")[0].rstrip() for line in out[len(files) :]] == lines


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, whose plugins are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    monkeypatch.setenv("FRAMEWORK_PLUGINS", "off")
    plugins.discover()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("loss", "My_Loss", "lower-case words joined by '_', such as my_loss, and no keyword, got 'My_Loss'"),
        ("loss", "my-loss", "lower-case words"),
        ("loss", "_mine", "lower-case words"),
        ("loss", "mine_", "lower-case words"),
        ("loss", "größe", "lower-case words"),
        ("loss", "../mine", "lower-case words"),
        ("loss", "class", "and no keyword, got 'class'"),
        ("loss", "test_loss", "pytest takes what starts with 'test' for a test"),
        ("loss", "mse", "loss 'mse' is taken by framework.losses.mse; choose another name"),
    ],
)
@pytest.mark.usefixtures("here")
def test_names_that_no_plugin_can_have(kind, name, message):
    with pytest.raises(ConfigError) as refused:
        check_name(kind, name)
    assert message in str(refused.value)


def test_names_of_other_kinds_are_free(here: Path):
    check_name("metric", "mse")


def test_nothing_is_overwritten(here: Path):
    write("loss", "first", here / "plugins")
    write("loss", "second", here / "plugins", single=True)
    with pytest.raises(ConfigError, match="plugins/first exists: choose another name"):
        check_name("optimizer", "first")
    with pytest.raises(ConfigError, match="loss 'second' is taken by"):
        check_name("loss", "second")
    with pytest.raises(FileExistsError):
        write("loss", "first", here / "plugins")
    with pytest.raises(FileExistsError):
        write("loss", "second", here / "plugins", single=True)


def test_module_of_an_installed_plugin_is_not_hidden(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "site").mkdir()
    (here / "site" / "chainrule_theirs.py").write_text("")
    monkeypatch.syspath_prepend(here / "site")
    with pytest.raises(ConfigError, match="a plugin with the module chainrule_theirs is installed"):
        check_name("loss", "theirs")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["los", "mine"], ["there is no kind 'los': did you mean 'loss'?"]),
        (["loss"], ["new needs a kind and a name: framework new model|data|loss|", "NAME [--file]"]),
        (["loss", "mine", "--fle"], ["new needs a kind and a name"]),
        (["loss", "mine", "other"], ["new needs a kind and a name"]),
    ],
)
def test_mistakes_are_one_line(command, refused, tmp_path: Path, arguments, fragments):
    refused(command("new", *arguments), *fragments)
    assert not (tmp_path / "plugins").exists()
