"""Hooks of regularizers and callbacks: those that are there do something, and are called as they are written."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any
from unittest import SkipTest

import torch

from framework.callbacks import Callback
from framework.regularizers import Regularizer
from framework.testing import parts, problems, trials
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.examples import CLASSES
from framework.testing.pair import pair

BASES: dict[str, type] = {"regularizer": Regularizer, "callback": Callback}
STATE = ("state", "load_state")


def overridden(subject: Subject) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each hook of the base class that a component overrides, by name."""
    base = BASES[subject.kind]
    for name, method in vars(base).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            own = getattr(subject.factory, name, method)
            if own is not method:
                yield name, own


def overrides(subject: Subject, hook: str) -> bool:
    """Return whether a component overrides a hook."""
    return hook in dict(overridden(subject))


@check(
    "regularizer",
    "callback",
    rule="a hook that is overridden does something: the loop calls what is overridden, and skips what is not",
    mend="delete the method: the base class has it",
)
def overrides_used_hooks_only(subject: Subject) -> None:
    """Look for methods of no effect in the source."""
    for name, method in overridden(subject):
        try:
            source = textwrap.dedent(inspect.getsource(method))
        except OSError as error:
            raise SkipTest("its source is not to be had") from error
        definition = ast.parse(source).body[0]
        if isinstance(definition, ast.FunctionDef) and all(_is_idle(s, name) for s in definition.body):
            raise CheckError(f"{name} is overridden by a method that does nothing of its own")


def _is_idle(statement: ast.stmt, hook: str) -> bool:
    """Return whether a statement passes, returns an argument, or leaves it to the base class."""
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Raise):
        return "NotImplementedError" in ast.unparse(statement)
    if not isinstance(statement, ast.Expr | ast.Return):
        return False
    value = statement.value
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) == f"super().{hook}"
    return value is None or isinstance(value, ast.Constant | ast.Name)


@check(
    "regularizer",
    "callback",
    rule="an overridden hook takes the arguments that the base class's takes",
    mend="copy the parameters of the base class's method, by name and in order",
)
def hooks_keep_their_signatures(subject: Subject) -> None:
    """Compare the parameters."""
    for name, method in overridden(subject):
        expected = _parameters(getattr(BASES[subject.kind], name))
        found = _parameters(method)
        if found != expected:
            raise CheckError(f"{name} takes ({', '.join(found)}), and is called with ({', '.join(expected)})")


def _parameters(method: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(method).parameters)


@check(
    "regularizer",
    "callback",
    rule="every method named on_... is a hook of the base class",
    mend="give it the name of the hook that is meant, or another one if the class itself calls it",
)
def knows_its_hooks(subject: Subject) -> None:
    """Look for names that nobody calls."""
    base = BASES[subject.kind]
    hooks = [name for name in vars(base) if name.startswith("on_")]
    for name in dir(subject.factory):
        if name.startswith("on_") and name not in hooks:
            raise CheckError(f"{name} is never called; a {subject.kind} has {', '.join(hooks)}")


@check(
    "regularizer",
    "callback",
    rule="state and load_state come together",
    mend="write the other one: state() returns what load_state(state) takes back",
)
def has_both_halves_of_its_state(subject: Subject) -> None:
    """Look for one without the other."""
    has = [hasattr(subject.factory, name) for name in STATE]
    if any(has) and not all(has):
        raise CheckError(f"it has {STATE[has.index(True)]} and no {STATE[has.index(False)]}")


@check(
    "regularizer",
    "callback",
    rule="on two ranks training ends, with the same weights, and the same weights to evaluate, on both",
    mend="draw by torch's default generators, which the ranks seed alike, call collectives on every rank or none, and "
    "set every_rank where a callback has weights to evaluate",
)
def ranks_agree(subject: Subject) -> None:
    """Train on two ranks, and compare them."""
    one, two = ({n: torch.tensor(v) for n, v in answer.items()} for answer in pair().run(_train, subject))
    if one.keys() != two.keys():
        raise CheckError(f"on one rank alone there is {', '.join(sorted(one.keys() ^ two.keys()))}")
    if not trials.same(one, two):
        raise CheckError(f"between the ranks {trials.difference(one, two)} after 4 steps")


def _train(subject: Subject) -> dict[str, list[float]]:
    """Return the trained weights, and those to evaluate, of this rank."""
    offered = {"task": "classification", "outputs": CLASSES} if subject.kind == "regularizer" else {}
    built = subject.build(*parts.arguments(subject, **offered))
    regularizers, callbacks = ([built] if subject.kind == kind else [] for kind in BASES)
    trainer = trials.trainer(
        problems.network(0.3), regularizers=regularizers, callbacks=callbacks, max_steps=4, evaluate_every="2 steps"
    )
    trials.fit(trainer)
    found = trials.weights(trainer.model)
    if isinstance(built, Callback):
        given = built.evaluation_weights(trainer) or {}
        found |= {f"{name} to evaluate": tensor for name, tensor in given.items()}
    return {name: tensor.flatten().tolist() for name, tensor in found.items()}
