"""Checkpoints: what a run is at a step, in safetensors and JSON, and the folder that keeps them."""

from framework.checkpoint.files import write_json, write_text
from framework.checkpoint.fitting import check_fits
from framework.checkpoint.folder import CorruptError, read
from framework.checkpoint.nested import flatten, unflatten
from framework.checkpoint.optimizer import load_optimizer, optimizer_parts
from framework.checkpoint.options import CheckpointOptions
from framework.checkpoint.snapshot import MODEL, OPTIMIZER, RUN, STATE, Snapshot, on_cpu
from framework.checkpoint.store import Checkpoints, clear
from framework.checkpoint.weights import copy_into, load_model, model_tensors

__all__ = [
    "MODEL",
    "OPTIMIZER",
    "RUN",
    "STATE",
    "CheckpointOptions",
    "Checkpoints",
    "CorruptError",
    "Snapshot",
    "check_fits",
    "clear",
    "copy_into",
    "flatten",
    "load_model",
    "load_optimizer",
    "model_tensors",
    "on_cpu",
    "optimizer_parts",
    "read",
    "unflatten",
    "write_json",
    "write_text",
]
