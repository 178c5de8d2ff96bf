"""framework checkpoint list, verify, convert and export."""

import collections
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import framework
from framework import run
from framework.checkpoint import CheckpointOptions, Checkpoints, Snapshot
from framework.cli import run as command_line
from framework.config import parse, section_defaults
from framework.errors import ConfigError, Exit


def settings(model: dict, **trainer):
    return parse(
        {
            "model": model,
            "data": {"name": "digits"},
            "loss": {"name": "cross_entropy"},
            "optimizer": {"name": "adam"},
            "scheduler": {"name": "constant"},
            "trainer": {**section_defaults("trainer"), "max_steps": 4, "device": "cpu", **trainer},
            "checkpoint": {"every_n_steps": 2, "keep_last": 2},
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "trained"
    run.train(settings({"name": "mlp"}), directory, [])
    return directory


@pytest.fixture
def stored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", CheckpointOptions(keep_last=3))
    for step in (5, 1000):
        taken = Snapshot(step, {"weight": torch.ones(3) * step}, {}, {}, {})
        checkpoints.save(taken, best=step == 5, score=step / 8)
    checkpoints.close()
    return tmp_path / "run"


def output_of(capsys, *arguments) -> tuple[Exit, str]:
    code = command_line(["checkpoint", *map(str, arguments)])
    return code, capsys.readouterr().out


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_list_and_verify(stored, capsys):
    code, printed = output_of(capsys, "list", stored)
    assert code == Exit.OK
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == ["step", "score", "size", "links", "verified"]
    assert [(row[0], row[1], row[-2], row[-1]) for row in rows[1:]] == [
        ("5", "0.625", "best", "yes"),
        ("1,000", "125", "last", "yes"),
    ]
    assert output_of(capsys, "verify", stored) == (Exit.OK, "2 checkpoints, every file as its manifest says.\n")


def test_verify_names_each_corrupt_file_and_changes_nothing(stored, capsys):
    path = stored / "checkpoints" / "step-1000" / "optimizer.safetensors"
    damage(path)
    code, printed = output_of(capsys, "verify", stored)
    assert code == Exit.FAILED
    assert f"{path} has another SHA-256 than manifest.json says" in printed
    assert "2 checkpoints, 1 corrupt." in printed
    assert path.exists()
    code, printed = output_of(capsys, "list", stored)
    assert [line.split()[-1] for line in printed.splitlines()[1:3]] == ["yes", "no"]
    (stored / "best").unlink()
    code, printed = output_of(capsys, "verify", stored)
    assert (code, f"{stored / 'best'} points at nothing." in printed) == (Exit.FAILED, True)


def test_exit_codes_of_the_command(command, tmp_path, stored):
    damage(stored / "checkpoints" / "step-5" / "model.safetensors")
    verified = command("checkpoint", "verify", "run")
    assert verified.returncode == 1
    assert "run/checkpoints/step-5/model.safetensors has another SHA-256" in verified.stdout
    refused = command("checkpoint", "verify", "nowhere")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.strip() == "error: nowhere has no checkpoints: is it the folder of a run that was trained?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint needs what to do, got ''"),
        (["verfy", "x"], "did you mean 'verify'"),
        (["verify"], "checkpoint verify takes one path, got ''"),
        (["list", "a", "b"], "takes one path, got 'a b'"),
        (["convert", "x"], "checkpoint convert needs output=X.safetensors"),
        (["convert", "x", "output=y.pt"], "output=y.pt: weights are written as safetensors"),
        (["convert", "nowhere", "output=y.safetensors"], "nowhere is neither a file nor the folder of a run"),
        (["convert", "x", "output=y.safetensors", "which=first"], "which cannot be .first.: choose one of"),
        (["export", "x", "output=y.onnx"], "format=pt2 is written to a file named so: output=X.pt2"),
        (["export", "x", "output=y.pt2", "format=tflite"], "format cannot be .tflite.: choose one of"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        command_line(["checkpoint", *arguments])
    assert not list(tmp_path.iterdir())


def test_convert_a_run(stored, tmp_path, capsys):
    for which, step in (("best", 5), ("last", 1000)):
        code, printed = output_of(capsys, "convert", stored, f"output={tmp_path / 'x.safetensors'}", f"which={which}")
        assert (code, printed) == (Exit.OK, f"1 tensor: {tmp_path / 'x.safetensors'}\n")
        assert torch.equal(load_file(tmp_path / "x.safetensors")["weight"], torch.ones(3) * step)
    damage(stored / "last" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model.safetensors has another SHA-256"):
        command_line(["checkpoint", "convert", str(stored), f"output={tmp_path / 'y.safetensors'}", "which=last"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "x.safetensors"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_convert_others_files(wrap, prefix, zipped, tmp_path, capsys):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
    net[1].bias = net[1].weight  # tied: both names stay
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save(wrap(state), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    code, _ = output_of(capsys, "convert", tmp_path / "x.pt", f"output={tmp_path / 'x.safetensors'}")
    assert code == Exit.OK
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[k], t) and found[k].dtype == t.dtype for k, t in net.state_dict().items())


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


FOREIGN = {
    "code": (lambda path: Hostile(path.with_name("ran")), "is refused: it is no file of torch.save that holds tensors"),
    "a module": (lambda _: nn.Linear(2, 2), "is refused"),
    "no mapping": (lambda _: [torch.ones(2)], "has no state dict"),
    "nothing": (lambda _: {}, "has no state dict"),
    "not tensors": (lambda _: {"weight": torch.ones(2), "epoch": 3}, "'epoch' is a int"),
    "sparse": (lambda _: {"weight": torch.eye(3).to_sparse()}, "weight is sparse"),
    "ordered": (lambda _: collections.Counter(a=1), "'a' is a int"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_state_dict_is_refused_and_runs_no_code(name, zipped, tmp_path):
    make, message = FOREIGN[name]
    path = tmp_path / "x.pt"
    torch.save(make(path), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=message):
        command_line(["checkpoint", "convert", str(path), f"output={tmp_path / 'y.safetensors'}"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text", b"\x80\x02cos\nsystem\n."])
def test_files_that_torch_never_wrote_are_refused(content, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.pt (is refused|cannot be read)"):
        command_line(["checkpoint", "convert", str(path), f"output={tmp_path / 'y.safetensors'}"])


def test_a_run_trained_by_configuration_saves_when_due(trained):
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["step-2", "step-4"]


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_export_is_the_best_model_for_batches_of_any_size(name, trained, tmp_path, capsys):
    if name != "mlp":
        trained = tmp_path / "run"
        run.train(settings({"name": name}), trained, [])
    code, _ = output_of(capsys, "export", trained, f"output={tmp_path / 'x.pt2'}")
    assert code == Exit.OK
    program = torch.export.load(tmp_path / "x.pt2").module()
    model = framework.load(trained)
    for size in (1, 5):
        inputs = torch.randn(size, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(program(inputs), model(inputs))


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is not None, reason="the message is for who lacks ONNX")
def test_onnx_is_an_extra(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'chainrule\[onnx\]'"):
        command_line(["checkpoint", "export", str(trained), f"output={tmp_path / 'x.onnx'}", "format=onnx"])
