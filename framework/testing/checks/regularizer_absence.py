"""Regularizers: where they do nothing, at strength 0 and in evaluation mode."""

from __future__ import annotations

from unittest import SkipTest

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.testing import parts, problems, trials
from framework.testing.checks.regularizers import regularizer_of
from framework.testing.conformance import CheckError, Subject, check

STRENGTHS = ("strength", "rate", "scale", "std", "rho", "alpha", "weight", "probability")
"""Options that say how strong a regularizer is: 0 is none, where 0 is allowed."""


def _strength(subject: Subject) -> str:
    """Return the option that is 0 where a regularizer does nothing."""
    for option in STRENGTHS:
        if parts.takes(subject, option):
            try:
                regularizer_of(subject, **{option: 0})
            except ConfigError as error:
                raise SkipTest(f"its {option} cannot be 0") from error
            return option
    raise SkipTest(f"it has none of the options {', '.join(STRENGTHS)}")


@check(
    "regularizer",
    rule="at strength 0 training gives the weights that it gives without the regularizer",
    mend="multiply what it adds by the strength, and nothing else",
)
def nothing_at_strength_0(subject: Subject) -> None:
    """Train with one of strength 0, and without any."""
    option = _strength(subject)
    without = trials.trained_weights()
    with_it = trials.trained_weights(regularizers=[regularizer_of(subject, **{option: 0})])
    if without.keys() != with_it.keys():
        raise CheckError(f"with {option}=0 the model has the weights {', '.join(with_it)}")
    if not all(torch.allclose(without[name], with_it[name], rtol=0, atol=1e-7) for name in without):
        raise CheckError(f"after 6 steps with {option}=0 and without {trials.difference(without, with_it)}")


@check(
    "regularizer",
    rule="in evaluation mode a model gives what its weights alone give, whether prepared and trained with it or not",
    mend="let hooks and layers that `prepare` puts in act where module.training is set, and add no weights",
)
def nothing_in_evaluation(subject: Subject) -> None:
    """Compare outputs before and after prepare, and those of a trained network with a bare one of the same weights."""
    made, model = regularizer_of(subject), problems.network().eval()
    before = _outputs(model)
    made.prepare(model)
    if model.training:
        raise CheckError("prepare set the model to training mode")
    if not trials.same(before, after := _outputs(model)):
        raise CheckError(f"prepare changed what the model gives by up to {float((before - after).abs().max()):.3g}")
    trained, bare = problems.network(), problems.network().eval()
    trials.trained_weights(model=trained, regularizers=[regularizer_of(subject)])
    if trained.state_dict().keys() != bare.state_dict().keys():
        raise CheckError(f"the trained model has the weights {', '.join(trained.state_dict())}")
    bare.load_state_dict(trained.state_dict())
    expected = _outputs(bare)
    for _ in range(3):
        # trained in another order of memory, a model rounds otherwise
        if not torch.allclose(found := _outputs(trained.eval()), expected, rtol=1e-6, atol=1e-6):
            by = float((found - expected).abs().max())
            raise CheckError(f"a trained model in evaluation mode gives what differs from a bare one's by {by:.3g}")


@torch.no_grad()
def _outputs(model: nn.Module) -> Tensor:
    outputs: Tensor = model(problems.examples(8)[0])
    return outputs
