"""Several processes behind one small object: whatever needs the other ranks goes through `Ranks`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.signals import CAUGHT

MEETING = "FRAMEWORK_MEETING"
"""The environment variable with the file by which the ranks of one machine find each other."""


NOTHING: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


class RankError(RuntimeError):
    """A process of several failed."""


class SignalledError(RuntimeError):
    """A signal ended the processes of a launch, each of which has saved what it had to."""


class Ranks:
    """One process: there is nobody to agree with."""

    index = 0
    count = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks."""
        return values

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Make each of these tensors its mean over all ranks, in place."""

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set on any rank: the same answer on every rank."""
        return list(flags)

    def gather(self, content: Tensor) -> list[Tensor]:
        """Return every rank's bytes, a 1-D uint8 tensor of any length each, in the ranks' order."""
        return [content]

    def barrier(self) -> None:
        """Wait for every rank."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages gradients over the ranks."""
        return model

    def reducing(self, model: nn.Module, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Average gradients in the backward passes inside, or put it off until a later one."""
        return NOTHING

    def align_buffers(self, model: nn.Module) -> None:
        """Give every rank the main rank's buffers, such as batch norm's running statistics."""


class ProcessGroup(Ranks):
    """The ranks of torch.distributed, with DDP for the gradients."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            if MEETING in os.environ:
                rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
                dist.init_process_group(backend, f"file://{os.environ[MEETING]}", rank=rank, world_size=count)
            else:
                dist.init_process_group(backend)
        self.index, self.count = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Make each of these tensors its mean over all ranks, in place."""
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(self.count)

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set on any rank: the same answer on every rank."""
        return [count > 0 for count in self.sum(torch.tensor(flags, dtype=torch.float32, device=self.device)).tolist()]

    def gather(self, content: Tensor) -> list[Tensor]:
        """Return every rank's bytes, a 1-D uint8 tensor of any length each, in the ranks' order."""
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(content)], device=self.device))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: len(content)] = content
        parts = [torch.zeros_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages gradients over the ranks."""
        if not any(p.requires_grad for p in model.parameters()):
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def reducing(self, model: nn.Module, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Average gradients in the backward passes inside, or put it off until a later one."""
        if now or not isinstance(model, nn.parallel.DistributedDataParallel):
            return NOTHING
        return model.no_sync()

    def align_buffers(self, model: nn.Module) -> None:
        """Give every rank the main rank's buffers, such as batch norm's running statistics."""
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def join(device: torch.device) -> Ranks:
    """Return the ranks that the environment speaks of (torchrun's RANK and WORLD_SIZE), or one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or dist.is_initialized():
        return ProcessGroup(device)
    return Ranks()


def leave() -> None:
    """Leave the group of ranks, where this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device of this process: `auto` is the best there is; cuda is the local rank's own.

    Raises ConfigError for a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if name == "mps" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device must be auto, cpu, cuda, cuda:N or mps, got {name!r}.") from None
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
            raise ConfigError(f"trainer.device={name}: this machine has {torch.cuda.device_count()} CUDA devices.")
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps: this machine has no Metal device; use trainer.device=cpu.")
    return device


def launch(work: Callable[..., Any], devices: int, *arguments: Any) -> Any:
    """Run `work(*arguments)` in `devices` processes of this machine and return the main rank's value.

    The processes are torch's elastic agent's, started afresh (spawn), so `work` must be importable and the
    arguments plain. They meet by a file that only this user can open, and talk over the loopback interface.
    Raises ConfigError or RankError, with the message of the rank that failed first, when one fails, and SignalledError
    after a signal, which reaches every process.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    most = max(8, os.cpu_count() or 1, torch.cuda.device_count())
    if devices > most:
        raise ConfigError(f"trainer.devices={devices}: this machine runs at most {most} processes.")
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what it would print is raised below

    try:
        with meeting() as agents:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=devices,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint=agents,
                rdzv_configs={"store_type": "file"},
                local_addr="127.0.0.1",
                max_restarts=0,
                start_method="spawn",
                signals_to_handle=",".join(number.name for number in CAUGHT),
            )
            return elastic_launch(config, work)(*arguments)[0]
    except SignalException as signalled:
        raise SignalledError(str(signalled)) from None
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        found: Any = failure.message  # a mapping where the rank could write what it raised
        reason = str(found["message"] if isinstance(found, dict) else found).strip().splitlines()[-1]
        kind, _, message = reason.partition(": ")
        if kind.rpartition(".")[2] == ConfigError.__name__:
            raise ConfigError(message) from None
        raise RankError(f"rank {rank}: {reason}") from failed


@contextlib.contextmanager
def meeting() -> Iterator[str]:
    """Set, for the processes started inside, how they meet; return the file of the agent's own.

    torch's TCPStore listens on every interface, whatever address it is asked for, and knows no authentication; a file
    in a folder of this user's alone does without it. An interface that is set already is left as it is.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    interfaces = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    with tempfile.TemporaryDirectory(prefix="framework-") as folder:
        chosen = {MEETING: f"{folder}/ranks", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        if loopback in interfaces:
            names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
            chosen |= {name: loopback for name in names if name not in os.environ}
        before = {name: os.environ.get(name) for name in chosen}
        os.environ.update(chosen)
        try:
            yield f"{folder}/agent"
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def divide_threads() -> None:
    """Leave the other ranks of this machine their share of the cores this process may use; OMP_NUM_THREADS goes first.

    Where threads outnumber cores, each operation waits for those that have none: seen six to twelve times as slow.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // ranks))
