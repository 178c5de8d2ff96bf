"""The order of an epoch is a pure function, and balanced sampling is balanced."""

import subprocess
import sys

import pytest
import torch

from framework.batching.order import epoch_order, seed_for
from framework.errors import ConfigError


def test_seed_for_is_a_fixed_63_bit_mix():
    # printf "(1, 'order', 2)" | b2sum -l 64, shifted right by one bit
    assert seed_for(1, "order", 2) == 0x4C06625AF530672E >> 1
    seeds = {seed_for(*parts) for parts in [(), (1,), ("1",), (1, 2), (12,), (2, 1), ((1, 2),), (1.0,)]}
    assert len(seeds) == 8
    assert all(0 <= s < 2**63 for s in seeds)
    many = [seed_for(0, "x", i) for i in range(4000)]
    assert max(many) > 2**62
    assert 1800 < sum(s & 1 for s in many) < 2200


def test_seed_for_is_the_same_in_another_process():
    code = "from framework.batching.order import seed_for; print(seed_for(3, 'purpose', (1, None)))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(other.stdout) == seed_for(3, "purpose", (1, None))


def test_shuffled_is_a_permutation_that_changes_with_seed_and_epoch():
    first = epoch_order(500, seed=0, epoch=0, sampling="shuffled")
    assert first.dtype == torch.int64
    assert first.sort().values.equal(torch.arange(500))
    assert first.equal(epoch_order(500, seed=0, epoch=0, sampling="shuffled"))
    for seed, epoch in [(0, 1), (1, 0)]:
        assert not first.equal(epoch_order(500, seed=seed, epoch=epoch, sampling="shuffled"))
    assert epoch_order(5, seed=7, epoch=3, sampling="sequential").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampling", ["shuffled", "balanced", "sequential"])
def test_the_global_generator_is_left_alone(sampling):
    before = torch.get_rng_state()
    epoch_order(50, seed=0, epoch=0, sampling=sampling, labels=torch.arange(50) % 3)
    assert torch.get_rng_state().equal(before)


def test_balanced_gives_each_class_and_each_example_within_it_the_same_chance():
    mixed = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([7] * 900 + [-2] * 90 + [3] * 10)[mixed]
    drawn = torch.cat([epoch_order(1000, seed=5, epoch=e, sampling="balanced", labels=labels) for e in range(90)])
    assert len(drawn) == 90_000
    times = torch.bincount(drawn, minlength=1000).double()
    for value, size in [(7, 900), (-2, 90), (3, 10)]:
        expected = 30_000 / size
        # chi-squared of the draws within a class: mean size-1, standard deviation sqrt(2(size-1))
        of_class = times[labels == value]
        assert abs(of_class.sum() - 30_000) < 5 * (90_000 * 2 / 9) ** 0.5
        assert ((of_class - expected) ** 2 / expected).sum() < size + 5 * (2 * size) ** 0.5
        assert of_class.min() > 0


def test_balanced_without_labels_is_refused():
    with pytest.raises(ConfigError, match=r"balanced.*data\.sampling=shuffled"):
        epoch_order(10, seed=0, epoch=0, sampling="balanced")
