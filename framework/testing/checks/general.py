"""What every component has to do, of whatever kind."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints
from unittest import SkipTest

import torch
from torch import Tensor

from framework.errors import ConfigError, nearest
from framework.registry import MISSING, convert
from framework.testing import fresh, parts, problems, trials
from framework.testing.conformance import CheckError, Subject, all_checks, check
from framework.testing.examples import examples_of

RUNTIME = {
    "data": ("seed",),
    "model": ("input_shape", "outputs"),
    "optimizer": ("params", "model"),
    "scheduler": ("total_steps", "steps_per_epoch"),
    "initializer": ("gain",),
    "regularizer": ("task", "outputs"),
    "metric": ("task", "outputs"),
}
"""What a component of each kind is given before `*`."""

TRAINED = ("model", "loss", "optimizer", "scheduler", "initializer", "regularizer", "metric", "callback", "data")
SENT = ("model", "loss", "scheduler", "initializer", "regularizer", "callback")
"""The kinds whose instances can be pickled; optimizers belong to their parameters, metrics to torchmetrics."""


@check(
    rule="it can be imported, and its options can be read from its source",
    mend="see framework plugins for everything that was found and what is wrong with it",
)
def can_be_imported(subject: Subject) -> None:
    """Import it."""
    try:
        subject.component.load()
    except ConfigError as error:
        raise CheckError(str(error)) from None


@check(
    rule="what a component says of itself is about checks and options that exist",
    mend="correct the names in expected_failures and kit_options",
)
def declarations_known(subject: Subject) -> None:
    """Look the names up."""
    options = {option.name for option in subject.component.signature.options}
    known = {found.name for found in all_checks()}
    for attribute, names in (("expected_failures", known), ("kit_options", options)):
        for name in getattr(subject.factory, attribute, {}):
            if name not in names:
                raise CheckError(f"{attribute} names '{name}': {nearest(name, names)}")


@check(
    rule="importing the module changes nothing else in the process and prints nothing",
    mend="move what a module does at its top level into the function or class that needs it",
)
def imports_without_side_effects(subject: Subject) -> None:
    """Import it anew in a fresh process, and compare everything that is shared."""
    subject.component.load()
    if changed := fresh.run_fresh(fresh.import_effects, subject.component):
        raise CheckError(f"importing it changes {'; '.join(changed)}")


@check(
    rule=f"the module is imported in {fresh.IMPORT_SECONDS:g} s, torch and this package aside",
    mend="import what is heavy, and read or compute what is large, where it is first used",
)
def imports_in_time(subject: Subject) -> None:
    """Import it anew in a fresh process, by the clock."""
    if taken := fresh.run_fresh(fresh.import_seconds, subject.component, fresh.IMPORT_SECONDS):
        raise CheckError(f"importing it takes {taken[0]}")


@check(
    rule="parameters before '*' are what the kind is given at run time, and every option after it has a type",
    mend="name each option after a bare '*', as in 'strength: float = 0.1'",
)
def parameters_are_known(subject: Subject) -> None:
    """Compare with what the kind is given."""
    offered = RUNTIME.get(subject.kind, ())
    for name in subject.component.signature.runtime:
        if name not in offered:
            raise CheckError(f"it asks for '{name}', and a {subject.kind} is given {', '.join(offered) or 'nothing'}")
    for option in subject.component.signature.options:
        if option.annotation is Any:
            raise CheckError(f"option '{option.name}' has no type")


@check(
    rule="the schema read from the source is the signature of the imported class, and each default fits its own type",
    mend="write the options out in the signature of __init__, with constants as defaults within their ranges",
)
def schema_is_the_constructor(subject: Subject) -> None:
    """Compare names, types and defaults."""
    schema = subject.component.signature
    factory = subject.factory
    constructor = _constructor(factory)
    parameters = list(inspect.signature(factory).parameters.values()) if constructor else []
    given = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    before = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    if before != schema.runtime:
        raise CheckError(f"before '*' the source has {schema.runtime} and the signature {before}")
    if list(given) != [option.name for option in schema.options]:
        raise CheckError(f"the source has the options {[o.name for o in schema.options]}, the signature {list(given)}")
    # of the options alone: a runtime argument's type may be imported for type checkers only
    options = SimpleNamespace(__annotations__={name: parameter.annotation for name, parameter in given.items()})
    names = getattr(inspect.unwrap(constructor), "__globals__", {}) if constructor else {}
    hints = get_type_hints(options, names, include_extras=True)
    for option in schema.options:
        default = given[option.name].default
        default = MISSING if default is inspect.Parameter.empty else default
        if not _equal(default, option.default) and not _is_factory(default):
            raise CheckError(f"option '{option.name}' is {option.default!r} in the source and {default!r} in the class")
        if option.name in hints and hints[option.name] != option.annotation:
            raise CheckError(
                f"option '{option.name}' is {option.annotation} in the source and {hints[option.name]} here"
            )
        if option.default is not MISSING:
            try:
                convert(option.default, option.annotation, option.name)
            except ConfigError as error:
                raise CheckError(f"its default does not fit its type: {error}") from None


def _constructor(factory: Any) -> Callable[..., Any] | None:
    """Return what takes the options; None for a class that has only torch's constructor, and so no options."""
    if not inspect.isclass(factory):
        return cast(Callable[..., Any], factory)
    owner = next(c for c in factory.__mro__ if "__init__" in vars(c))
    own = owner is not object and owner.__module__.partition(".")[0] != "torch"
    return cast(Callable[..., Any], factory.__init__) if own else None


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b)) or a is MISSING is b


