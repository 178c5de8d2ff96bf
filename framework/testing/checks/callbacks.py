"""Callbacks: listeners that change nothing, whatever happens to the training that they hear of."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from unittest import SkipTest, mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from framework.callbacks import Callback
from framework.errors import ConfigError
from framework.testing import parts, problems, trials
from framework.testing.checks.hooks import overrides
from framework.testing.conformance import CheckError, Subject, check
from framework.testing.trials import Interrupt
from framework.trainer import Trainer

READS = ("cpu", "numpy", "tolist", "item")
"""Methods of a tensor that wait for its device."""


def _callback(subject: Subject) -> Any:
    return subject.build(*parts.arguments(subject))


def _changes_training(subject: Subject) -> bool:
    return bool(getattr(subject.factory, "changes_training", False))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what is printed inside from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


class Seen(Callback):
    """Keeps what a training came to, as of its newest step: weights, the optimizer's state, its scores."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.state: list[Any] = []
        self.trainer: Trainer | None = None

    def on_step_end(self, trainer: Trainer) -> None:
        """Copy them."""
        assert trainer.optimizer is not None
        self.trainer = trainer
        self.weights = trials.weights(trainer.model)
        self.state = [{k: _copied(v) for k, v in kept.items()} for kept in trainer.optimizer.state.values()]

    @property
    def training_scores(self) -> list[float]:
        """The training loss of each evaluation."""
        assert self.trainer is not None
        return [evaluation.scores["loss/train"] for evaluation in self.trainer.history]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _train(*callbacks: Any, resume: bool = False, **settings: Any) -> Seen:
    seen, model = Seen(), problems.network(0.3)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    made = trials.trainer(model, callbacks=[*callbacks, seen], optimizer=adam, **settings)
    with _quiet():
        trials.fit(made, resume=resume)
    return seen


@check(
    "callback",
    rule="training goes the same way with it as without, bit for bit, unless changes_training is set",
    mend="work on copies (tensor.detach().clone()), and say changes_training = True where changing is what it is for",
)
def listener_changes_nothing(subject: Subject) -> None:
    """Train with it and without."""
    if _changes_training(subject):
        raise SkipTest("it says changes_training = True")
    without, with_it = _train(), _train(_callback(subject))
    if not trials.same(without.weights, with_it.weights):
        raise CheckError(f"after 6 steps with it and without {_compared(without.weights, with_it.weights)}")
    if not trials.same(without.state, with_it.state):
        raise CheckError("the optimizer's state is another with it than without")
    if not trials.same(without.training_scores, with_it.training_scores):
        raise CheckError(f"loss/train is {with_it.training_scores} with it, {without.training_scores} without")


