"""Runs with plugins: composed, recorded, loaded again, and refused by name where one is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from plugins_shelf import LOSS, point, project

import framework
from framework import config, plugins, registry, reporting
from framework.cli import composition
from framework.cli.messages import explain
from framework.errors import ConfigError
from framework.plugins import records

ROOT = Path(__file__).resolve().parents[2]

NOISE = """
from framework import Regularizer, regularizer

@regularizer("noise")
class Noise(Regularizer):
    def __init__(self, *, strength: float = 0.0) -> None:
        self.strength = strength
"""
PLAIN = NOISE.replace('"noise"', '"{name}"')


def parsed(*overrides):
    composed = composition.composed(list(overrides), None)
    return config.parse(OmegaConf.to_container(composed, resolve=True))


@pytest.fixture
def two(shelf):
    shelf.install("acme-x", point("regularizer", "noise", "acme_x:Noise"), {"acme_x.py": NOISE})
    shelf.folder("y", project("acme-y", "regularizer", "noise", "acme_y:Noise"), {"acme_y.py": NOISE})
    return shelf


def test_qualified_names_are_composed_and_come_back_from_yaml(two):
    settings = parsed("regularizer=[acme-x.noise,l2,acme-y.noise]", "regularizer.acme-x.noise.strength=1")
    assert settings.regularizer["acme-x.noise"] == {"strength": 1.0}
    assert settings.regularizer["acme-y.noise"] == {"strength": 0.0}
    written = yaml.safe_load(yaml.safe_dump(settings.to_mapping()))
    assert written["regularizer"]["acme-x"] == {"noise": {"strength": 1.0}}
    assert config.parse(written) == settings
    assert "regularizer.acme-x.noise.strength" in config.settings_of(settings)
    other = parsed("regularizer=[acme-x.noise,l2,acme-y.noise]")
    assert config.differences(settings, other) == {"regularizer.acme-x.noise.strength": (1.0, 0.0)}


def test_a_file_may_have_the_name_of_its_component(shelf):
    """Its plain and its qualified name share a key in YAML."""
    for name in ("noise", "other"):
        shelf.file(f"{name}.py", NOISE)
    shelf.file("l2.py", PLAIN.format(name="l2"))
    settings = parsed("regularizer=[l2,l2.l2,noise.noise]", "regularizer.l2.l2.strength=3")
    assert settings.regularizer["l2.l2"] == {"strength": 3.0}
    assert settings.regularizer["l2"].keys() == {"strength", "exempt"}
    assert config.parse(settings.to_mapping()) == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regularizer=[noise]", "regularizer 'noise' is of several plugins: choose acme-x.noise or acme-y.noise."),
        ("regularizer=[nois]", "regularizer 'nois' does not exist: choose one of"),
        ("regularizer=[acme-x.nois]", "did you mean 'acme-x.noise'?"),
        ("regularizer=[l2] regularizer.acme-x.noise.strength=1", "regularizer 'acme-x.noise' is not chosen"),
        ("loss=torn", "loss 'torn' of torn is broken: "),
    ],
)
def test_messages(two, override, message):
    two.file("torn.py", "@loss('torn')\nclass Torn:\n    def __init__(self, *, k): ...\n")
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Hydra's, made a message by the command line
        parsed(*override.split())
    assert message in explain(caught.value)


def test_a_plugins_experiments_and_yaml_that_is_broken(shelf):
    chosen = "# @package _global_\ndefaults:\n  - override /loss: mse\nseed: 5\n"
    shelf.install(
        "acme-conf",
        point("conf", "acme", "acme_conf.settings") + point("loss", "confident", "acme_conf.losses:Scaled"),
        {
            "acme_conf/__init__.py": "raise RuntimeError('imported')",
            "acme_conf/losses.py": LOSS.format(name="confident"),
            "acme_conf/settings/experiment/acme_fast.yaml": chosen,
            "acme_conf/settings/experiment/mnist.yaml": chosen,
            "acme_conf/settings/loss/confident.yaml": "name: confident\nscale: 7.0\n",
        },
    )
    for name, content in {"bad-yaml": "_target_: os.system\n", "bad-place": "name: mse\n"}.items():
        folder = {f"{name.replace('-', '_')}/loss/mse.yaml": content}
        shelf.folder(name, project(name, "conf", "x", name.replace("-", "_")), folder)
    points = project("own", "loss", "own", "own_loss:Scaled")
    points += '[project.entry-points."framework.v1.conf"]\nown = "own_conf"\n'
    shelf.folder(
        "own", points, {"own_loss.py": LOSS.format(name="own"), "own_conf/loss/own.yaml": "name: own\nscale: 3.0\n"}
    )
    assert parsed("loss=own").loss.options == {"scale": 3.0}
    settings = parsed("experiment=acme_fast")
    assert (settings.loss.name, settings.seed) == ("mse", 5)
    assert parsed("loss=confident").loss.options == {"scale": 7.0}
    assert parsed("experiment=mnist").data.name == "mnist"
    assert {"acme_fast", "mnist"} <= set(composition.options_of("experiment"))
    reasons = {c.origin.distribution: c.broken for c in plugins.found.components}
    assert "may name components, not code" in reasons["bad-yaml"]
    assert "would replace loss 'mse', which is not its own" in reasons["bad-place"]
    assert reasons["acme-conf"] == ""


@pytest.fixture
def run(shelf):
    """The folder of a run that has chosen plugins."""
    shelf.install("acme-z", point("loss", "z", "acme_z:Scaled"), {"acme_z.py": LOSS.format(name="z")})
    shelf.file("one.py", PLAIN.format(name="one"))
    settings = parsed("loss=z", "regularizer=[one,l2]")
    used = records.used(settings.names())
    assert used.keys() == {"loss=z", "regularizer=one"}
    folder = shelf.here / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings.to_mapping()))
    (folder / "environment.json").write_text(json.dumps({"plugins": used}))
    return folder


def test_a_run_is_read_with_its_plugins(run):
    assert config.read(run).loss.name == "z"


def test_python_loads_a_run_with_its_plugins(run, monkeypatch):
    registry.offer([])
    monkeypatch.setattr("framework.run._best", lambda *_: run)
    with pytest.raises(ConfigError, match="must say the data's input_shape"):  # which is after the configuration
        framework.load(run)


def test_a_missing_plugin_is_named_with_its_version(run, shelf):
    shutil.rmtree(next(shelf.site.glob("*.dist-info")))
    plugins.discover()
    with pytest.raises(ConfigError, match=r"with loss 'z' of acme-z 1\.0, which is not here: pip install acme-z\.$"):
        config.read(run)
    shelf.install("acme-z", point("loss", "z", "acme_z:Scaled"), {})
    (shelf.here / "plugins" / "one.py").unlink()
    plugins.discover()
    with pytest.raises(ConfigError, match=r"regularizer 'one' of one, which is not here: put plugins/one\.py back\."):
        config.read(run)


def test_an_older_plugin_is_said_and_a_newer_one_is_not(run, shelf, monkeypatch):
    said = []
    monkeypatch.setattr(reporting, "note", said.append)
    for version, count in (("2.0", 0), ("1.0rc1", 1)):
        shutil.rmtree(next(shelf.site.glob("*.dist-info")))
        shelf.install("acme-z", point("loss", "z", "acme_z:Scaled"), {}, version=version)
        plugins.discover()
        config.read(run)
        config.read(run)
        assert len(said) == count
    assert said == [f"{run} was trained with loss 'z' of acme-z 1.0; acme-z 1.0rc1, which is older, is here"]


def test_a_name_that_others_have_by_now_stays_the_runs_own(run, shelf):
    shelf.file("late.py", LOSS.format(name="z") + PLAIN.format(name="one"))
    plugins.discover()
    settings = config.read(run)
    assert settings.loss.name == "acme-z.z"
    assert settings.regularizer.keys() == {"one.one", "l2"}


def test_a_record_of_no_kind_is_missing(run):
    record = {"distribution": "x", "version": "1", "place": "installed"}
    (run / "environment.json").write_text(json.dumps({"plugins": {"conf=x": record}}))
    with pytest.raises(ConfigError, match="which is not here"):
        config.read(run)


@pytest.mark.parametrize("recorded", [[], {"loss=z": "acme"}, {"loss=z": {"distribution": 3}}])
def test_a_record_of_another_form_is_refused(run, recorded):
    (run / "environment.json").write_text(json.dumps({"plugins": recorded}))
    with pytest.raises(ConfigError, match="must say of each plugin its distribution, version and place"):
        config.read(run)


OPTIMIZER = """
import torch
from framework import optimizer

