"""The layer that multiplies by the faster kernel, in the place of torch's."""

import copy

import pytest
import torch
from torch import nn

from framework import Callback, Trainer
from framework.functions import products
from framework.models import MLP, ConvNet, Transformer
from framework.models.layers import Linear, faster_linears

MODELS = {
    "mlp": lambda: MLP((12,), 3, widths=(16,), dropout=0.2),
    "convnet": lambda: ConvNet((8, 8), 3, channels=(4,), hidden=16),
    "transformer": lambda: Transformer((8,), 20, layers=2, heads=2, width=16),
}
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """Have every product that can be by oneDNN be so."""
    products.chosen_kernel.cache_clear()
    monkeypatch.setenv("FRAMEWORK_LINEAR", "onednn")
    yield
    products.chosen_kernel.cache_clear()


def batch(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if name == "transformer":
        return torch.randint(20, (4, 8), generator=generator)
    return torch.randn(4, *((12,) if name == "mlp" else (8, 8)), generator=generator)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return a model, and the same with torch's layers."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    plain = copy.deepcopy(model)
    count = 0
    for layer in plain.modules():
        if type(layer) is Linear:
            layer.__class__ = nn.Linear
            count += 1
    assert count
    return model, plain


@each_model
def test_same_outputs_gradients_and_names(name: str):
    model, plain = pair(name)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert str(model) == str(plain)
    for network in (model, plain):
        network(batch(name)).pow(2).mean().backward()
    torch.testing.assert_close(model(batch(name)), plain(batch(name)), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@each_model
def test_compiles_as_one_graph_and_exports(name: str):
    model, plain = pair(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(batch(name)).pow(2).mean().backward()
    torch.testing.assert_close(compiled(batch(name)), plain(batch(name)), rtol=1e-5, atol=1e-6)
    torch.compiler.reset()
    exported = torch.export.export(model, (batch(name),), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    assert "mkldnn" not in str(exported.graph)
    larger = torch.cat([batch(name)] * 2)
    torch.testing.assert_close(exported.module()(larger), plain(larger), rtol=1e-5, atol=1e-6)


@each_model
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # attention has no rule for batches
def test_functional_call_under_vmap(name: str):
    model, plain = pair(name)
    several = {key: torch.stack([p.detach(), 2 * p.detach()]) for key, p in model.named_parameters()}
    inputs = batch(name)
    outputs = torch.func.vmap(lambda p: torch.func.functional_call(model, p, inputs))(several)
    expected = torch.func.functional_call(plain, {key: p[1] for key, p in several.items()}, inputs)
    torch.testing.assert_close(outputs[1], expected, rtol=1e-4, atol=1e-5)


def test_hooks_parametrizations_and_symbolic_traces():
    layer, seen = Linear(4, 3), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    layer(torch.randn(2, 4))
    assert seen == [(2, 3)]
    normed = nn.utils.parametrizations.weight_norm(Linear(4, 3))
    normed(torch.randn(2, 4)).sum().backward()
    assert normed.parametrizations.weight.original1.grad is not None
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    inputs = torch.randn(2, 4)
    torch.testing.assert_close(traced(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripts():
    layer, inputs = Linear(4, 3), torch.randn(2, 4)
    torch.testing.assert_close(torch.jit.script(layer)(inputs), layer(inputs))


def test_a_trained_model_has_its_own_layers_back():
    class Own(nn.Linear):
        pass

    inside = []

    class Look(Callback):
        def on_step_end(self, trainer):
            inside.extend(type(layer) for layer in trainer.model)

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Own(8, 2))
    layers, parameters = list(model), list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (torch.randn(8, 4), torch.randint(2, (8,)))
    settings = {"max_steps": 1, "device": "cpu", "callbacks": [Look()]}
    Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **settings).fit(data)
    assert inside == [Linear, nn.Tanh, Own]
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, Own]
    assert all(a is b for a, b in zip([*model, *model.parameters()], [*layers, *parameters], strict=True))


def test_after_an_error_too_and_only_where_wanted():
    model = nn.Sequential(nn.Linear(4, 8))
    with pytest.raises(RuntimeError, match="cannot be multiplied"), faster_linears(model, wanted=True):
        model(torch.randn(2, 5))
    assert type(model[0]) is nn.Linear
    with faster_linears(model, wanted=False):
        assert type(model[0]) is nn.Linear
