"""Others' checkpoints are pickles: converted with nothing run, and no larger than their file."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


class Touches:
    """Creates MARKER when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("MARKER",)


class Loads:
    """Loads another file, without care, when it is unpickled."""

    def __reduce__(self):
        return torch.load, ("private",)


def cyclic() -> dict:
    content: dict = {}
    content["model"] = content
    return content


SAVED = {
    "a call": {"model": Touches()},
    "a call beside weights": {"weight": torch.zeros(2), "x": Touches()},
    "a load that is trusted": Loads(),
    "a mapping that holds itself": cyclic(),
    "a terabyte by strides of zero": {"weight": torch.zeros(1).expand(2**38)},
    "a function": {"weight": os.system},
    "a module": torch.nn.Linear(2, 2),
    "a list": [torch.zeros(2)],
    "no weights": {},
    "a sparse tensor": {"weight": torch.eye(3).to_sparse()},
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("case", SAVED)
def test_a_file_of_torch_save(refused, tmp_path, monkeypatch, case, old):
    monkeypatch.chdir(tmp_path)
    torch.save(SAVED[case], "evil.pt", _use_new_zipfile_serialization=not old)
    assert "evil.pt" in refused("checkpoint", "convert", "evil.pt", "output=out.safetensors")


FILES = {
    "a pickle": pickle.dumps(Touches()),
    "an old pickle": b"cos\nmkdir\n(S'MARKER'\ntR.",
    "a pickle of a terabyte": b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b"x",
    "lists in lists": b"(" * 500_000 + b"l" * 500_000 + b".",
    "nothing": b"",
    "no pickle": b"PK\x03\x04 and no more",
}


@pytest.mark.parametrize("case", FILES)
def test_what_torch_save_has_not_written(refused, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    Path("evil.pt").write_bytes(FILES[case])
    assert "evil.pt" in refused("checkpoint", "convert", "evil.pt", "output=out.safetensors")


def test_an_archive_that_unpacks_to_a_gigabyte(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb/data.pkl", "w") as entry:
        for _ in range(1024):
            entry.write(bytes(2**20))
    assert "it unpacks to" in refused("checkpoint", "convert", "bomb.pt", "output=out.safetensors")


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", ".", "nowhere", "link.pt"])
def test_what_is_no_file_to_convert(refused, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link.pt").symlink_to("/dev/zero")
    refused("checkpoint", "convert", name, "output=out.safetensors")


def test_names_in_a_file_are_names_and_no_paths(tmp_path, monkeypatch):
    from framework.checkpoint.conversion import convert

    monkeypatch.chdir(tmp_path)
    torch.save({"../../MARKER": torch.ones(2)}, "x.pt")
    convert(Path("x.pt"), Path("out.safetensors"))
    assert load_file("out.safetensors").keys() == {"../../MARKER"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "x.pt"]


@pytest.mark.parametrize("words", [("verify",), ("list",), ("export",), ("convert",)])
def test_commands_on_a_run_whose_checkpoints_are_pipes(stranger, capsys, words):
    from framework import cli

    from .conftest import bounded

    for step in (stranger / "checkpoints").iterdir():
        for path in step.iterdir():
            path.unlink()
            os.mkfifo(path)
    output = {"export": ["output=x.pt2"], "convert": ["output=x.safetensors"]}.get(words[0], [])
    with bounded():
        code = cli._guarded(lambda: cli.run(["checkpoint", *words, "run", *output]))
    assert code == (0 if words == ("list",) else 1 if words == ("verify",) else 2), capsys.readouterr().err
