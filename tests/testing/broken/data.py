"""Data sets that break a rule each."""

import torch

from framework.batching import TensorSet
from framework.datasets import Data
from framework.registry import data


def pairs(seed=0, transform=None):
    generator = torch.Generator().manual_seed(seed)
    return TensorSet((torch.randn(60, 5, generator=generator), torch.arange(60) % 3), transform)


def described(train, test=None, *, shape=(5,), outputs=3, classes=()):
    return Data("classification", shape, outputs, train, test=test, classes=classes)


@data("another_shape")
def another_shape():
    return described(pairs(), shape=(1, 5))


@data("too_few_outputs")
def too_few_outputs():
    return described(pairs(), outputs=2)


@data("too_few_classes")
def too_few_classes():
    return described(pairs(), classes=("a", "b"))


another_shape.breaks = too_few_outputs.breaks = too_few_classes.breaks = ("data_is_as_it_says",)


def noisy(batch):
    return batch[0] + torch.randn_like(batch[0]), batch[1]


@data("augments_itself")
def augments_itself():
    return described(pairs(transform=noisy))


@data("ignores_the_seed")
def ignores_the_seed(seed: int):
    return described(pairs(int(torch.randint(1000, ()))))


augments_itself.breaks = ignores_the_seed.breaks = ("data_is_the_same_again",)


class First(TensorSet):
    def subset(self, index):
        return First(tuple(t[: len(index)] for t in self.tensors))


@data("subset_of_the_first")
def subset_of_the_first():
    inputs, target = pairs().tensors
    return described(First((inputs, target)))


subset_of_the_first.breaks = ("data_parts_are_sets",)


@data("tests_on_training")
def tests_on_training(seed: int):
    everything = pairs()
    return described(everything, everything.subset(torch.arange(20)))


tests_on_training.breaks = ("data_parts_are_apart",)
