"""Gradient checkpointing: the same gradients, statistics and names, with less kept."""

import copy

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from framework.models import MLP, ConvNet, Linear, Transformer, checkpoint_blocks


class Net(nn.Module):
    """A user's model: no `blocks`, no `layers`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 3)
        self.stages = nn.ModuleList(Residual() for _ in range(3))
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 2))

    def forward(self, inputs):
        hidden = self.stem(inputs)
        for stage in self.stages:
            hidden = stage(hidden, scale=0.5)
        return self.head(hidden)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.InstanceNorm1d(16, track_running_stats=True)

    def forward(self, inputs, *, scale):
        return inputs + scale * torch.dropout(self.norm(self.conv(inputs)).tanh(), 0.3, self.training)


MODELS = {
    "mlp": (lambda: MLP((30,), 4, widths=(64, 64), activation="gelu", dropout=0.5), (50, 30), 2),
    "mlp_batch": (lambda: MLP((30,), 4, widths=(64, 64), norm="batch", dropout=0.5), (50, 30), 2),
    "mlp_layer": (lambda: MLP((30,), 4, widths=(64, 64), norm="layer", dropout=0.5), (50, 30), 2),
    "convnet": (lambda: ConvNet((8, 8), 4, channels=(8, 8), norm="batch", dropout=0.5), (20, 8, 8), 3),
    "transformer": (lambda: Transformer((16,), 9, layers=3, heads=2, width=32, dropout=0.2), (8, 16), 3),
    "sequential": (lambda: MLP((30,), 4, widths=(64, 64), norm="batch", dropout=0.5).layers, (50, 30), 2),
    "users": (Net, (10, 3, 20), 3),
}


def make(name):
    factory, shape, count = MODELS[name]
    torch.manual_seed(0)
    inputs = torch.randint(9, shape) if name == "transformer" else torch.randn(shape)
    return factory(), inputs, count


def gradients(model, inputs):
    torch.manual_seed(5)
    for _ in range(2):
        loss = model(inputs).square().mean()
        loss.backward()
    return [loss.detach(), torch.rand(3), *(p.grad for p in model.parameters()), *model.buffers()]


class Made(TorchDispatchMode):
    """Remembers, without keeping them alive, the storages that operations return."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def alive(self):
        return sum(size for reference, size in self.storages.values() if not reference.expired())


def kept_bytes(model, inputs):
    with Made() as made:
        outputs = model(inputs)
    kept = made.alive()
    assert outputs.requires_grad
    return kept


@pytest.mark.parametrize("name", MODELS)
def test_same_to_the_bit_with_less_kept(name):
    model, inputs, count = make(name)
    plain = copy.deepcopy(model)
    assert checkpoint_blocks(model) == count
    assert list(model.state_dict()) == list(plain.state_dict())
    # Losses, the generator afterwards, gradients over two accumulated passes, running statistics.
    for ours, theirs in zip(gradients(model, inputs), gradients(plain, inputs), strict=True):
        assert torch.equal(ours, theirs)
    assert kept_bytes(model, inputs) < 0.8 * kept_bytes(plain, inputs)


def test_running_statistics_move_once_a_pass():
    model, inputs, _ = make("mlp_batch")
    checkpoint_blocks(model)
    norm = model.layers[2]
    model(inputs).sum().backward()
    assert norm.num_batches_tracked == 1
    assert norm.track_running_stats is True
    z = model.layers[1](inputs)
    torch.testing.assert_close(norm.running_mean, 0.1 * z.mean(0))
    model.eval()
    before = [b.clone() for b in model.buffers()]
    model(inputs).sum().backward()
    assert all(torch.equal(b, c) for b, c in zip(before, model.buffers(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_unchanged(name):
    model, inputs, _ = make(name)
    plain = copy.deepcopy(model)
    checkpoint_blocks(model)
    model.eval()
    plain.eval()
    for ours, theirs in zip(gradients(model, inputs), gradients(plain, inputs), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert torch.equal(model(inputs), plain(inputs))


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_has_its_own_weights(name):
    model, inputs, _ = make(name)
    checkpoint_blocks(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    copied(inputs).square().mean().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in copied.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_twice_is_once(name):
    model, inputs, count = make(name)
    assert checkpoint_blocks(model) == checkpoint_blocks(model) == count
    calls = 0

    def counted(*_):
        nonlocal calls
        calls += 1

    layer = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))
    if name == "users":
        layer = model.stages[0].conv
    if name == "transformer":
        layer = model.blocks[0].attention.project
    layer.register_forward_pre_hook(counted)
    model(inputs).sum().backward()
    assert calls == 2  # forward, and once more in backward


def test_a_layer_exchanged_afterwards_is_used():
    model, inputs, _ = make("mlp")
    checkpoint_blocks(model)
    model.layers[1] = nn.Linear(30, 64)
    model(inputs).sum().backward()
    assert model.layers[1].weight.grad is not None


def test_nothing_to_gain_is_zero():
    assert checkpoint_blocks(Linear((4,), 2)) == 0
    assert checkpoint_blocks(nn.Linear(4, 2)) == 0


def test_under_autocast():
    model, inputs, _ = make("transformer")
    plain = copy.deepcopy(model)
    checkpoint_blocks(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gradients(model, inputs), gradients(plain, inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
