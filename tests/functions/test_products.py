"""Kernels of the weighted sum's products: which one multiplies, and that it makes no difference."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from framework.functions import linear, products
from framework.functions.linear import faster_linear

BOTH = pytest.mark.parametrize("kernel", ["torch", "onednn"])
LARGE = (256, 256, 256)
"""Rows, inputs and outputs that are worth oneDNN on a few threads."""


@pytest.fixture(autouse=True)
def choice(monkeypatch, request):
    """Forget what was chosen and measured, before and after."""

    def choose(kernel: str, *, slow: bool = True) -> None:
        products.chosen_kernel.cache_clear()
        monkeypatch.setenv("FRAMEWORK_LINEAR", kernel)
        monkeypatch.setattr(products, "mkl_is_slow", lambda: slow)

    yield choose
    products.chosen_kernel.cache_clear()


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kernels(run) -> set[str]:
    """Return who multiplied."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    who = {"mkldnn::_linear_pointwise": "onednn", "aten::mm": "torch", "aten::addmm": "torch"}
    return {who[event.key] for event in profiler.key_averages() if event.key in who}


def used(run) -> str:
    found = kernels(run)
    assert len(found) == 1, found
    return found.pop()


def gradients(function, *values, **options):
    values = [v if v is None else v.detach().requires_grad_() for v in values]
    output = function(*values)
    output.backward(draw(*output.shape, seed=9).to(output.dtype))
    return [output.detach(), *(v.grad for v in values if v is not None)]


SHAPES = list(itertools.product([(0,), (1,), (3,), (64,), (), (2, 5), (3, 0, 2)], [1, 7, 40], [1, 5, 90]))


@BOTH
@pytest.mark.parametrize(("rows", "width", "outputs"), SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_as_exact_as_torch(choice, kernel, rows, width, outputs, bias):
    """Against float64: at most twice the error of torch's own operation, or that of rounding the result."""
    choice(kernel)
    values = [draw(*rows, width), draw(outputs, width, seed=1), draw(outputs, seed=2) if bias else None]
    exact = gradients(functional.linear, *(v if v is None else v.double() for v in values))
    ours, theirs = gradients(linear, *values), gradients(functional.linear, *values)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        error, bound = (a.double() - truth).norm(), (b.double() - truth).norm()
        assert error <= 2 * bound + torch.finfo(torch.float32).eps * truth.norm()


LAYOUTS = {
    "contiguous": lambda rows, columns, seed: draw(rows, columns, seed=seed),
    "transposed": lambda rows, columns, seed: draw(columns, rows, seed=seed).t(),
    "every second column": lambda rows, columns, seed: draw(rows, 2 * columns, seed=seed)[:, ::2],
    "part of wider rows": lambda rows, columns, seed: draw(rows, columns + 3, seed=seed)[:, 3:],
    "one row again and again": lambda rows, columns, seed: draw(1, columns, seed=seed).expand(rows, columns),
    "off a cache line": lambda rows, columns, seed: draw(rows * columns + 1, seed=seed)[1:].view(rows, columns),
}


@BOTH
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("outputs", [10, 100], ids=["narrow", "wide"])
def test_any_layout(choice, kernel, first, second, outputs):
    choice(kernel)
    rows, inputs = 33, 20
    delta, weight = LAYOUTS[first](rows, outputs, 0), LAYOUTS[second](outputs, inputs, 1)
    values = LAYOUTS[second](rows, inputs, 2)
    into = torch.empty(outputs, inputs)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(
        products.input_gradient(delta, weight), (delta.double() @ weight.double()).float(), **close
    )
    expected = (delta.double().t() @ values.double()).float()
    for found in (products.weight_gradient(delta, values), products.weight_gradient(delta, values, into), into):
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(
        products.weighted_sum(values, weight, None), (values.double() @ weight.double().t()).float(), **close
    )


def test_not_a_number_stays_in_its_row(choice):
    choice("onednn")
    inputs = draw(4, 8)
    inputs[1, 2], inputs[3, 0] = torch.nan, torch.inf
    found = products.weighted_sum(inputs, draw(5, 8, seed=1), None)
    assert found.isfinite().all(1).tolist() == [True, False, True, False]


def three(rows: int, inputs: int, outputs: int) -> list[str]:
    """Return which kernel forms the sum, its gradient by the inputs, and that by the weight."""
    values, weight, delta = draw(rows, inputs), draw(outputs, inputs), draw(rows, outputs)
    return [
        used(lambda: products.weighted_sum(values, weight, None)),
        used(lambda: products.input_gradient(delta, weight)),
        used(lambda: products.weight_gradient(delta, values)),
    ]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (LARGE, ["onednn"] * 3),
        ((64, 64, 10), ["torch"] * 3),
        ((192, 256, 127), ["torch"] * 3),
        ((256, 256, 128), ["onednn"] * 3),
        ((4, 2048, 2048), ["torch"] * 3),
        ((32768, 32, 16), ["onednn", "onednn", "torch"]),
    ],
    ids=str,
)
def test_the_rule_of_shapes(choice, shape, expected):
    choice("auto")
    assert three(*shape) == expected
    choice("auto", slow=False)
    assert three(*shape) == ["torch"] * 3


def test_more_threads_want_more_work(choice):
    choice("auto")
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(three(256, 128, 128)[0])
    finally:
        torch.set_num_threads(before)
    assert found == ["onednn", "torch"]


