from typing import Any

import pytest

from framework.faults import Guard


@pytest.fixture(params=["host", "device"])
def decided_on(request: Any, monkeypatch: Any) -> str:
    """Where a step is judged: accelerators' way is gone on the CPU too."""
    if request.param == "device":
        made = Guard.__init__

        def as_on_a_device(self: Guard, *arguments: Any) -> None:
            made(self, *arguments)
            self.on_host = False

        monkeypatch.setattr(Guard, "__init__", as_on_a_device)
    return str(request.param)
