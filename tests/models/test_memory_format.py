"""Convolutions whose memory has the channels last."""

import pytest
import torch
from torch import nn

from framework import Trainer
from framework.losses import CrossEntropy
from framework.models import MLP, ConvNet
from framework.models.memory_format import channels_last
from framework.optimizers import AdamW


def images(channels):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, channels, 8, 8, generator=generator), torch.randint(0, 3, (20,), generator=generator)


def train(channels=2, **settings):
    torch.manual_seed(0)
    model = ConvNet((channels, 8, 8), 3, channels=(4, 4), hidden=0)
    ours = Trainer(model, loss=CrossEntropy(), optimizer=AdamW(model.parameters()), max_steps=4, **settings)
    ours.fit(images(channels), batch_size=8)
    return ours


@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_and_outputs_have_their_channels_last(channels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3))
    inputs = torch.randn(2, channels, 8, 8)
    before = model(inputs)
    assert channels_last(model)
    after = model(inputs)
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(before, after, atol=1e-6)


def test_a_model_without_convolutions_has_none():
    assert not channels_last(MLP((4,), 2, widths=(3,)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("backprop", ["manual", "autograd"])
def test_trains_alike(channels, backprop):
    ours, contiguous = (train(channels, channels_last=how, backprop=backprop) for how in ("auto", "off"))
    assert ours.model.layers[0].weight.stride() == (9 * channels, 1, 3 * channels, channels)
    assert contiguous.model.layers[0].weight.is_contiguous()
    for own, other in zip(ours.model.parameters(), contiguous.model.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-5)
    assert "channels_last" in ours.announcements[-1]
    assert not any("channels_last" in line for line in contiguous.announcements)


def test_the_vector_of_the_optimizer_keeps_the_order():
    ours = train()
    weight = ours.model.layers[3].weight
    vector = ours.optimizer.vectors[0]
    assert weight.data_ptr() in vector.places
    assert weight.stride() == (36, 1, 12, 4)
    assert ours.optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_a_checkpoint_goes_into_either_order(tmp_path):
    ours = train(directory=tmp_path, channels_last="auto")
    other = train(directory=tmp_path / "other", channels_last="off")
    again = Trainer(
        ours.model, loss=CrossEntropy(), optimizer=AdamW(ours.model.parameters()), max_steps=6, directory=tmp_path
    )
    result = again.fit(images(2), batch_size=8, resume=True)
    assert result.steps == 6
    assert other.progress.step == 4