@optimizer("{name}")
class Mine(torch.optim.SGD):
    def __init__(self, params, *, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
"""
QUICK = ("model=linear", "trainer.device=cpu", "hydra.run.dir=run")


def command(shelf, *arguments, **extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMEWORK_", "HYDRA_", "COMP_"))}
    path = os.pathsep.join([str(ROOT), str(shelf.site)])
    return subprocess.run(
        [sys.executable, "-m", "framework", *arguments],
        cwd=shelf.here,
        env={**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **extra},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_ranks_resume_and_a_missing_plugin(shelf):
    for name in ("p", "q"):
        file = {f"acme_{name}.py": OPTIMIZER.format(name="same")}
        shelf.folder(name, project(f"acme-{name}", "optimizer", "same", f"acme_{name}:Mine"), file)
    shelf.install("acme-p", point("optimizer", "same", "absent:Absent"), {}, version="0.5")
    done = command(
        shelf, "optimizer=acme-p.same", "optimizer.lr=0.2", "trainer.max_epochs=1", "trainer.devices=2", *QUICK
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("acme-p 0.5 is installed and in ./plugins: the folder is used") == 1
    (record,) = json.loads((shelf.here / "run" / "environment.json").read_text())["plugins"].items()
    assert record[0] == "optimizer=acme-p.same"
    assert {k: record[1][k] for k in records.FIELDS} == {"distribution": "acme-p", "version": "1.0", "place": "folder"}
    state = (shelf.here / "run" / "last" / "state.json").read_text()
    assert '"optimizer=acme-p.same"' in state
    more = command(
        shelf, "resume=run", "trainer.max_epochs=2", "trainer.devices=1", "accept=[trainer.max_epochs,trainer.devices]"
    )
    assert more.returncode == 0, more.stderr
    shutil.rmtree(shelf.here / "plugins" / "p")
    shutil.rmtree(next(shelf.site.glob("acme_p*.dist-info")))
    gone = command(shelf, "evaluate", "run=run")
    assert gone.returncode == 2
    assert "with optimizer 'acme-p.same' of acme-p 1.0, which is not here: pip install acme-p, or put" in gone.stderr


def test_the_table_names_everything_and_imports_the_rest_of_it_in_spite_of_one(shelf):
    shelf.install(
        "acme-r",
        point("loss", "r", "acme_r:Scaled"),
        {"acme_r.py": "import sys\nsys.exit(1)\n" + LOSS.format(name="r")},
    )
    shelf.install("acme-s", point("loss", "mse", "acme_s:Scaled"), {"acme_s.py": LOSS.format(name="mse")})
    shelf.install("acme-t", "[framework.v2.loss]\nt = acme_t:Scaled\n", {})
    shelf.file("fine.py", LOSS.format(name="fine"))
    shelf.file("torn.py", "def :\n")
    shelf.install("acme-w", point("loss", "w", "acme_w:Scaled"), {}, version="0.5")
    shelf.folder("w", project("acme-w", "loss", "w", "acme_w:Scaled"), {"acme_w.py": LOSS.format(name="w")})
    done = command(shelf, "plugins")
    assert done.returncode == 0, done.stderr
    rows = {tuple(line.split()[:2]): " ".join(line.split()) for line in done.stdout.splitlines()}
    assert rows["loss", "r"].endswith("broken: loss 'r' of acme-r 1.0: acme_r fails to import: SystemExit: 1")
    assert rows["loss", "mse"].endswith("shadowed by the built-in one: use acme-s.mse")
    assert "v2 broken: it is for plugin API v2" in rows["loss", "t"]
    assert rows["loss", "fine"].endswith("ok")
    assert "torn.py:1 is not Python" in done.stdout
    assert "0.5 v1 not used: the folder in ./plugins is" in " ".join(done.stdout.split())


def test_no_plugins(shelf):
    done = command(shelf, "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no plugins: pip install one")
    assert command(shelf, "plugins", FRAMEWORK_PLUGINS="off").stdout == "FRAMEWORK_PLUGINS=off: no plugins\n"


def test_help_lists_what_fails_to_import_and_choosing_it_is_a_mistake(shelf):
    shelf.install("acme-u", point("loss", "u", "acme_u:Scaled"), {"acme_u.py": "1 / 0\n" + LOSS.format(name="u")})
    done = command(shelf, "loss=u", "loss.scale=2", "--help")
    assert done.returncode == 0, done.stderr
    assert "scale: 2" in done.stdout
    done = command(shelf, "loss=u", *QUICK)
    assert done.returncode == 2
    assert done.stderr == "error: loss 'u' of acme-u 1.0: acme_u fails to import: ZeroDivisionError: division by zero\n"
    done = command(shelf, "-sc", "query=bash", COMP_LINE="framework loss=u loss.", FRAMEWORK_PLUGINS="acme-u")
    assert "loss.scale=" in done.stdout
    assert command(shelf, "loss=u", FRAMEWORK_PLUGINS="acme-v").returncode == 2