def test_deterministic_is_torch_unless_told(choice):
    torch.use_deterministic_algorithms(True)
    try:
        choice("auto")
        assert three(*LARGE) == ["torch"] * 3
        choice("onednn")
        assert three(*LARGE) == ["onednn"] * 3
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_switch(choice):
    choice("torch")
    assert three(*LARGE) == ["torch"] * 3
    assert products.faster_kernel() == "torch"
    choice("onednn")
    assert three(3, 4, 5) == ["onednn"] * 3
    assert products.faster_kernel() == "onednn"
    choice("auto", slow=False)
    assert products.faster_kernel() == "torch"
    choice("mkl")
    with pytest.raises(ValueError, match="FRAMEWORK_LINEAR must be auto, torch or onednn, got 'mkl'"):
        linear(draw(2, 3), draw(4, 3))


def test_a_torch_without_onednn(choice, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    choice("onednn")
    with pytest.raises(ValueError, match="needs a torch that was built with oneDNN: set auto or torch"):
        products.chosen_kernel()
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.mkl_is_slow.__wrapped__() is False


@pytest.mark.parametrize(("times", "slow"), [([2.0, 1.0], True), ([1.1, 1.0], False), ([0.7, 1.0], False)], ids=str)
def test_what_is_measured_decides(monkeypatch, times, slow):
    threads = torch.get_num_threads()
    monkeypatch.setattr(products, "_shortest", lambda *_: times)
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("this torch lacks MKL or oneDNN")
    state = torch.random.get_rng_state()
    assert products.mkl_is_slow.__wrapped__() is slow
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_are_left_to_torch(choice, kernel, dtype):
    choice(kernel)
    values, weight = draw(9, 4, dtype=dtype), draw(3, 4, dtype=dtype)
    assert "onednn" not in kernels(lambda: gradients(linear, values, weight))
    for a, b in zip(gradients(linear, values, weight), gradients(functional.linear, values, weight), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_goes_on_casting(choice):
    choice("onednn")
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(draw(9, 4), draw(3, 4)).dtype == torch.bfloat16
        assert faster_linear(draw(9, 4), draw(3, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("function", [linear, faster_linear], ids=lambda f: f.__name__)
def test_differentiates_twice(choice, function):
    choice("onednn")

    def curvature(formula):
        values = [draw(6, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_(), draw(3, seed=2).requires_grad_()]
        first = torch.autograd.grad(formula(*values).pow(3).sum(), values, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), values)]

    for a, b in zip(curvature(function), curvature(functional.linear), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own forward mode
def test_inside_transforms_and_modes(choice):
    choice("onednn")
    values, weight, bias = draw(6, 4), draw(3, 4, seed=1), draw(3, seed=2)

    def total(weight, values, bias):
        return faster_linear(values, weight, bias).pow(2).sum()

    batched = torch.stack([values, 2 * values])
    ours = torch.func.vmap(torch.func.grad(total), (None, 0, None))(weight, batched, bias)
    for own, part in zip(ours, batched, strict=True):
        leaf = weight.clone().requires_grad_()
        (expected,) = torch.autograd.grad(functional.linear(part, leaf, bias).pow(2).sum(), leaf)
        torch.testing.assert_close(own, expected)
    _, tangent = torch.func.jvp(lambda w: faster_linear(values, w, bias), (weight,), (weight,))
    torch.testing.assert_close(tangent, values @ weight.t())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(values, values)
        tangent = torch.autograd.forward_ad.unpack_dual(faster_linear(dual, weight, bias)).tangent
    torch.testing.assert_close(tangent, values @ weight.t())
    leaves = values.clone().requires_grad_(), weight.clone().requires_grad_()
    output = faster_linear(*leaves)
    several = torch.stack([torch.ones_like(output), 2 * torch.ones_like(output)])
    many = torch.autograd.grad(output, leaves, several, is_grads_batched=True)
    torch.testing.assert_close(many[1][1], 2 * torch.ones(3, 6) @ values)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        faster_linear(values, weight, bias)
    assert counter.get_total_flops() == 2 * 6 * 4 * 3
    assert faster_linear(values.to("meta"), weight.to("meta")).device.type == "meta"


def test_wrong_shapes_are_refused_as_torch_does(choice):
    choice("onednn")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        faster_linear(draw(6, 4), draw(3, 5))
    with pytest.raises(RuntimeError, match="dtype"):
        faster_linear(draw(6, 4), draw(3, 4).double())


def test_keeps_only_what_the_backward_needs(choice):
    choice("onednn")
    for inputs_learn, weight_learns in ((True, False), (False, True)):
        values, weight = draw(6, 4).requires_grad_(inputs_learn), draw(3, 4).requires_grad_(weight_learns)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            output = faster_linear(values, weight)
        assert [tuple(t.shape) for t in kept] == [(3, 4) if inputs_learn else (6, 4)]
        output.sum().backward()
        assert (values.grad is not None, weight.grad is not None) == (inputs_learn, weight_learns)


SCRIPT = """
import hashlib, torch
from framework.models import MLP
from framework.functions.products import faster_kernel
torch.manual_seed(0)
model = MLP((784,), 10, widths=(256,))
inputs = torch.randn(128, 784)
digest = hashlib.sha256()
for _ in range(2):
    model(inputs).pow(2).mean().backward()
    for p in model.parameters():
        digest.update(p.grad.numpy().tobytes())
print(faster_kernel(), digest.hexdigest())
"""


def test_two_processes_agree_to_the_bit():
    environment = {k: v for k, v in os.environ.items() if k != "FRAMEWORK_LINEAR"}
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.split()[0] in ("torch", "onednn")
