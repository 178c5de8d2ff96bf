"""What every test begins with."""

import pytest

from framework import registry


@pytest.fixture(autouse=True)
def _only_built_ins() -> None:
    """Forget the plugins that a test before has found."""
    registry.offer([])
