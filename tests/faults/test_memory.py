"""Memory that runs out, by a model that says so of batches that are too large."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import blobs, small_model, trainer, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from framework.batching.batches import in_pieces
from framework.faults import explain_memory, is_out_of_memory


class Small(nn.Module):
    """A model with memory for so many examples in training."""

    def __init__(self, most: int, *, norm: bool = False) -> None:
        super().__init__()
        self.body = small_model(norm=norm)
        self.most = most
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(inputs))
            if len(inputs) > self.most:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB.\nMore lines."
                )
        return self.body(inputs)


def fitted(most: int, *, source: Any = None, batch_size: int = 20, **settings: Any) -> tuple[Small, Any]:
    model = Small(most).double()
    ours = trainer(model, max_epochs=2, optimizer=torch.optim.SGD, **settings)
    inputs, target = blobs()
    ours.fit(source or (inputs.double(), target), batch_size=batch_size)
    return model, ours


def test_smaller_micro_batches_give_the_same_weights(capsys):
    plain, _ = fitted(99)
    model, ours = fitted(6, auto_micro_batch=True)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)
    assert model.sizes[:3] == [20, 10, 5]
    assert set(model.sizes[2:]) == {5}
    assert (ours.memory.pieces, ours.progress.step, ours.progress.micro) == (4, 6, 24)
    said = capsys.readouterr().err
    assert said.count("memory ran out: from here on each micro-batch is cut into") == 2


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=1), nn.CrossEntropyLoss()])
def test_uneven_weights_loaders_and_accumulation_stay_exact(loss):
    inputs, target = blobs()
    loader = DataLoader(TensorDataset(inputs.double(), target), batch_size=7)
    plain, _ = fitted(99, loss=loss, source=loader, accumulate=2)
    model, ours = fitted(2, loss=loss, source=loader, accumulate=2, auto_micro_batch=True)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)
    assert max(model.sizes[-8:]) <= 2
    assert ours.memory.pieces == 4


def test_what_the_failed_attempt_did_to_batch_norm_is_taken_back():
    class Late(Small):
        """Runs out of memory when the statistics are made."""

        def forward(self, inputs: Tensor) -> Tensor:
            outputs = self.body(inputs)
            if self.training and len(inputs) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return outputs

    found = []
    for most, settings in ((10, {"auto_micro_batch": True}), (99, {"accumulate": 2})):
        model = Late(most, norm=True)
        trainer(model, max_epochs=1, optimizer=torch.optim.SGD, **settings).fit(blobs(), batch_size=20)
        found.append(weights(model))
    assert torch.equal(*found)


def test_one_example_is_the_least(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fitted(0, auto_micro_batch=True, directory=tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"


def test_the_message_has_figures_and_three_things_to_try(tmp_path):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fitted(5, directory=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("out of memory on cpu (")
    assert "GiB at this process's peak; CUDA out of memory. Tried to allocate 2.00 GiB)" in message
    for advice in (
        "data.batch_size",
        "trainer.accumulate",
        "trainer.auto_micro_batch=true",
        "precision=bf16",
        "gradient_checkpointing=true",
    ):
        assert advice in message
    assert json.loads((tmp_path / "result.json").read_text())["error"] == f"OutOfMemoryError: {message}"


def test_the_host_s_allocator_counts_too_and_other_errors_do_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert "you tried to allocate" in str(explain_memory(caught.value, torch.device("cpu")))
    assert not is_out_of_memory(RuntimeError("out of luck"))
    assert not is_out_of_memory(MemoryError())


def test_other_errors_are_not_retried():
    class Broken(Small):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("broken")
            return self.body(inputs)

    with pytest.raises(RuntimeError, match=r"^broken$"):
        trainer(Broken(1), max_epochs=1, auto_micro_batch=True).fit(blobs())


def test_the_size_of_micro_batches_is_resumed(tmp_path):
    fitted(6, auto_micro_batch=True, directory=tmp_path)
    model = Small(6).double()
    inputs, target = blobs()
    ours = trainer(model, max_epochs=3, optimizer=torch.optim.SGD, auto_micro_batch=True, directory=tmp_path)
    ours.fit((inputs.double(), target), batch_size=20, resume=True)
    assert set(model.sizes) == {5}


def test_pieces_of_any_batch():
    batch = {"x": torch.arange(5), "pair": (torch.arange(10).view(5, 2), "text"), "scale": torch.tensor(2.0)}
    parts = list(in_pieces(batch, 4))
    assert [p["x"].tolist() for p in parts] == [[0, 1], [2], [3], [4]]
    assert torch.equal(torch.cat([p["pair"][0] for p in parts]), batch["pair"][0])
    assert all(p["scale"] == 2 and p["pair"][1] == "text" for p in parts)
    assert [p["x"].tolist() for p in in_pieces(batch, 9)] == [[0], [1], [2], [3], [4]]


RANKS = """
import sys, json, os, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_memory import Small
from faulty import blobs, trainer, weights
from framework.distributed import leave

model = Small(4 if os.environ["RANK"] == "1" else 99).double()
ours = trainer(model, max_epochs=1, optimizer=torch.optim.SGD, auto_micro_batch=True)
inputs, target = blobs()
ours.fit((inputs.double(), target), batch_size=20)
Path(sys.argv[2], f"rank-{ours.ranks.index}.json").write_text(json.dumps([ours.memory.pieces, weights(model).tolist()]))
ours.ranks.barrier()
leave()
os._exit(0)  # gloo's threads may outlive the group
"""


def test_all_ranks_cut_when_one_lacks_memory(tmp_path):
    (tmp_path / "job.py").write_text(RANKS)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent.parent), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, tmp_path / "job.py", here, tmp_path], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0][0] == 4
    plain = Small(99).double()
    inputs, target = blobs()
    trainer(plain, max_epochs=1, optimizer=torch.optim.SGD).fit((inputs.double(), target), batch_size=20)
    torch.testing.assert_close(torch.tensor(found[0][1]), weights(plain), rtol=0, atol=1e-6)
