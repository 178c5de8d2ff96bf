import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from framework.checkpoint import (
    CheckpointOptions,
    Checkpoints,
    Snapshot,
    clear,
    copy_into,
    load_model,
    model_tensors,
    optimizer_parts,
    write_json,
)
from framework.errors import ConfigError


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def save(directory: Path | Checkpoints, net: nn.Module, step: int, *, best: bool) -> None:
    checkpoints = directory if isinstance(directory, Checkpoints) else Checkpoints(directory, CheckpointOptions())
    optimizer = torch.optim.Adam(net.parameters())
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    tensors, values = optimizer_parts(optimizer)
    state = {"progress": {"step": step}, "optimizer": values}
    checkpoints.save(Snapshot(step, model_tensors(net), tensors, {}, state), best=best)
    if checkpoints is not directory:
        checkpoints.close()


def test_round_trip_is_bitwise_and_files_are_safetensors_and_json(tmp_path):
    net = model()
    save(tmp_path, net, 3, best=True)
    folder = tmp_path / "checkpoints" / "step-3"
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "run.safetensors",
        "state.json",
    ]
    other = model()
    load_model(other, tmp_path / "best")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    state = json.loads((folder / "state.json").read_text())
    assert state["progress"] == {"step": 3}
    assert state["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert torch.equal(load_file(folder / "optimizer.safetensors")["0.exp_avg"], torch.full((3, 2), 0.1))


def test_links_are_relative_and_only_linked_checkpoints_stay(tmp_path):
    net, checkpoints = model(), Checkpoints(tmp_path, CheckpointOptions())
    for step, best in [(1, True), (2, False), (3, True), (4, False), (5, False)]:
        save(checkpoints, net, step, best=best)
    checkpoints.close()
    assert (tmp_path / "best").readlink() == Path("checkpoints/step-3")
    assert (tmp_path / "last").readlink() == Path("checkpoints/step-5")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-5"]
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    load_model(model(), moved / "best")


def test_a_folder_is_one_run_s_alone_until_it_is_cleared(tmp_path):
    save(tmp_path, model(), 1, best=True)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="has a run already"):
        Checkpoints(tmp_path, CheckpointOptions())
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    save(tmp_path, model(), 1, best=True)


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path):
    net = Tied()
    assert set(model_tensors(net)) == {"embed.weight"}
    save(tmp_path, net, 1, best=True)
    other = Tied()
    load_model(other, tmp_path / "best")
    assert torch.equal(other.head.weight, net.embed.weight)
    assert other.head.weight is other.embed.weight


def test_names_are_canonical_whatever_wraps_the_model(tmp_path):
    net = model()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(net)
        part = nn.Sequential(torch.compile(net[0]), *net[1:])
        for wrapped in (torch.compile(net), parallel, torch.compile(parallel), part):
            tensors = model_tensors(wrapped)
            assert tensors.keys() == net.state_dict().keys()
            assert all(torch.equal(tensors[name], tensor) for name, tensor in net.state_dict().items())
            others = model_tensors(model())
            copy_into(wrapped, others)
            assert all(torch.equal(others[name], tensor) for name, tensor in net.state_dict().items())
    finally:
        dist.destroy_process_group()


def test_another_model_is_refused_by_name(tmp_path):
    save(tmp_path, model(), 1, best=True)
    path = tmp_path / "best"
    wide = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ConfigError, match=r"another model: 0.bias is \(3,\), the model's is \(4,\)"):
        load_model(wide, path)
    with pytest.raises(ConfigError, match=r"absent"):
        load_model(nn.Sequential(nn.Linear(2, 3)), path)
    with pytest.raises(ConfigError, match=r"3\.weight is missing"):
        load_model(nn.Sequential(*model(), nn.Linear(1, 1)), path)


def test_a_damaged_file_is_named(tmp_path):
    save(tmp_path, model(), 1, best=True)
    path = tmp_path / "best" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"model\.safetensors has 40 bytes where manifest"):
        load_model(model(), path.parent)


def test_json_is_whole_and_strict(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.0, math.inf], "c": {"d": "text"}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.0, None], "c": {"d": "text"}}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
