"""A stranger's configuration: it can choose and set, and nothing else."""

import pytest
import yaml

RUNS_CODE = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [MARKER]]"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
GLOBAL = "# @package _global_\n"

APPENDED = {
    "a tag that calls": (f"extra: {RUNS_CODE}", "python/object"),
    "a tag that imports": ("extra: !!python/module:os ", "python/module"),
    "a tag that names": ("extra: !!python/name:os.system ''", "python/name"),
    "a million laughs": (LAUGHS, "too large"),
    "an alias of itself": ("extra: &x [*x]", "too large"),
    "lists in lists": ("extra: " + "[" * 5000 + "]" * 5000, "nested deeper"),
    "mappings in mappings": ("extra: " + "{a: " * 5000 + "1" + "}" * 5000, "nested deeper"),
    "a number of a million digits": ("extra: " + "9" * 1_000_000, "a value may have"),
    "a number of five thousand digits": ("seed2: " + "9" * 5000, "not YAML of plain values"),
    "a number of a thousand colons": ("extra: 1" + ":59" * 30_000, "a value may have"),
    "a day that is none": ("extra: 2026-99-99", "not YAML of plain values"),
    "a key twice": ("seed: 1", "stands twice"),
    "a second document": ("---\na: 1", "single document"),
    "a target": ("_target_: os.system", "_target_ is not a setting"),
    "hydra's own key": ("hydra: {callbacks: {x: {_target_: os.system}}}", "hydra is not a setting"),
    "an unhashable key": ("? [a]\n: 1", "not YAML of plain values"),
    "no text at all": ("\x00\x01", "not YAML"),
}


@pytest.mark.parametrize("case", APPENDED)
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_what_is_appended_to_config_yaml(stranger, refused, case, command):
    text, reason = APPENDED[case]
    with (stranger / "config.yaml").open("a") as file:
        file.write(text + "\n")
    words = ["input=private"] if command == "predict" else []
    assert reason in refused(command, "run=run", *words)


CHANGED = {
    "a component by import path": ({"optimizer": {"name": "os.system"}}, "'os.system' does not exist"),
    "a component by file": ({"loss": {"name": "../../plugins/evil"}}, "does not exist"),
    "a component by empty name": ({"model": {"name": ""}}, "does not exist"),
    "a component by list": ({"model": {"name": ["mlp"]}}, "model is required"),
    "a target in a component": ({"model": {"name": "mlp", "_target_": "os.system"}}, "model._target_ is not a setting"),
    "a callback by path": ({"callback": {"os.system": {}}}, "does not exist"),
    "layers beyond the weights": ({"model": {"name": "mlp", "widths": [8] * 10_000}}, "another model"),
    "a layer beyond memory": ({"model": {"name": "mlp", "widths": [10**12]}}, "another model"),
    "a layer beyond numbers": ({"model": {"name": "mlp", "widths": [10**30]}}, ""),
    "blocks beyond the weights": ({"model": {"name": "transformer", "layers": 10**12}}, ""),
    "processes beyond the machine": ({"trainer": {"devices": 100_000, "device": "cpu"}}, "at most"),
    "infinity for a whole number": ({"seed": float("inf")}, "seed must be a whole number"),
    "nan for a whole number": ({"seed": float("nan")}, "seed must be a whole number"),
    "a huge whole number for a rate": ({"optimizer": {"name": "adam", "lr": 10**400}}, "optimizer.lr must be a number"),
    "a seed beyond torch's": ({"seed": 10**400}, "seed"),
    "a value that fills the screen": ({"seed": "x" * 60_000}, "seed must be"),
    "a device of all memory": ({"data": {"name": "text", "path": "/dev/zero"}}, "must be a regular file"),
    "a table of all memory": ({"data": {"name": "csv", "path": "/dev/zero"}}, "must be a regular file"),
    "a folder for a table": ({"data": {"name": "csv", "path": "."}}, "data 'csv' cannot read"),
    "downloads by another scheme": (
        {"data": {"name": "mnist", "root": "run", "source": "file:///etc/"}},
        "downloaded by https only",
    ),
    "a mapping for a list": ({"model": {"name": "mlp", "widths": {"a": 1}}}, "must be a list"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_set_in_config_yaml(stranger, refused, case):
    changes, reason = CHANGED[case]
    path = stranger / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, **changes}))
    assert reason in refused("evaluate", "run=run", own=stranger)


def test_an_interpolation_in_a_run_s_configuration_is_text(stranger, refused, monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    path = stranger / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "data": {"name": "text", "path": "${oc.env:TOKEN}"}}))
    message = refused("evaluate", "run=run")
    assert "hunter2" not in message
    assert "${oc.env:TOKEN}" in message


COMPOSED = {
    "laughs": (f"{GLOBAL}{LAUGHS}", "too large"),
    "depth": (f"{GLOBAL}x: {'[' * 5000}{']' * 5000}", "nested deeper"),
    "size": (f"{GLOBAL}x: [{'1, ' * 6_000_000}]", "at most"),
    "tag": (f"{GLOBAL}x: {RUNS_CODE}", "could not determine a constructor"),
}


@pytest.mark.parametrize("case", COMPOSED)
def test_a_stranger_s_experiment(stranger, refused, tmp_path, case):
    text, reason = COMPOSED[case]
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(text)
    assert reason in refused("experiment=evil", "trainer.max_epochs=1")


@pytest.mark.parametrize("name", ["os.system", "../../private", "/etc/passwd", "__import__", "a/b/c", "framework.cli"])
@pytest.mark.parametrize("kind", ["optimizer", "callback", "experiment"])
def test_names_that_are_paths(stranger, refused, kind, name):
    refused(f"{kind}={[name] if kind == 'callback' else name}".replace("'", ""), "trainer.max_epochs=1")


@pytest.mark.parametrize(
    "source", ["(" * 100_000, "-" * 200_000 + "1", "x = 1\x00", "\xff".encode("latin-1"), "@loss('../x')\nclass X: ..."]
)
def test_a_plugin_file_that_is_no_python_stops_nobody(stranger, tmp_path, monkeypatch, source):
    from framework import plugins

    (tmp_path / "plugins").mkdir()
    path = tmp_path / "plugins" / "bad.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    monkeypatch.setenv("FRAMEWORK_PLUGINS", "bad")
    (found,) = plugins.discover().components
    assert found.broken
