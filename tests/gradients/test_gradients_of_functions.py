"""Every hand-written function passes the check that is offered for anybody's."""

import pytest
import torch

from framework.functions import FUNCTIONS
from framework.gradients import check_function
from framework.gradients.contexts import CONTEXTS

ELSEWHERE = {"torch.compile", "vmap(grad)", "double backward"}
"""Contexts that tests/functions holds every function to already."""
EXAMPLES = [
    (name, example) for name, entry in FUNCTIONS.items() for example in entry.examples(torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=lambda p: str(p).replace(" ", "_"))
def test_function_in_hostile_contexts(name: str, example: str):
    call = FUNCTIONS[name].examples(torch.Generator().manual_seed(0))[example]
    contexts = [c for c in CONTEXTS if c not in ELSEWHERE]
    report = check_function(FUNCTIONS[name], *call.args, kwargs=call.kwargs, contexts=contexts)
    assert report.ok, report.explain()
