"""The causal transformer, against torch's own layers, GPT-2's published size, and itself."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from framework import models, registry
from framework.errors import ConfigError
from framework.models.transformer import SHORT, Attention, Block, attend


def build(block=8, vocabulary=11, **options):
    options = {"layers": 2, "heads": 2, "width": 16} | options
    runtime = {"input_shape": (block,), "outputs": vocabulary}
    return registry.build("model", "transformer", options, runtime=runtime)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("layers", "heads", "width"), [(1, 1, 4), (3, 4, 8)])
def test_shapes(layers, heads, width, dropout, bias):
    model = build(layers=layers, heads=heads, width=width, dropout=dropout, bias=bias)
    tokens = torch.randint(11, (5, 8))
    assert model(tokens).shape == (5, 8, 11)
    assert model(tokens[:, :3]).shape == (5, 3, 11)
    assert any("bias" in name for name in model.state_dict()) is bias
    assert model.activation == "gelu"


def test_gpt2s_number_of_parameters():
    with torch.device("meta"):
        model = models.Transformer((1024,), 50257, layers=12, heads=12, width=768)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert len({p.data_ptr() for p in build().state_dict().values()}) == len(build().state_dict())


def test_later_tokens_do_not_change_earlier_logits():
    torch.manual_seed(0)
    model = build().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randint(11, (1, 8))
    logits = model(tokens)
    for position in range(8):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % 11
        after = model(changed)
        assert torch.equal(after[:, :position], logits[:, :position])
        assert not torch.isclose(after[:, position:], logits[:, position:]).all(-1).any()


def test_attention_is_a_masked_softmax():
    torch.manual_seed(0)
    attention = Attention(width=12, heads=3, dropout=0.0, bias=True).double()
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = (inputs @ attention.query_key_value.weight.T + attention.query_key_value.bias).split(12, 2)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(4)
        scores[:, ~torch.ones(5, 5).tril().bool()] = -math.inf
        heads.append(scores.softmax(-1) @ value[..., part])
    expected = torch.cat(heads, -1) @ attention.project.weight.T + attention.project.bias
    torch.testing.assert_close(attention(inputs), expected)


def test_block_is_torchs_encoder_layer():
    torch.manual_seed(0)
    ours = Block(width=12, heads=3, dropout=0.0, bias=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 48, 0.0, lambda x: F.gelu(x, approximate="tanh"), batch_first=True, norm_first=True
    )
    names = {
        "attention.query_key_value.": "self_attn.in_proj_",
        "attention.project.": "self_attn.out_proj.",
        "attention_norm.": "norm1.",
        "feedforward_norm.": "norm2.",
        "feedforward.0.": "linear1.",
        "feedforward.2.": "linear2.",
    }
    state = {}
    for name, value in ours.state_dict().items():
        prefix = next(p for p in names if name.startswith(p))
        state[names[prefix] + name.removeprefix(prefix)] = value
    theirs.load_state_dict(state)
    inputs = torch.randn(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(ours(inputs), theirs(inputs, mask, is_causal=True), atol=1e-5, rtol=1e-5)


def test_logits_are_the_stream_times_the_embedding():
    torch.manual_seed(0)
    model = build(layers=1)
    tokens = torch.randint(11, (2, 8))
    stream = model.tokens.weight[tokens] + model.positions.weight[torch.arange(8)]
    stream = F.layer_norm(model.blocks[0](stream), (16,))
    torch.testing.assert_close(model(tokens), stream @ model.tokens.weight.T)


def test_initial_weights():
    torch.manual_seed(0)
    model = build(layers=8, width=128, vocabulary=300, block=64)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            residual = name.endswith(("attention.project.weight", "feedforward.2.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / (4 if residual else 1), rel=0.03), name
        else:
            assert (parameter == (1 if "norm.weight" in name else 0)).all(), name
    torch.manual_seed(0)
    again = build(layers=8, width=128, vocabulary=300, block=64)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    # An untrained model knows nothing: its loss is that of the uniform distribution.
    tokens = torch.randint(300, (4, 64))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), torch.randint(300, (256,)))
    assert loss.item() == pytest.approx(math.log(300), abs=0.1)


def test_attention_dropout_follows_its_layer_and_stops_in_evaluation():
    torch.manual_seed(0)
    model = build(dropout=0.5)
    tokens = torch.randint(11, (2, 8))
    assert torch.equal(model.eval()(tokens), model(tokens))
    attention = Attention(width=8, heads=2, dropout=0.0, bias=True)
    inputs = torch.randn(1, 6, 8)
    assert torch.equal(attention(inputs), attention(inputs))
    for layer in attention.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
    assert not torch.equal(attention(inputs), attention(inputs))


def test_generates_with_a_seed_beyond_its_block():
    model = build().train()
    start = torch.zeros(2, 1, dtype=torch.long)

    def draw(seed):
        return model.generate(start, 12, generator=torch.Generator().manual_seed(seed))

    assert draw(0).shape == (2, 13)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert model.training
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        model.generate(start, 1, temperature=0)


def test_bad_input():
    with pytest.raises(ValueError, match="at most 8 tokens, the model's block, got 9"):
        build()(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"heads must divide width, got heads=3, width=16; .* fits is 18"):
        build(heads=3)
    with pytest.raises(ConfigError, match=r"needs sequences of tokens, .* got \(8, 8\); use data=text"):
        models.Transformer((8, 8), 10)
    with pytest.raises(ConfigError, match=r"model\.layers must be >= 1, got 0"):
        build(layers=0)


def test_overfits_a_sequence_and_says_it():
    torch.manual_seed(0)
    model = build(width=32)
    text = torch.tensor([[1, 2, 3, 1, 2, 4, 1, 2, 5]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    assert torch.equal(model.generate(text[:, :1], 8, temperature=0.1), text)


@pytest.mark.parametrize("length", [5, SHORT + 1])
def test_attention_in_bfloat16_is_the_formula(length):
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 3, length, 8, generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    delta = torch.randn(2, 3, length, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(*given, 0.0)
    found = torch.autograd.grad(ours, given, delta.bfloat16())
    query, key, value = wide = [part.detach().double().requires_grad_() for part in given]
    scores = query @ key.transpose(2, 3) / 8**0.5
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    theirs = scores.masked_fill(later, -torch.inf).softmax(3) @ value
    expected = torch.autograd.grad(theirs, wide, delta.bfloat16().double())
    assert ours.dtype is torch.bfloat16
    for own, other in zip((ours, *found), (theirs, *expected), strict=True):
        assert (own.double() - other).norm() / other.norm() < 0.01
