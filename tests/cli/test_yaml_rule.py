"""YAML names components, never code: ways in which Hydra would run what a file says, tried and refused."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from framework.cli.yaml_rule import check_folder
from framework.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
OPENS = "{_target_: logging.FileHandler, filename: MARKER}"
LOGS = (
    "version: 1\n"
    '{indent}handlers: {{h: {{"()": logging.FileHandler, filename: MARKER}}}}\n'
    "{indent}root: {{handlers: [h]}}"
)
EVIL_LOG = LOGS.format(indent="")
GLOBAL = "# @package _global_\n"

FIVE_WAYS = {
    "target": {"experiment/evil.yaml": f"{GLOBAL}model: {OPENS}"},
    "callbacks": {"experiment/evil.yaml": f"{GLOBAL}hydra: {{callbacks: {{x: {OPENS}}}}}"},
    "job_logging": {"experiment/evil.yaml": f"{GLOBAL}hydra:\n  job_logging:\n    {LOGS.format(indent='    ')}"},
    "hydra_logging": {"experiment/evil.yaml": f"{GLOBAL}hydra:\n  hydra_logging:\n    {LOGS.format(indent='    ')}"},
    "header": {"experiment/evil.yaml": f"# @package hydra.job_logging\n{EVIL_LOG}"},
    "defaults": {
        "experiment/evil.yaml": f"{GLOBAL}defaults: ['/stuff@hydra.job_logging: payload', _self_]\n",
        "stuff/payload.yaml": EVIL_LOG,
    },
    "defaults_group": {
        "experiment/evil.yaml": f"{GLOBAL}defaults: [override /hydra/job_logging: payload]\n",
        "hydra/job_logging/payload.yaml": EVIL_LOG,
    },
    "resolver": {"experiment/evil.yaml": f"{GLOBAL}defaults: ['override /model: ${{oc.env:HOME}}']\n"},
}


def plant(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("place", ["packaged", "working folder", "--config-dir"])
@pytest.mark.parametrize("way", FIVE_WAYS)
def test_refused_wherever_the_file_stands(command, refused, tmp_path, place, way):
    words, root = ["experiment=evil"], ROOT
    if place == "packaged":
        root = tmp_path / "installed"
        shutil.copytree(ROOT / "framework", root / "framework", ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
        shutil.copytree(ROOT / "conf", root / "framework/conf")
        folder = root / "framework/conf"
    elif place == "working folder":
        folder = tmp_path / "conf"
    else:
        folder = tmp_path / "mine"
        words += ["--config-dir", "mine"]
    plant(folder, FIVE_WAYS[way])
    refused(command(*words, root=root), str(folder), "may name components, not code")
    assert not list(tmp_path.rglob("MARKER"))


@pytest.mark.parametrize("way", ["callbacks", "job_logging", "header"])
def test_the_attacks_do_run_code_where_nothing_stops_them(tmp_path, way):
    plant(tmp_path / "conf", FIVE_WAYS[way] | {"main.yaml": "defaults: [_self_, experiment: evil]\nx: 1\n"})
    app = tmp_path / "app.py"
    app.write_text(
        "import hydra\nhydra.main(version_base='1.3', config_path='conf', config_name='main')(lambda config: None)()\n"
    )
    subprocess.run([sys.executable, str(app), "hydra.job.chdir=false"], cwd=tmp_path, capture_output=True)
    assert list(tmp_path.rglob("MARKER"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("escaped key", r'"\x68ydra": {callbacks: {x: 1}}'),
        ("escaped target", r'a: {"_t\u0061rget_": os.system}'),
        ("target in a list", "a: [[{_target_: os.system}]]"),
        ("anchor and merge key", "a: &a {_target_: os.system}\nb:\n  <<: *a"),
        ("merge key at the root", "x: &x {hydra: {callbacks: {y: 1}}}\n<<: *x"),
        ("complex key", "? hydra\n: {callbacks: {x: 1}}"),
        ("tagged key", "!!str hydra: {callbacks: {x: 1}}"),
        ("dotted key", "hydra.callbacks: {x: 1}"),
        ("nested", "a: {hydra: {callbacks: {x: 1}}}"),
        ("upper case", "Hydra: {callbacks: {x: 1}}"),
        ("interpolated node", "payload: 1\nhydra: ${payload}"),
        ("interpolated inner node", "hydra: {run: '${payload}'}"),
        ("environment", "hydra: {job: {env_set: {PATH: x}}}"),
        ("search path", "hydra: {searchpath: ['pkg://os']}"),
        ("launcher", "hydra: {launcher: {_target_: os.system}}"),
        ("null", "hydra: null"),
        ("sweeper's own", "hydra: {sweeper: {max_batch_size: 1}}"),
        ("swept hydra", "hydra: {sweeper: {params: {hydra.callbacks.x: '1,2'}}}"),
        ("swept by plus", "hydra: {sweeper: {params: {+hydra.callbacks.x: '1,2'}}}"),
        ("swept by equals", "hydra: {sweeper: {params: {'hydra={callbacks: 1}, x': '1,2'}}}"),
        ("header after blank lines", "\n\n# @package hydra.callbacks\nx: 1"),
        ("header without blanks", "#@package hydra.callbacks\nx: 1"),
        ("relative header", "# @package _global_.hydra.callbacks\nx: 1"),
        ("interpolated header", "# @package ${a}\nx: 1"),
        ("bracketed header", "# @package [hydra].callbacks\nx: 1"),
        ("header after another", "# @mode x\n# @package hydra\nx: 1"),
        ("header after a line separator", "\u2028# @package hydra\nx: 1"),
        ("default by name", "defaults: [hydra/job_logging]"),
        ("default by package", "defaults: [x@hydra.callbacks]"),
        ("default by renaming", "defaults: ['x@_global_:hydra.callbacks: y']"),
        ("default by list", "defaults: [x: [../hydra/a]]"),
        ("default upper case", "defaults: [override /HYDRA/job_logging: x]"),
        ("interpolated default", "defaults: ['${oc.env:HOME}']"),
        ("partial", "a: {_partial_: true, _args_: []}"),
    ],
)
def test_refused_however_it_is_spelled(tmp_path, name, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="may name components, not code"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\n---\nhydra: {callbacks: 1}", "single document"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: [1", "x.yaml"),
        ("- 1\n- 2", "got a list"),
        ("3", "one YAML mapping"),
        ("\t# @package\thydra", "is not YAML"),
        ("# @package\thydra\nx: 1", "Expected header format"),
        ("# @package hydra x\nx: 1", "Too many components"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: \x00", "x.yaml"),
        ("a: ${oops", "x.yaml"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        check_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_links_hidden_folders_binary_files_and_hydras_own_places_are_checked(tmp_path):
    evil = tmp_path / "elsewhere"
    plant(evil, {"deep/evil.yaml": "a: {_target_: os.system}"})
    for name, make in {
        "linked folder": lambda conf: (conf / "link").symlink_to(evil),
        "linked file": lambda conf: (conf / "x.yaml").symlink_to(evil / "deep/evil.yaml"),
        "hidden": lambda conf: plant(conf, {".x/y.yaml": "a: {_target_: x}"}),
        "hydra's folder": lambda conf: plant(conf, {"hydra/output/default.yaml": "a: 1"}),
        "hydra's file": lambda conf: plant(conf, {"hydra.yaml": "# @package _name_\na: 1"}),
        "binary": lambda conf: (conf / "x.yaml").write_bytes(b"\xff\xfe\x00"),
        "dangling link": lambda conf: (conf / "x.yaml").symlink_to(conf / "nowhere"),
    }.items():
        conf = tmp_path / name.replace("hydra", "h")
        conf.mkdir()
        make(conf)
        with pytest.raises(ConfigError):
            check_folder(conf)


def test_a_loop_of_links_ends(tmp_path):
    plant(tmp_path, {"a/x.yaml": "a: 1"})
    (tmp_path / "a/loop").symlink_to(tmp_path)
    check_folder(tmp_path)


def test_a_file_outside_the_folders_is_checked_when_it_is_reached(command, refused, tmp_path):
    plant(tmp_path, {"conf/experiment/x.yaml": f"{GLOBAL}defaults: [/../evil]", "evil.yaml": f"model: {OPENS}"})
    refused(command("experiment=x"), "evil.yaml", "may name components, not code")
    assert not (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("suffix", ["yml", "YAML", "yaml.txt"])
def test_other_suffixes_are_not_read(command, refused, tmp_path, suffix):
    plant(tmp_path, {f"conf/experiment/evil.{suffix}": FIVE_WAYS["callbacks"]["experiment/evil.yaml"]})
    refused(command("experiment=evil"), "experiment 'evil' does not exist")
    refused(command(f"experiment=evil.{suffix}"), "does not exist")


def test_plain_values_of_hydra_may_be_set(command, tmp_path):
    text = f"""
        {GLOBAL.strip()}
        defaults: [override /model: linear]
        trainer: {{max_epochs: 1}}
        hydra:
          run: {{dir: 'out/${{name}}'}}
          sweep: {{dir: many, subdir: 'seed-${{seed}}'}}
          sweeper: {{params: {{seed: '1,2'}}}}
    """
    plant(tmp_path / "conf", {"experiment/mine.yaml": textwrap.dedent(text).strip()})
    assert command("experiment=mine").returncode == 0
    assert (tmp_path / "out/digits-linear/result.json").is_file()
    assert command("-m", "experiment=mine").returncode == 0
    assert {path.name for path in (tmp_path / "many").iterdir() if path.is_dir()} == {"seed-1", "seed-2"}
