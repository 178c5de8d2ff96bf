"""Between two log points nothing waits for a value, and nothing is called that nobody implements."""

import threading

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from framework import Callback, Regularizer, Trainer, distributed
from framework.faults import Guard
from framework.metrics import accuracy
from framework.optimizers import AdamW
from framework.record import Record
from framework.regularizers import L2
from framework.tensorboard import TensorBoard


class Reads(TorchDispatchMode):
    """Counts what reads a tensor's value by `.item()`, `bool`, `float` or `int`, by where it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ["loop"]
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count()
        return func(*args, **(kwargs or {}))

    def count(self) -> None:
        self.counts[self.place[-1]] = self.counts.get(self.place[-1], 0) + 1

    def within(self, monkeypatch, owner, name: str) -> None:
        """Count what is read inside a method under its name."""
        inner = getattr(owner, name)

        def call(*args, **kwargs):
            self.place.append(name)
            try:
                return inner(*args, **kwargs)
            finally:
                self.place.pop()

        monkeypatch.setattr(owner, name, call)


def fitted(data, device="cpu", **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    options = {
        "optimizer": AdamW(model.parameters(), lr=1e-2),
        "metrics": {"accuracy": accuracy("classification", 3)},
        "max_steps": 20,
        "log_every": 10,
        **settings,
    }
    trainer = Trainer(model, loss=nn.CrossEntropyLoss(), device=device, **options)
    return trainer, trainer.fit(data, batch_size=8)


def blobs():
    inputs = torch.randn(160, 5, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


class Logging(Callback):
    def on_step_end(self, trainer):
        trainer.log("norm", trainer.model[0].weight.detach().norm())


@pytest.mark.parametrize(
    ("settings", "loader"),
    [
        ({"backprop": "manual"}, False),
        ({"backprop": "autograd"}, True),
        ({"clip_norm": 1.0, "accumulate": 2, "callbacks": [Logging()]}, False),
        ({"regularizers": [L2(strength=1e-3)], "clip_value": 0.1}, False),
    ],
)
def test_no_value_is_read_between_log_points(monkeypatch, settings, loader):
    reads = Reads()
    for owner, name in ((Guard, "judge"), (Record, "end_interval"), (Trainer, "_prepare"), (Trainer, "_evaluate")):
        reads.within(monkeypatch, owner, name)
    for name in ("tolist", "numpy"):
        inner = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, *a, inner=inner, **k: (reads.count(), inner(t, *a, **k))[1])
    data = blobs()
    inside: list[dict[str, int]] = []

    class Window(Callback):
        """Takes the counts from the first step to the last of the first interval."""

        def on_step_end(self, trainer):
            if trainer.progress.step in (1, 9):
                inside.append(dict(reads.counts))

    given = {**settings, "callbacks": [*settings.get("callbacks", ()), Window()]}
    with reads:
        trainer, _ = fitted(DataLoader(TensorDataset(*data), batch_size=8, shuffle=True) if loader else data, **given)
    assert trainer.progress.step == 20
    begun, ended = inside
    read = {place: count - begun.get(place, 0) for place, count in ended.items() if count != begun.get(place, 0)}
    # on the host the guard looks at each step's loss before its update, which waits for nothing there
    assert read == {"judge": 8}
    assert reads.counts["end_interval"] >= 2  # what is counted is really seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_no_step_synchronises_a_cuda_device(monkeypatch, policy):
    inner = Trainer.step

    def step(self, window):
        if self.progress.step < 2:  # the first ones load kernels
            return inner(self, window)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return inner(self, window)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "step", step)
    trainer, result = fitted(blobs(), device="cuda", on_nonfinite=policy, clip_norm=1.0)
    assert (trainer.progress.step, result.status) == (20, "finished")


def test_hooks_that_nobody_implements_are_not_called(monkeypatch):
    def called(*args, **kwargs):
        raise AssertionError

    for kind in (Callback, Regularizer):
        for name, hook in list(vars(kind).items()):
            if callable(hook) and not name.startswith("_") and name != "prepare":  # which is once a run
                monkeypatch.setattr(kind, name, called)
    trainer, result = fitted(
        blobs(), callbacks=[Logging(), Callback()], regularizers=[L2(strength=1e-3), Regularizer()]
    )
    assert (trainer.progress.step, result.status) == (20, "finished")


def test_events_are_written_by_another_thread_and_flushed_with_checkpoints_only(monkeypatch, tmp_path):
    writers: set[int] = set()
    flushed: list[int] = []
    saved: list[int] = []
    write, flush = RecordWriter.write, TensorBoard.flush

    class Saved(Callback):
        def on_saved(self, trainer):
            saved.append(trainer.progress.step)

        def on_fit_start(self, trainer):
            self.trainer = trainer

    heard = Saved()

    def noted(self, content):
        writers.add(threading.get_ident())
        write(self, content)

    def noted_flush(self):
        flushed.append(heard.trainer.progress.step)
        flush(self)

    monkeypatch.setattr(RecordWriter, "write", noted)
    monkeypatch.setattr(TensorBoard, "flush", noted_flush)
    fitted(blobs(), directory=tmp_path, callbacks=[heard], log_every=2, max_steps=50)
    assert flushed == saved == [20, 40, 50]
    assert writers
    assert threading.get_ident() not in writers


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, [4]),
        ({"LOCAL_WORLD_SIZE": "3"}, [2]),
        ({"LOCAL_WORLD_SIZE": "20"}, [1]),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "7"}, []),
        ({}, []),
    ],
)
def test_ranks_divide_the_cores_that_they_may_use(monkeypatch, variables, threads):
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    distributed.divide_threads()
    assert chosen == threads
