"""Two ranks that stay: one that fails ends both, and says which and why."""

import pytest
import torch

from framework import distributed
from framework.testing import CheckError
from framework.testing.pair import pair


def add_up(number: float) -> float:
    ranks = distributed.join(torch.device("cpu"))
    return float(ranks.sum(torch.tensor(number + ranks.index)))


def fail_on_one(_: object) -> None:
    ranks = distributed.join(torch.device("cpu"))
    if ranks.index == 1:
        raise ValueError("on purpose")
    ranks.barrier()


def test_ranks_meet_and_a_failure_ends_both():
    assert pair().run(add_up, 3.0) == [7.0, 7.0]
    first = pair()
    with pytest.raises(CheckError, match="on rank 1 of two: ValueError: on purpose"):
        first.run(fail_on_one, None)
    assert not any(process.is_alive() for process in first.processes)
