"""The embedding where the harness does not go: types of indices, precision of the sum, bad input."""

import pytest
import torch
from torch.nn import functional as F

from framework import functions


def test_rows_that_nobody_names_get_gradient_0():
    weight = torch.ones(4, 2, requires_grad=True)
    output = functions.embedding(torch.tensor([3, 1, 3], dtype=torch.int32), weight)
    (gradient,) = torch.autograd.grad(output, weight, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert gradient.tolist() == [[0, 0], [3, 4], [0, 0], [6, 8]]


def test_the_padding_row_gets_gradient_0_and_is_read():
    weight = torch.arange(6.0).view(3, 2).requires_grad_()
    output = functions.embedding(torch.tensor([2, 0, 2]), weight, padding_idx=-1)
    assert output.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert torch.autograd.grad(output.sum(), weight)[0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_no_indices():
    weight = torch.ones(3, 2, requires_grad=True)
    output = functions.embedding(torch.empty(0, 4, dtype=torch.long), weight)
    assert output.shape == (0, 4, 2)
    assert not torch.autograd.grad(output.sum(), weight)[0].any()


def test_many_small_terms_are_summed_in_float32():
    """In bfloat16 a sum of ones stops at 256, where the next one is lost; torch's does."""
    indices, weight = torch.zeros(1000, dtype=torch.long), torch.ones(2, 1).bfloat16().requires_grad_()
    ours = torch.autograd.grad(functions.embedding(indices, weight).sum(), weight)[0]
    assert ours[0].item() == 1000
    assert torch.autograd.grad(F.embedding(indices, weight).sum(), weight)[0][0].item() == 256


@pytest.mark.parametrize(
    ("indices", "shape", "padding_idx", "message"),
    [
        (torch.ones(2), (3, 2), None, r"indices must be int32 or int64 and weight \(V, D\), got torch.float32"),
        (torch.ones(2, dtype=torch.long), (3,), None, r"got torch.int64 and \(3,\)"),
        (torch.ones(2, dtype=torch.long), (3, 2), 3, "padding_idx must be one of the 3 rows of weight, got 3"),
        (torch.ones(2, dtype=torch.long), (3, 2), -4, "got -4"),
    ],
)
def test_refuses_what_names_no_row(indices, shape, padding_idx, message):
    with pytest.raises(ValueError, match=message):
        functions.embedding(indices, torch.ones(shape), padding_idx)
