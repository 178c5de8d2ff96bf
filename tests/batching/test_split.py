"""Splits are disjoint, complete, stratified and a function of the seed."""

import pytest
import torch

from framework.batching.sets import TensorSet
from framework.batching.split import split, split_indices
from framework.errors import ConfigError


@pytest.mark.parametrize("size", [2, 3, 17, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("classes", [None, 1, 2, 7, 1000])
def test_disjoint_complete_and_stratified(size, fraction, classes):
    held = round(size * fraction)
    labels = None if classes is None else (torch.arange(size) ** 2 % classes)
    if held in (0, size):
        with pytest.raises(ConfigError, match="both sides need at least one"):
            split_indices(size, fraction, 0, labels)
        return
    rest, held_out = split_indices(size, fraction, 0, labels)
    assert len(held_out) == held
    assert torch.cat([rest, held_out]).sort().values.equal(torch.arange(size))
    assert rest.equal(rest.sort().values)
    if labels is not None:
        for value in labels.unique():
            share = (labels == value).sum().item() * held / size
            assert abs((labels[held_out] == value).sum().item() - share) < 1


def test_the_seed_decides():
    labels = torch.arange(100) % 10
    first = split_indices(100, 0.2, 3, labels)[1]
    assert first.equal(split_indices(100, 0.2, 3, labels)[1])
    assert not first.equal(split_indices(100, 0.2, 4, labels)[1])


@pytest.mark.parametrize("labels", [None, torch.arange(20) // 5])
def test_every_example_is_held_out_equally_often(labels):
    times = torch.zeros(20)
    for seed in range(1000):
        times[split_indices(20, 0.2, seed, labels)[1]] += 1
    # 200 times each in the mean, standard deviation sqrt(1000 * 0.2 * 0.8) = 12.6
    assert (times - 200).abs().max() < 60


def test_rare_classes_are_not_always_on_one_side():
    labels = torch.arange(100) // 2  # 50 classes of two, of which a tenth is held out
    seen = torch.cat([labels[split_indices(100, 0.1, seed, labels)[1]] for seed in range(100)])
    assert len(seen.unique()) == 50


def test_a_set_is_split_with_its_labels_and_nothing_global_is_drawn():
    examples = TensorSet((torch.arange(30.0), torch.arange(30) % 3))
    before = torch.get_rng_state()
    rest, held_out = split(examples, 0.2, seed=1)
    assert torch.get_rng_state().equal(before)
    inputs, targets = held_out.gather(torch.arange(len(held_out)))
    assert torch.bincount(targets).tolist() == [2, 2, 2]
    assert targets.equal(inputs.long() % 3)
    assert len(rest) == 24


@pytest.mark.parametrize(("size", "fraction"), [(10, 0.0), (10, 1.0), (10, -0.5), (4, 0.1), (1, 0.5), (0, 0.5)])
def test_an_empty_side_is_refused(size, fraction):
    with pytest.raises(ConfigError, match=f"holding out {fraction:g} of {size} examples"):
        split_indices(size, fraction, 0)