def _is_factory(default: Any) -> bool:
    """Tell a dataclass's default_factory, which has no value before one is made."""
    return type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"


@check(
    rule="an option that does not exist is refused",
    mend="name each option after a bare '*' in the signature and take no **kwargs",
)
def unknown_option_refused(subject: Subject) -> None:
    """Hand over a keyword that no component has."""
    data = problems.images()
    arguments = parts.runtime(subject, data, problems.model_for(data))
    given = _options(subject)
    try:
        subject.factory(*arguments, **given, no_such_option=1)
    except TypeError:
        return
    raise CheckError("the constructor took 'no_such_option=1'")


def _options(subject: Subject) -> dict[str, Any]:
    options = subject.component.signature.options
    required = {option.name: None for option in options if option.default is MISSING}
    return {**required, **getattr(subject.factory, "kit_options", {}), **subject.options}


@check(
    rule="the class or function is pickled by its name, and a model, loss, scheduler, regularizer or callback with it",
    mend="define it at the top level of its module, and keep lambdas, open files and locks out of its attributes",
)
def pickles_to_a_spawned_process(subject: Subject) -> None:
    """Send it to a fresh process that has loaded nothing but its module, and compare what comes out there."""
    things: list[tuple[Any, Callable[..., list[str]] | None]] = [(subject.factory, None)]
    if subject.kind in SENT:
        probe = _probe(subject)
        things.append((probe[0], partial(_examined, subject.kind, *probe[1:])))
    for thing, examine in things:
        try:
            content = fresh.pickled(thing)
        except Exception as error:
            raise CheckError(f"{type(thing).__name__} cannot be pickled: {type(error).__name__}: {error}") from None
        there = fresh.run_fresh(fresh.received, subject.component, content, examine)
        here = examine(thing) if examine else []
        if here != there:
            raise CheckError(f"it computes {' '.join(there)} there, and {' '.join(here)} here")


def _probe(subject: Subject) -> tuple[Any, ...]:
    """Return an instance, and arguments that it can be tried with."""
    if subject.kind == "loss":
        example, loss = next(examples_of(subject))
        return loss, example.pair()
    if subject.kind == "model":
        data, model = parts.data_for(subject)
        return model.eval(), (data.train.gather(torch.arange(4))[0],)
    return subject.build(*parts.runtime(subject, problems.images())), ()


def _examined(kind: str, arguments: tuple[Any, ...], thing: Any) -> list[str]:
    """Return what an object computes, as texts."""
    if kind == "scheduler":
        return [float(thing(step)).hex() for step in range(parts.TOTAL_STEPS)]
    if kind in ("loss", "model"):
        with torch.no_grad():
            output: Tensor = thing(*arguments)
        return [float(value).hex() for value in output.flatten()[:100]]
    return [type(thing).__qualname__, *sorted(vars(thing))]


@check(
    *TRAINED,
    rule="the same seed gives the same weights and scores, bit for bit",
    mend="draw from torch's generators only, which are seeded, at each step by (seed, step); "
    "let nothing depend on time, on hash(), or on the order of a set",
)
def deterministic_by_seed(subject: Subject) -> None:
    """Train twice alike."""
    for difference in trials.train(subject).differences(trials.train(subject)):
        raise CheckError(f"two runs with seed 0 differ: {difference}")


@check(
    *(kind for kind in TRAINED if kind not in ("data", "initializer")),
    rule="a run that is cut, saved, and taken up by objects made anew goes on bitwise as if it had not been cut",
    mend="have state() return everything that is remembered from step to step, and load_state(state) take it back "
    "(state_dict and load_state_dict of optimizers and schedulers, registered buffers of modules)",
)
def continues_after_restore(subject: Subject) -> None:
    """Train two epochs, at once and interrupted in the second, and compare."""
    whole = trials.train(subject)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        trials.train(subject, until=parts.STEPS_PER_EPOCH + 1, directory=directory)
        resumed = trials.train(subject, directory=directory, resume=True)
    for difference in whole.differences(resumed):
        raise CheckError(f"a run that was resumed differs from one that was not: {difference}")


def _trains(subject: Subject, precision: Any, device: str) -> None:
    outcome = trials.train(subject, precision=precision, device=device)
    for name, value in outcome.weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckError(f"weight {name} is not finite after {parts.TOTAL_STEPS} steps")


@check(
    *TRAINED,
    rule="it trains on the CPU in float32",
    mend="run steps of your own with Trainer(..., device='cpu') and see what raises",
)
def runs_in_float32(subject: Subject) -> None:
    """Train a few steps."""
    _trains(subject, 32, "cpu")


@check(
    *TRAINED,
    rule="it trains on the CPU with autocast to bfloat16, where predictions may be of another type than targets",
    mend="make no tensor of a fixed floating-point type: use tensor.new_zeros, tensor.to(other), zeros_like",
)
def runs_in_bfloat16(subject: Subject) -> None:
    """Train a few steps."""
    _trains(subject, "bf16", "cpu")


@check(
    *TRAINED,
    rule="it trains on a CUDA device",
    mend="make each tensor on the device of those it meets: zeros_like(other), torch.zeros(..., device=other.device)",
)
def runs_on_cuda(subject: Subject) -> None:
    """Train a few steps."""
    if not torch.cuda.is_available():
        raise SkipTest("there is no CUDA device")
    _trains(subject, 32, "cuda")