def _compared(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> str:
    return trials.difference(one, two) if one.keys() == two.keys() else "the weights have other names"


@check(
    "callback",
    rule="a training that is interrupted and resumed leaves weights, the callback's state and the weights that it has "
    "evaluated as one that is not, bit for bit",
    mend="return all that it remembers from state(), in tensors and plain values, and take it back in load_state",
)
def callback_resumes(subject: Subject) -> None:
    """Train six steps, at once and interrupted after four."""
    whole, first, second = _callback(subject), _callback(subject), _callback(subject)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        expected = _train(whole, directory=one)
        _train(first, Interrupt(4), directory=two)
        found = _train(second, directory=two, resume=True)
    if not trials.same(expected.weights, found.weights):
        raise CheckError(f"2 steps after resuming {_compared(expected.weights, found.weights)}")
    for name, ask in (("state()", _state), ("evaluation_weights", _evaluated)):
        if not trials.same(ask(whole, expected), ask(second, found)):
            raise CheckError(f"2 steps after resuming {name} gives something else than without interruption")


def _state(callback: Any, seen: Seen) -> Any:
    return callback.state() if hasattr(callback, "state") else None


def _evaluated(callback: Any, seen: Seen) -> Any:
    return callback.evaluation_weights(seen.trainer)


class FailingError(RuntimeError):
    """What a training fails with."""


class Failing(Callback):
    """Fails at the start, or at the end of the second step."""

    def __init__(self, hook: str, failure: type[BaseException]) -> None:
        self.hook = hook
        self.failure = failure

    def on_fit_start(self, trainer: Trainer) -> None:
        """Fail, if this is where."""
        self._fail("on_fit_start", trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        """Fail, if this is where."""
        if trainer.progress.step == 2:
            self._fail("on_step_end", trainer)

    def _fail(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook:
            raise self.failure(f"on purpose, in {hook}")


@check(
    "callback",
    rule="a training that fails or is interrupted raises what it failed with, and the next one with the callback runs",
    mend="let on_fit_end end what on_fit_start began, if it was called at all: it is the last to be called, always",
)
def survives_failures(subject: Subject) -> None:
    """Fail before its first hook and in the second step, then train."""
    for hook, failure in (
        ("on_fit_start", FailingError),
        ("on_step_end", FailingError),
        ("on_step_end", KeyboardInterrupt),
    ):
        callback = _callback(subject)
        try:
            made = trials.trainer(problems.network(), callbacks=[Failing(hook, failure), callback])
            with _quiet():
                trials.fit(made)
        except failure:
            pass
        except Exception as error:
            raise CheckError(f"a {failure.__name__} in {hook} came out as {type(error).__name__}: {error}") from error
        try:
            _train(callback)
        except Exception as error:
            raise CheckError(f"training after one that failed: {type(error).__name__}: {error}") from error


@check(
    "callback",
    rule="training ends with it where there is no directory, no validation set, or a directory",
    mend="look at trainer.directory before writing, and use scores.get(name): loss/val is there with a validation set",
)
def works_in_every_run(subject: Subject) -> None:
    """Train in each of these."""
    with tempfile.TemporaryDirectory() as folder:
        for about, directory, validation in (
            ("without a directory", None, problems.examples(12)),
            ("without a validation set", None, None),
            ("with a directory", folder, problems.examples(12)),
        ):
            made = trials.trainer(problems.network(), callbacks=[_callback(subject)], directory=directory)
            try:
                with _quiet():
                    result = made.fit(problems.examples(), validation, batch_size=8)
            except Exception as error:
                raise CheckError(f"{about}: {type(error).__name__}: {error}") from error
            if result.status == "failed":
                raise CheckError(f"{about} training failed: {result.reason} {result.error}")


class Asking(Callback):
    """Asks another callback for its weights to evaluate after every step, and looks at them."""

    def __init__(self, asked: Any) -> None:
        self.asked = asked

    def on_step_end(self, trainer: Trainer) -> None:
        """Ask twice."""
        before = trials.weights(trainer.model)
        given = self.asked.evaluation_weights(trainer)
        given = None if given is None else {name: tensor.clone() for name, tensor in given.items()}
        for name, tensor in (given or {}).items():
            if name not in before or tensor.shape != before[name].shape:
                raise CheckError(f"'{name}' of {tuple(tensor.shape)} is none of the model's weights")
            if not bool(tensor.isfinite().all()):
                raise CheckError(f"'{name}' is not finite")
        again = self.asked.evaluation_weights(trainer)
        if not trials.same(given, None if again is None else dict(again)):
            raise CheckError("asked twice after the same step, it gives two answers")
        if not trials.same(before, trials.weights(trainer.model)):
            raise CheckError("asking changed the trained weights")


@check(
    "callback",
    rule="evaluation_weights gives finite tensors by the model's canonical names, of their shapes, on every rank, and "
    "changes nothing",
    mend="set every_rank = True, keep the averages by the names of framework.parameters.named_parameters, and return "
    "them without a change",
)
def evaluates_weights_of_the_model(subject: Subject) -> None:
    """Ask after every step, the first included."""
    if not overrides(subject, "evaluation_weights"):
        raise SkipTest("it does not override evaluation_weights")
    callback = _callback(subject)
    if callback.every_rank is not True:
        raise CheckError("it has weights to evaluate, and every_rank is not True: other ranks would evaluate others")
    try:
        _train(callback, Asking(callback))
    except ConfigError as error:
        raise CheckError(str(error)) from error


class _Watch(TorchDispatchMode):
    """Raises where a tensor's value is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            _refuse()
        return func(*args, **(kwargs or {}))


def _refuse(*arguments: Any, **options: Any) -> NoReturn:
    raise CheckError("on_step_end reads a tensor's value, though no log point is near")


@check(
    "callback",
    rule="on_step_end reads no value from the device: no item, float, bool, tolist, numpy or cpu of a tensor",
    mend="keep it a tensor, log it by trainer.log(name, tensor), or read it in on_logged; count in plain integers",
)
def reads_nothing_between_log_points(subject: Subject) -> None:
    """Train without a log point, and watch every on_step_end."""
    if _changes_training(subject) or not overrides(subject, "on_step_end"):
        raise SkipTest("it says changes_training = True, or does not override on_step_end")
    callback = _callback(subject)
    inner = callback.on_step_end

    def watched(trainer: Trainer) -> None:
        with contextlib.ExitStack() as stack:
            for method in READS:
                stack.enter_context(mock.patch.object(Tensor, method, _refuse))
            stack.enter_context(_Watch())  # type: ignore[no-untyped-call]  # torch's own
            inner(trainer)

    callback.on_step_end = watched
    _train(callback, log_every=1000, evaluate_every="1000 steps")
