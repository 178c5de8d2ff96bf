"""A stranger's checkpoint: pickles, headers that lie, manifests that point elsewhere, links, pipes, devices."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import framework
from framework import Trainer
from framework.checkpoint import CheckpointOptions, Checkpoints, read
from framework.errors import ConfigError

from .conftest import bounded, rewrite_json

FILES = ("model.safetensors", "optimizer.safetensors", "run.safetensors", "state.json")


class Touches:
    """Creates MARKER when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("MARKER",)


def sign(folder: Path) -> None:
    """Make the manifest true again, as whoever forges a checkpoint would."""
    said = {}
    for name in FILES:
        path = folder / name
        whole = path.is_file() and path.stat().st_size < 2**30
        content = path.read_bytes() if whole else b""
        said[name] = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_json(folder / "manifest.json", files=said)


def tensors(header: object, content: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header, be it a mapping or bytes, which says to be so long."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(packed) if length is None else length).to_bytes(8, "little") + packed + content


def entry(shape: list, start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000

WEIGHTS: dict[str, bytes] = {
    "a pickle": pickle.dumps(Touches()),
    "an old pickle": b"cos\nmkdir\n(S'MARKER'\ntR.",
    "nothing": b"",
    "seven bytes": b"\x00" * 7,
    "a header beyond the file": tensors({}, length=2**40),
    "a header beyond numbers": tensors({}, length=2**64 - 1),
    "a header that is no JSON": tensors(b"{'x': __import__('os').mkdir('MARKER')}"),
    "a header in headers": tensors(DEEP),
    "a header of twenty megabytes": tensors(b"{" + b" " * 20_000_000 + b"}"),
    "a header of lists": tensors([1, 2]),
    "a name twice": tensors(b'{"a": %s, "a": %s}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), bytes(4)),
    "offsets that are negative": tensors({"a": entry([1], -4, 0)}, bytes(4)),
    "offsets beyond the end": tensors({"a": entry([1], 2**40, 2**40 + 4)}, bytes(4)),
    "offsets that overlap": tensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "offsets backwards": tensors({"a": entry([1], 4, 0)}, bytes(4)),
    "a hole": tensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "a shape beyond memory": tensors({"a": entry([2**50], 0, 4)}, bytes(4)),
    "a shape beyond numbers": tensors({"a": entry([2**62, 2**62], 0, 4)}, bytes(4)),
    "a shape that wraps around": tensors({"a": entry([2**32, 2**32], 0, 0)}),
    "a negative shape": tensors({"a": entry([-1], 0, 4)}, bytes(4)),
    "a shape of texts": tensors({"a": entry(["os.system"], 0, 4)}, bytes(4)),
    "a dtype of none": tensors({"a": entry([1], 0, 4, "PICKLE")}, bytes(4)),
    "a dtype of another size": tensors({"a": entry([1], 0, 4, "F64")}, bytes(4)),
    "a name with a path": tensors({"../../MARKER": entry([1], 0, 4)}, bytes(4)),
    "an entry that is none": tensors({"a": 1}),
    "metadata that is no text": tensors({"__metadata__": {"a": {"b": 1}}}),
    "another model": tensors({"layers.0.weight": entry([1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(stranger, refused, case, signed):
    folder = (stranger / "best").resolve()
    (folder / "model.safetensors").write_bytes(WEIGHTS[case])
    if signed:
        sign(folder)
    assert "model.safetensors" in refused("evaluate", "run=run")
    with bounded(), pytest.raises(ConfigError, match=r"model\.safetensors"):
        framework.load("run")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_weights_of_another_dtype(stranger, refused, dtype):
    from safetensors.torch import save_file

    folder = (stranger / "best").resolve()
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in weights.items()}, folder / "model.safetensors")
    sign(folder)
    assert "the model's is float32" in refused("evaluate", "run=run")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return plant


def giant(path: Path) -> None:
    content = tensors({"layers.0.weight": entry([2**38], 0, 2**40)})
    path.write_bytes(content)
    os.truncate(path, len(content) + 2**40)


IN_PLACE = {
    "a pipe": pipe,
    "a device": link("/dev/zero"),
    "a link to a stranger's secret": link("/etc/passwd"),
    "a link to a neighbour": link("../../../private"),
    "a link to itself": link("model.safetensors"),
    "a link to nothing": link("nowhere"),
    "a terabyte of holes": giant,
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_what_is_no_file_of_weights(stranger, refused, case):
    folder = (stranger / "best").resolve()
    IN_PLACE[case](folder / "model.safetensors")
    if case == "a terabyte of holes":
        sign(folder)
    refused("evaluate", "run=run")


MANIFESTS: dict[str, bytes | dict] = {
    "absolute paths": {"files": {name: {"bytes": 1, "sha256": ""} for name in ("/etc/passwd", *FILES[1:])}},
    "paths that leave": {"files": {name: {"bytes": 1, "sha256": ""} for name in ("../../../private", *FILES[1:])}},
    "a file more": {"files": {name: {"bytes": 1, "sha256": ""} for name in (*FILES, "evil.pkl")}},
    "no files": {"files": {}},
    "files that are a list": {"files": list(FILES)},
    "another hash": {"files": {name: {"bytes": 1, "sha256": "0" * 64} for name in FILES}},
    "a hash that is a mapping": {"files": {name: {"bytes": 1, "sha256": {}} for name in FILES}},
    "a format of tomorrow": {"format": 10**6},
    "a step of text": {"step": "0; rm -rf /"},
    "a score of nan": b'{"format": 1, "step": 1, "score": NaN, "best": true, "files": {}}',
    "a score beyond floats": b'{"format": 1, "step": 1, "score": 1e999, "best": true, "files": {}}',
    "a step of five thousand digits": b'{"format": 1, "step": ' + b"9" * 5000 + b"}",
    "mappings in mappings": DEEP,
    "a key twice": b'{"format": 1, "format": 1}',
    "a list": b"[]",
    "no UTF-8": b"\xff\xfe",
    "twenty megabytes": b"[" + b"1," * 10_000_000 + b"1]",
    "a pickle": pickle.dumps(Touches()),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests(stranger, refused, case):
    path = (stranger / "best").resolve() / "manifest.json"
    content = MANIFESTS[case]
    if isinstance(content, dict):
        rewrite_json(path, **content)
    else:
        path.write_bytes(content)
    refused("evaluate", "run=run")


@pytest.mark.parametrize("plant", [pipe, link("/dev/zero"), link("/etc/passwd")], ids=["pipe", "device", "link"])
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "optimizer.safetensors"])
def test_what_is_no_file_of_a_checkpoint(stranger, name, plant):
    plant((stranger / "last").resolve() / name)
    with bounded(), pytest.raises(ConfigError, match=name):
        read(stranger / "last")


STATES: dict[str, bytes] = {
    "mappings in mappings": DEEP,
    "nan": b'{"step": 3, "x": NaN}',
    "beyond floats": b'{"step": 3, "x": 1e999}',
    "beyond numbers": b'{"step": ' + b"9" * 5000 + b"}",
    "a step twice": b'{"step": 3, "step": 3}',
    "another step": b'{"step": 10}',
    "no mapping": b"[3]",
    "a number that is none": b'{"step": 3, "x": {"$float": "__import__"}}',
    "a tensor with a path": b'{"step": 3, "x": {"$tensor": "../../../private"}}',
    "a key that is none": b'{"step": 3, "$os": 1}',
    "a pickle": pickle.dumps(Touches()),
}


@pytest.mark.parametrize("case", STATES)
def test_states(stranger, case, tmp_path):
    folder = (stranger / "last").resolve()
    (folder / "state.json").write_bytes(STATES[case])
    sign(folder)
    with bounded(), pytest.raises(ConfigError, match=r"state\.json"):
        read(folder)
    assert not list(tmp_path.rglob("MARKER*"))


FORGED = {
    "counters of text": {"progress": {"epoch": "0", "step": "x", "micro": [], "samples": {}}},
    "counters by other names": {"progress": {"__class__": 1}},
    "no counters": {"progress": None},
    "a history of texts": {"history": ["x"]},
    "an optimizer that is none": {"optimizer": {"values": {"os.system": "x"}, "param_groups": "rm"}},
    "no ranks": {"ranks": []},
    "ranks of text": {"ranks": ["x"]},
}


def _resume(folder: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    data = (torch.zeros(8, 1), torch.zeros(8, 1))
    Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, directory=folder, max_steps=6, device="cpu").fit(
        data, batch_size=4, resume=True
    )


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_state_is_refused_when_it_is_taken_up(tmp_path, case):
    folder = tmp_path / "run"
    _resume(folder)
    newest = (folder / "last").resolve()
    rewrite_json(newest / "state.json", **FORGED[case])
    sign(newest)
    with bounded(), pytest.raises(ConfigError):
        _resume(folder)


@pytest.mark.parametrize("target", ["/etc", "..", "../../../..", "best", "nowhere"])
def test_best_that_leads_out_of_the_run(stranger, refused, target):
    (stranger / "best").unlink()
    (stranger / "best").symlink_to(target)
    refused("evaluate", "run=run")


def test_best_that_leads_to_a_neighbour_s_run(stranger, refused, trained):
    (stranger / "best").unlink()
    (stranger / "best").symlink_to((trained / "best").resolve())
    assert "leads out of" in refused("evaluate", "run=run")


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_checkpoints_that_is_a_link_is_neither_written_to_nor_cleared(stranger, tmp_path, overwrite):
    precious = tmp_path / "precious" / "step-3"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("years of work")
    (stranger / "checkpoints").rename(stranger / "moved")
    (stranger / "checkpoints").symlink_to(precious.parent)
    model = nn.Linear(1, 1)
    trainer = Trainer(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        directory=stranger,
        overwrite=overwrite,
        max_epochs=1,
        device="cpu",
    )
    with pytest.raises(ConfigError, match="must be a folder, not a link"):
        trainer.fit((torch.zeros(4, 1), torch.zeros(4, 1)), resume=not overwrite)
    assert [path.name for path in precious.parent.rglob("*")] == ["step-3", "thesis.txt"]


def test_a_step_that_is_a_link_is_no_checkpoint(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-9").symlink_to(elsewhere)
    checkpoints = Checkpoints(tmp_path / "run", CheckpointOptions(), resume=True)
    assert checkpoints.newest() is None
    checkpoints.close()
    assert (elsewhere / "thesis.txt").exists()


def test_files_of_a_run_that_are_links_are_replaced_and_not_followed(stranger, tmp_path):
    from framework import config, run

    for name in ("config.yaml", "overrides.yaml", "environment.json", "result.json"):
        content = (stranger / name).read_text()
        (tmp_path / name).write_text(content)
        (stranger / name).unlink()
        (stranger / name).symlink_to(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "environment.json", "result.json")}
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    run.train(config.parse({**settings, "seed": 5, "overwrite": True}), stranger, ["seed=5"])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not (stranger / "config.yaml").is_symlink()


ENVIRONMENTS: dict[str, bytes] = {
    "no data": b"{}",
    "a list": b"[]",
    "a shape of text": b'{"data": {"input_shape": "os.system", "outputs": 10}}',
    "a shape beyond memory": b'{"data": {"input_shape": [1000000, 1000000], "outputs": 10}}',
    "a shape beyond numbers": b'{"data": {"input_shape": [%s], "outputs": 10}}' % (b"9" * 400),
    "negative outputs": b'{"data": {"input_shape": [1, 8, 8], "outputs": -1}}',
    "outputs beyond memory": b'{"data": {"input_shape": [1, 8, 8], "outputs": 1000000000000}}',
    "a million dimensions": b'{"data": {"input_shape": [' + b"1," * 10**6 + b'1], "outputs": 10}}',
    "outputs of nan": b'{"data": {"input_shape": [1, 8, 8], "outputs": NaN}}',
    "mappings in mappings": DEEP,
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_environments(stranger, case):
    (stranger / "environment.json").write_bytes(ENVIRONMENTS[case])
    with bounded(), pytest.raises(ConfigError) as caught:
        framework.load("run")
    assert len(str(caught.value)) < 10**4 or case == "a shape beyond numbers"
