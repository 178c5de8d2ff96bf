"""Every built-in component passes every check of its kind."""

import numpy as np
import pytest

from framework import registry
from framework.testing import Subject, parametrize_with_checks, run_checks

OPTIONS = {
    "csv": {"path": "table.csv"},
    "text": {"path": "text.txt", "block": 8},
    "top_k_accuracy": {"k": 2},
    "transformer": {"layers": 1, "heads": 2, "width": 16},
}
BUILT_IN = [
    Subject(component, OPTIONS.get(component.name, {}))
    for kind in registry.KINDS
    for component in registry.components(kind).values()
    if component.name != "mnist"  # its files are those of one set, by their hashes, and 11 MB
]


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """A folder with the files that data sets are made from."""
    folder = tmp_path_factory.mktemp("files")
    rows = np.random.default_rng(0).normal(size=(80, 3)).round(4)
    lines = [",".join([*map(str, row), "ab"[int(row[0] > 0)]]) for row in rows]
    (folder / "table.csv").write_text("\n".join(["a,b,c,kind", *lines]))
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@parametrize_with_checks(BUILT_IN)
def test_built_in(check):
    check()


def test_mnist_as_far_as_it_needs_no_files():
    checks = [
        "can_be_imported",
        "imports_in_time",
        "imports_without_side_effects",
        "parameters_are_known",
        "pickles_to_a_spawned_process",
        "schema_is_the_constructor",
        "unknown_option_refused",
    ]
    results = run_checks(("data", "mnist"), checks=checks)
    assert [(result.check, result.verdict) for result in results] == [(r.check, "ok") for r in results]
    assert {result.check for result in results} == set(checks)
