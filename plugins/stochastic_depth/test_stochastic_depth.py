"""Stochastic depth against its formula, with the draws made again."""

import copy

import pytest
import torch
from chainrule_stochastic_depth import StochasticDepth
from torch import Tensor, nn

from framework import ConfigError, Trainer, registry
from framework.models import Transformer, checkpoint_blocks


class Residual(nn.Module):
    """h ← h + f(h), three times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    @property
    def residual_branches(self) -> list[nn.Module]:
        return list(self.branches)

    def forward(self, stream: Tensor) -> Tensor:
        for branch in self.branches:
            stream = stream + branch(stream)
        return stream


def test_drops_by_the_linear_rule_and_scales_what_is_kept():
    """Of 3 branches at rate 0.6, the keep probabilities are 0.8, 0.6 and 0.4, drawn for each example."""
    model, inputs = Residual().double(), torch.randn(5, 4, dtype=torch.float64)
    StochasticDepth(rate=0.6).prepare(model)
    for shape in ((5, 4), (5, 2, 4)):
        stream = inputs if len(shape) == 2 else torch.stack((inputs, -inputs), 1)
        torch.manual_seed(3)
        found = model(stream)
        torch.manual_seed(3)
        for branch, keep in zip(model.branches, (0.8, 0.6, 0.4), strict=True):
            kept = torch.bernoulli(torch.full((5, *[1] * (len(shape) - 1)), keep, dtype=torch.float64))
            stream = stream + kept * (stream @ branch.weight.T + branch.bias) / keep
        torch.testing.assert_close(found, stream)


def test_the_mean_is_the_whole_branch():
    model = Residual()
    StochasticDepth(rate=0.9).prepare(model)
    last = model.branches[2]
    row = torch.randn(4)
    torch.manual_seed(0)
    outputs = last(row.expand(4000, 4))
    dropped = (outputs == 0).all(1)
    assert (dropped | (outputs != 0).all(1)).all()
    assert dropped.double().mean().item() == pytest.approx(0.9, abs=5 * (0.09 / 4000) ** 0.5)
    torch.testing.assert_close(outputs[~dropped], (10 * last.eval()(row)).expand(len(outputs[~dropped]), 4))


def test_nothing_in_evaluation_and_nothing_at_rate_0():
    model, inputs = Residual(), torch.randn(5, 4)
    expected = model(inputs)
    StochasticDepth(rate=0.9).prepare(model)
    assert torch.equal(model.eval()(inputs), expected)
    StochasticDepth(rate=0.0).prepare(model)
    assert torch.equal(model.train()(inputs), expected)


def test_prepared_again_it_drops_once_at_the_new_rate():
    model, names = Residual(), list(Residual().state_dict())
    for rate in (0.9, 0.9, 0.3):
        StochasticDepth(rate=rate).prepare(model)
        again = copy.deepcopy(model)
        StochasticDepth(rate=rate).prepare(again)
        for subject in (model, again):
            assert [len(branch._forward_hooks) for branch in subject.branches] == [1, 1, 1]
    outputs = model.branches[0](torch.ones(4000, 4))
    assert (outputs == 0).all(1).double().mean().item() == pytest.approx(0.1, abs=0.03)
    assert list(model.state_dict()) == names


def transformer(**options) -> Transformer:
    torch.manual_seed(0)
    return Transformer((6,), 7, layers=2, heads=2, width=8, **options)


def test_the_transformers_branches_are_what_is_added_to_its_stream():
    """With every branch silent, the logits are those of a transformer without blocks."""
    model, tokens = transformer(), torch.randint(7, (3, 6))
    assert len(model.residual_branches) == 4
    for branch in model.residual_branches:
        branch.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    stream = model.tokens(tokens) + model.positions(torch.arange(6))
    torch.testing.assert_close(model(tokens), model.norm(stream) @ model.tokens.weight.T)


def test_recomputed_blocks_draw_the_same_again():
    tokens = torch.randint(7, (8, 6), generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (False, True):
        model = transformer(dropout=0.1)
        StochasticDepth(rate=0.8).prepare(model)
        assert not recompute or checkpoint_blocks(model) == 2
        torch.manual_seed(1)
        model(tokens).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_compiled_models_drop_too():
    torch.manual_seed(0)
    model = Residual()
    StochasticDepth(rate=0.9).prepare(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = torch.randn(64, 4)
    torch.manual_seed(2)
    expected = model(inputs)
    torch.manual_seed(2)
    assert torch.equal(compiled(inputs), expected)
    assert not torch.equal(compiled(inputs), expected)
    compiled.eval()
    assert torch.equal(compiled(inputs), model(inputs))


def test_bad_options_and_models_are_refused():
    with pytest.raises(ConfigError, match="regularizer 'stochastic_depth': rate must be >= 0 and < 1, got 1"):
        StochasticDepth(rate=1.0)
    with pytest.raises(ConfigError, match=r"Linear has no residual_branches: choose a model .* property"):
        StochasticDepth().prepare(nn.Linear(2, 2))


def test_trains_a_transformer(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    text = registry.build("data", "text", {"path": str(path), "block": 6}, runtime={"seed": 0})
    torch.manual_seed(0)
    model = Transformer(text.input_shape, text.outputs, layers=2, heads=2, width=16)
    trainer = Trainer(
        model,
        loss=registry.build("loss", "cross_entropy", {}),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        regularizers=[StochasticDepth(rate=0.3)],
        max_epochs=1,
        device="cpu",
    )
    untrained = trainer.evaluate(text.test)["loss"]
    assert trainer.fit(text.train, batch_size=8).status == "finished"
    assert trainer.evaluate(text.test)["loss"] < 0.8 * untrained
