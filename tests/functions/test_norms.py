"""Norms against torch's modules, where their conditions end, and run without autograd."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from framework.functions import batch_norm, layer_norm, residual_rms_norm, rms_norm
from framework.functions.batch_norm import BatchNorm
from framework.functions.compiled import fused, row_blocks
from framework.functions.layer_norm import LayerNorm


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(outputs, by):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    return torch.autograd.grad(outputs, by, cotangents)


def assert_like_module(module: nn.Module, ours, inputs: torch.Tensor, **tolerance) -> None:
    inputs = inputs.requires_grad_()
    expected, found = module(inputs), ours(inputs)
    torch.testing.assert_close(found, expected, **tolerance)
    by = [inputs, *module.parameters()]
    for a, b in zip(gradients(found, by), gradients(expected, by), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


SCALES = [1e3, 1.0, 1e-3]


@pytest.mark.parametrize("scale", SCALES)
def test_layer_norm_is_the_module(scale: float):
    module = nn.LayerNorm(16).double()
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    inputs = scale * torch.randn(4, 3, 16, dtype=torch.float64)
    inputs[0, 0] = 5 * scale
    assert_like_module(module, lambda x: layer_norm(x, 16, module.weight, module.bias), inputs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_rms_norm_is_the_module(scale: float):
    module = nn.RMSNorm(16, eps=1e-6)
    nn.init.normal_(module.weight)
    inputs = scale * torch.randn(4, 3, 16)
    inputs[0, 0] = 0
    assert_like_module(module, lambda x: rms_norm(x, module.weight), inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("module", "shape"), [(nn.BatchNorm1d, (8, 5)), (nn.BatchNorm2d, (3, 5, 4, 2))])
def test_batch_norm_is_the_module_and_moves_its_statistics(module, shape: tuple[int, ...], scale: float):
    module = module(5, momentum=1.0).double()
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    inputs = scale * torch.randn(shape, dtype=torch.float64)
    inputs[:, 1] = 2 * scale
    assert_like_module(
        module, lambda x: batch_norm(x, module.weight, module.bias)[0], inputs, rtol=1e-9, atol=1e-9 / min(scale, 1)
    )
    _, mean, variance = batch_norm(inputs, module.weight, module.bias)
    count = inputs.numel() // 5
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(variance * count / (count - 1), module.running_var, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_bias_needs_no_weight(norm: str):
    inputs, bias = torch.randn(6, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    if norm == "layer":
        found, expected = layer_norm(inputs, 4, None, bias), nn.functional.layer_norm(inputs, (4,)) + bias
    else:
        found = batch_norm(inputs, None, bias)[0]
        expected = nn.functional.batch_norm(inputs, None, None, training=True) + bias
    torch.testing.assert_close(found, expected)
    for a, b in zip(gradients(found, (inputs, bias)), gradients(expected, (inputs, bias)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class Context:
    """What a layer-by-layer backward pass has in the place of autograd's context."""

    needs_input_grad = (True, True, True, False)

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


@pytest.mark.parametrize("function", [LayerNorm, BatchNorm])
def test_runs_without_autograd(function):
    arguments = (torch.randn(6, 4), torch.randn(4), torch.randn(4), 1e-5)
    cotangent, context = torch.randn(6, 4), Context()
    with torch.no_grad():
        outputs = function.forward(*arguments)
        function.setup_context(context, arguments, outputs)
        found = function.backward(context, cotangent)
    leaves = [a.requires_grad_() for a in arguments[:3]]
    if function is LayerNorm:
        expected = nn.functional.layer_norm(leaves[0], (4,), *leaves[1:])
    else:
        expected = nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    torch.testing.assert_close(outputs[0], expected)
    assert found[3] is None
    for a, b in zip(found, torch.autograd.grad(expected, leaves, cotangent), strict=False):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("used", [0, 1])
