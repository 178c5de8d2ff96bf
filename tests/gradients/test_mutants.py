"""The checker's own honesty: every mutant is caught, and the right twin of each passes."""

from pathlib import Path

import pytest
from judge import check, gradcheck_finds
from mutants import MUTANTS

WITH_A_CONTEXT_OF_ITS_OWN = {
    "contiguous_gradient": "strided cotangents",
    "expanded_gradient": "expanded cotangents",
    "writes_to_gradient": "shared cotangents",
    "none_gradient": "one output unused",
    "ignored_gradient_in_a_loss": "scaled loss",
    "derived_for_one_loss": "random cotangents",
    "another_path_compiled": "torch.compile",
    "misplaced_need": "one gradient at a time",
    "missing_tail": "saturated inputs",
    "nothing_to_count": "every target ignored",
    "padding_counts": "padding",
    "miscounted_rows": "micro-batches",
    "writes_to_saved": "backward twice",
    "state_outside": "another forward before the backward",
    "saved_as_attribute": "inputs overwritten before the backward",
    "contiguous_input": "inputs in other memory",
    "zero_without_graph": "without a graph",
    "once_only": "double backward",
    "mixed_types": "autocast to bfloat16",
    "wrong_vmap_rule": "vmap(grad)",
    "counts_its_calls": "checkpointed",
}


def test_there_are_enough_and_all_are_published():
    assert len(MUTANTS) >= 32
    page = (Path(__file__).resolve().parents[2] / "docs" / "checking.md").read_text(encoding="utf-8")
    for mutant in MUTANTS.values():
        assert f"| {mutant.bug} | " in page, "run scripts/mutants.py --write"
    assert f"| **caught of {len(MUTANTS)}** | **{len(MUTANTS)}** |" in page


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_and_its_twin_is_not(name):
    report = check(MUTANTS[name].make(True))
    assert not report.ok
    assert report.where
    twin = check(MUTANTS[name].make(False))
    assert twin.ok, twin.explain()


@pytest.mark.parametrize("name", WITH_A_CONTEXT_OF_ITS_OWN)
def test_a_context_alone_catches_what_it_is_for(name):
    context = WITH_A_CONTEXT_OF_ITS_OWN[name]
    report = check(MUTANTS[name].make(True), contexts=[context])
    assert [c.name for c in report.contexts if c.verdict == "wrong"] == [context]


@pytest.mark.parametrize("name", MUTANTS)
def test_right_twins_pass_gradcheck_too(name):
    """So that what gradcheck says of a mutant is about its bug."""
    assert not gradcheck_finds(MUTANTS[name].make(False))
