"""What a model has to do."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.datasets import Data
from framework.optimizers import Adam
from framework.parameters import canonical_name, named_parameters
from framework.testing import parts, problems, trials
from framework.testing.conformance import CheckError, Subject, check

LEARNING_EPOCHS = 20
ENOUGH = 0.9
"""Of the first loss, what is left of it after LEARNING_EPOCHS."""


def _made(subject: Subject, seed: int = 0) -> tuple[Data, nn.Module]:
    torch.manual_seed(seed)
    data, _ = parts.data_for(subject)
    torch.manual_seed(seed)
    model: nn.Module = subject.build(*parts.runtime(subject, data))
    return data, model


def _batch(data: Data, size: int) -> tuple[Tensor, Tensor]:
    inputs, target = data.train.gather(torch.arange(size))
    return inputs, target


@check(
    "model",
    rule="from input_shape and outputs it makes (N, outputs) of (N, *input_shape), of tokens (N, T) -> (N, T, outputs)",
    mend="end in a layer of `outputs` features, and flatten or pool what comes before it",
)
def model_outputs_have_their_shape(subject: Subject) -> None:
    """Feed it batches of one and of five."""
    data, model = _made(subject)
    model.eval()
    for size in (1, 5):
        inputs, _ = _batch(data, size)
        with torch.no_grad():
            shape = tuple(model(inputs).shape)
        due = (*inputs.shape[: 2 if data.task == "language" else 1], data.outputs)
        if shape != due:
            raise CheckError(f"inputs {tuple(inputs.shape)} give {shape}, not {due}")


@check(
    "model",
    rule="every trainable parameter gets a gradient",
    mend="use it in forward, leave it out, or set requires_grad = False; .detach() and no_grad cut gradients off",
)
def model_parameters_get_gradients(subject: Subject) -> None:
    """Take a few steps, since a layer may start at zero."""
    data, model = _made(subject)
    loss, moved = problems.loss_for(data), set[str]()
    named = named_parameters(model)
    if not named:
        raise CheckError("it has no trainable parameter")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        inputs, target = _batch(data, parts.BATCH)
        optimizer.zero_grad()
        loss(model(inputs), target).backward()
        moved |= {name for name, p in named.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    for name in named:
        if name not in moved:
            raise CheckError(f"parameter {name} gets no gradient")


@check(
    "model",
    rule="in evaluation mode the output of an example is always the same, whatever else is in its batch",
    mend="let dropout and batch statistics be layers, or look at self.training, and mix no examples of a batch",
)
def model_evaluates_each_example_alone(subject: Subject) -> None:
    """Compare a batch with itself, and with its examples one by one."""
    data, model = _made(subject)
    inputs, _ = _batch(data, 6)
    model.eval()
    with torch.no_grad():
        whole = model(inputs)
        if not trials.same(whole, model(inputs)):
            raise CheckError("the same inputs give other outputs the second time")
        alone = torch.cat([model(inputs[i : i + 1]) for i in range(len(inputs))])
    if not torch.allclose(whole, alone, rtol=1e-4, atol=1e-5):
        raise CheckError(f"alone, an example's output is up to {(whole - alone).abs().max():.3g} off that in a batch")


@check(
    "model",
    rule=f"it learns: {LEARNING_EPOCHS * parts.STEPS_PER_EPOCH} steps of Adam leave less than {ENOUGH:g} of the loss",
    mend="look at the gradients, by framework check gradients model=NAME, and at the sizes of the initial weights",
)
def model_learns(subject: Subject) -> None:
    """Train it on a small problem."""
    made = parts.parts_for(subject)
    made.optimizer = Adam(made.model.parameters(), lr=0.01)
    history = trials.train(subject, epochs=LEARNING_EPOCHS, parts=made).scores
    first, last = history[0]["loss/train"], history[-1]["loss/train_slice"]
    if not last < ENOUGH * first:
        raise CheckError(f"the loss goes from {first:.4g} to {last:.4g}")


@check(
    "model",
    rule="its state_dict makes another of its kind the same model",
    mend="hold what outputs depend on in parameters and registered buffers, not in plain attributes",
)
def model_state_is_whole(subject: Subject) -> None:
    """Train one, and give its state to one made with another seed."""
    model = trials.train(subject).trainer.model
    data, other = _made(subject, seed=1)
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    inputs, _ = _batch(data, 6)
    with torch.no_grad():
        # trained in another order of memory, a model rounds otherwise
        if not torch.allclose(model.eval()(inputs), other.eval()(inputs), rtol=1e-5, atol=1e-5):
            raise CheckError("a model that was given another's state_dict has other outputs")


@check(
    "model",
    rule="its parameters have the same names in every instance, none of them a wrapper's",
    mend="wrap by no DistributedDataParallel and no torch.compile inside, and count nothing in a layer's name",
)
def model_names_are_canonical(subject: Subject) -> None:
    """Compare the names of two, and look for prefixes."""
    (_, one), (_, other) = _made(subject), _made(subject)
    names = list(one.state_dict())
    for name, there in zip(names, other.state_dict(), strict=True):
        if name != there:
            raise CheckError(f"'{name}' is '{there}' in the next instance")
    for name in names:
        if canonical_name(name) != name or name.startswith("module."):
            raise CheckError(f"'{name}' has a wrapper's prefix")


@check(
    "model",
    rule="residual_branches are modules of the model",
    mend="return a list of the modules whose output is added to their input",
)
def model_residual_branches_are_its_own(subject: Subject) -> None:
    """Look for each among the model's modules."""
    _, model = _made(subject)
    if not hasattr(model, "residual_branches"):
        raise SkipTest("it has no residual_branches")
    own = {id(module) for module in model.modules()}
    for branch in _branches(model):
        if id(branch) not in own:
            raise CheckError(f"{type(branch).__name__} is none of the model's modules")


def _branches(model: nn.Module) -> Iterator[object]:
    branches = model.residual_branches
    if not isinstance(branches, list):
        raise CheckError(f"residual_branches is a {type(branches).__name__}, not a list")
    yield from branches