def test_either_output_of_the_residual_norm_may_go_unused(used: int):
    inputs, residual, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 4), (5, 4), (4,)))
    found = residual_rms_norm(inputs, residual, weight)[used]
    total = inputs + residual
    expected = (nn.functional.rms_norm(total, (4,), weight, 1e-6), total)[used]
    by = (inputs, residual, weight)
    ours = torch.autograd.grad(found.sum(), by, allow_unused=True)
    theirs = torch.autograd.grad(expected.sum(), by, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_statistics_of_half_precision_are_not_in_half_precision():
    """Sums of squares that float16 cannot hold."""
    inputs = (300 * torch.randn(4, 512)).half().requires_grad_()
    for output, truth in [
        (rms_norm(inputs), nn.functional.rms_norm(inputs.double(), (512,), eps=1e-6)),
        (layer_norm(inputs, 512), nn.functional.layer_norm(inputs.double(), (512,))),
        (batch_norm(inputs)[0], nn.functional.batch_norm(inputs.double(), None, None, training=True)),
    ]:
        assert output.dtype == torch.float16
        torch.testing.assert_close(output.double(), truth, rtol=1e-3, atol=1e-3)
        for a, b in zip(gradients(output, (inputs,)), gradients(truth, (inputs,)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_autocast_leaves_norms_in_their_inputs_type_on_cpu_as_torch_does():
    weight = torch.ones(8)
    for dtype in (torch.bfloat16, torch.float32):
        inputs = torch.randn(4, 8, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = nn.functional.layer_norm(inputs, (8,), weight, weight).dtype
            assert layer_norm(inputs, 8, weight, weight).dtype == expected
            assert rms_norm(inputs, weight).dtype == expected
            assert all(o.dtype == expected for o in residual_rms_norm(inputs, inputs, weight))
            assert batch_norm(inputs, weight, weight)[0].dtype == expected


@pytest.mark.parametrize("norm", ["rms_norm", "residual_rms_norm"])
def test_blocks_of_rows_add_up(norm: str, monkeypatch):
    """Five rows a block, the last one shorter; nothing is left out and nothing counted twice."""
    monkeypatch.setattr("framework.functions.compiled.BLOCK", {"cpu": 40})
    inputs, residual = (torch.randn(23, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    if norm == "rms_norm":
        found, expected = rms_norm(inputs, weight), nn.functional.rms_norm(inputs, (8,), weight, 1e-6)
        by = (inputs, weight)
    else:
        found, total = residual_rms_norm(inputs, residual, weight), inputs + residual
        expected, by = (nn.functional.rms_norm(total, (8,), weight, 1e-6), total), (inputs, residual, weight)
    assert len(list(row_blocks(inputs))) > 3
    for a, b in zip(gradients(found, by), gradients(expected, by), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_no_rows_at_all():
    inputs, weight = torch.zeros(0, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    assert rms_norm(inputs, weight).shape == (0, 8)
    assert gradients(rms_norm(inputs, weight), (inputs, weight))[1].tolist() == [0.0] * 8
    assert gradients(layer_norm(inputs, 8, weight), (inputs, weight))[1].tolist() == [0.0] * 8


@pytest.fixture
def compilations(monkeypatch):
    """The bodies handed to the compiler, each of which then fails as one without a compiler does."""
    handed = []

    def compile_nothing(body, **_):
        handed.append(body.__name__)

        def fail(*_):
            raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr("framework.functions.compiled._has_compiler", lambda _: True)
    monkeypatch.delenv("FRAMEWORK_FUSE", raising=False)
    return handed


def test_small_tensors_are_not_compiled_and_a_failed_compilation_is_survived(compilations):
    @fused
    def double(x):
        return 2 * x

    x = torch.ones(3)
    assert double(1000, x).tolist() == [2.0] * 3
    assert compilations == []
    with pytest.warns(UserWarning, match=r"double could not be compiled .* FRAMEWORK_FUSE=off silences this"):
        assert double(1 << 20, x).tolist() == [2.0] * 3
    assert double(1 << 20, x).tolist() == [2.0] * 3
    assert compilations == ["double"]


def test_fusing_is_switched_by_the_environment(compilations, monkeypatch):
    @fused
    def double(x):
        return 2 * x

    monkeypatch.setenv("FRAMEWORK_FUSE", "off")
    assert double(1 << 30, torch.ones(1)).item() == 2
    monkeypatch.setenv("FRAMEWORK_FUSE", "on")
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        double(1, torch.ones(1))
    monkeypatch.setenv("FRAMEWORK_FUSE", "yes")
    with pytest.raises(ValueError, match=r"FRAMEWORK_FUSE must be auto, on or off, got 'yes'\."):
        double(1, torch.ones(1))


def test_fused_bodies_compile_once_for_all_sizes(monkeypatch):
    """Really compiled, without the C++: two sizes, forward and backward, one compilation of each."""
    counted = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compile_for_real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda body, **options: compile_for_real(body, backend=counted, **options))
    monkeypatch.setenv("FRAMEWORK_FUSE", "on")
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    for rows in (5, 7):
        inputs, residual = (torch.randn(rows, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
        total = inputs + residual
        found = residual_rms_norm(inputs, residual, weight)
        expected = nn.functional.rms_norm(total, (8,), weight, 1e-6), total
        by = (inputs, residual, weight)
        for a, b in zip((*found, *gradients(found, by)), (*expected, *gradients(expected, by)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert counted.frame_count == 2
    torch.compiler.reset()


@pytest.mark.slow
def test_large_norms_are_fused_and_right(monkeypatch):
    """Through the C++ compiler, where there is one, by the rule that is the default."""
    monkeypatch.delenv("FRAMEWORK_FUSE", raising=False)
    inputs, residual = (torch.randn(1025, 1024, requires_grad=True) for _ in range(2))
    weight = torch.randn(1024, requires_grad=True)
    total = inputs + residual
    found = residual_rms_norm(inputs, residual, weight)
    expected = nn.functional.rms_norm(total, (1024,), weight, 1e-6), total
    by = (inputs, residual, weight)
    for a, b in zip((*found, *gradients(found, by)), (*expected, *gradients(expected, by)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rms_norm(torch.ones(2, 3), torch.ones(2)),
            r"rms_norm: inputs must be \(\.\.\., H\) .* \(2, 3\) and weight \(2,\)",
        ),
        (lambda: rms_norm(torch.tensor(1.0)), r"rms_norm: .* got inputs \(\) and no weight"),
        (
            lambda: residual_rms_norm(torch.ones(2, 3), torch.ones(3, 2)),
            r"residual_rms_norm: inputs and residual must have the same shape, got \(2, 3\) and \(3, 2\)",
        ),
        (lambda: layer_norm(torch.ones(2, 3), 4), r"layer_norm: .* got \(2, 3\) to be normalised over \(4,\)"),
        (lambda: layer_norm(torch.ones(2, 3), 3, torch.ones(2)), r"layer_norm: .* with parameters \[\(2,\)\]"),
        (lambda: batch_norm(torch.ones(3)), r"batch_norm: inputs must be \(N, C, \.\.\.\)"),
        (lambda: batch_norm(torch.ones(2, 3), torch.ones(2)), r"batch_norm: .* parameters \[\(2,\)\]"),
        (
            lambda: batch_norm(torch.ones(1, 3)),
            r"batch_norm: expected more than 1 value per channel, .* got inputs \(1, 3\): take a larger batch",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
