"""Every hand-written function, held to what it states of itself."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from framework.functions import FUNCTIONS, Call
from framework.gradients.numerical import derivative

EXAMPLES = [
    (name, example) for name, entry in FUNCTIONS.items() for example in entry.examples(torch.Generator().manual_seed(0))
]
each_example = pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=lambda p: str(p).replace(" ", "_"))
each_function = pytest.mark.parametrize("name", FUNCTIONS)
SEED = 7


def make(name: str, example: str) -> Call:
    return FUNCTIONS[name].examples(torch.Generator().manual_seed(0))[example]


def leaves(call: Call) -> list[torch.Tensor]:
    return [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, torch.Tensor) and a.requires_grad]


def replaced(call: Call, values) -> Call:
    rest = iter(values)

    def new(argument):
        return next(rest) if isinstance(argument, torch.Tensor) and argument.requires_grad else argument

    return Call(tuple(map(new, call.args)), {k: new(v) for k, v in call.kwargs.items()})


def scalar(function, call: Call):
    """Return the sum of the function's outputs, each weighed by fixed random numbers; what it draws is fixed too."""
    return weighed(outputs_of(function, call))


def outputs_of(function, call: Call) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(SEED)
    outputs = function(*call.args, **call.kwargs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def weighed(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    return sum((o.double() * w.double()).sum() for o, w in zip(outputs, weights, strict=True))


def value_and_gradients(function, call: Call):
    value = scalar(function, call)
    return [value.detach(), *torch.autograd.grad(value, leaves(call))]


@each_example
def test_equals_torch_to_1e_12(name: str, example: str):
    entry, call = FUNCTIONS[name], make(name, example)
    ours = value_and_gradients(entry.call, call)
    theirs = value_and_gradients(entry.reference, call)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@each_example
def test_is_the_derivative_to_1e_8(name: str, example: str):
    """Along a random direction; a surrogate is held to the function that it is the derivative of."""
    entry, call = FUNCTIONS[name], make(name, example)
    _, *gradients = value_and_gradients(entry.call, call)
    stated = entry.surrogate or entry.call
    for position, (leaf, gradient) in enumerate(zip(leaves(call), gradients, strict=True)):
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        direction /= direction.norm()

        def value_at(t: float, position=position, direction=direction) -> float:
            moved = [x.detach() for x in leaves(call)]
            moved[position] = moved[position] + t * direction
            with torch.no_grad():
                return scalar(stated, replaced(call, moved)).item()

        numeric = derivative(value_at, 1e-3)
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-8, abs=1e-8)


@each_example
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_low_precision_is_as_good_as_torch(name: str, example: str, dtype: torch.dtype):
    """Error against float64 of the same rounded inputs: at most twice that of torch's operations in the same type."""
    entry, call = FUNCTIONS[name], make(name, example)
    low = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves(call)]
    high = [leaf.detach().double().requires_grad_() for leaf in low]
    constants = [a for a in call.args if isinstance(a, torch.Tensor) and a.is_floating_point() and not a.requires_grad]

    def narrowed(values):
        changed = replaced(call, values)
        return Call(
            tuple(a.to(values[0].dtype) if any(a is c for c in constants) else a for a in changed.args), changed.kwargs
        )

    def outputs_and_gradients(function, call: Call):
        outputs = outputs_of(function, call)
        return [*(o.detach() for o in outputs), *torch.autograd.grad(weighed(outputs), leaves(call))]

    exact = outputs_and_gradients(entry.reference, narrowed(high))
    ours = outputs_and_gradients(entry.call, narrowed(low))
    theirs = outputs_and_gradients(entry.reference, narrowed(low))
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        error, bound = (a.double() - truth).norm(), (b.double() - truth).norm()
        # half a unit in the last place of a number of this size is what rounding the result alone may take
        assert error <= 2 * bound + 0.5 * torch.finfo(dtype).eps * truth.norm()


@each_example
def test_differentiates_twice(name: str, example: str):
    entry, call = FUNCTIONS[name], make(name, example)
    if not entry.twice:
        pytest.skip(f"{name} states that it cannot be differentiated twice")

    def function(*values):
        torch.manual_seed(SEED)
        return entry.call(*(changed := replaced(call, values)).args, **changed.kwargs)

    def curvature(formula):
        value = scalar(formula, call)
        gradients = torch.autograd.grad(value, leaves(call), create_graph=True)
        weights = [torch.cos(torch.arange(g.numel(), dtype=torch.float64)).view_as(g) for g in gradients]
        total = sum((g * w).sum() for g, w in zip(gradients, weights, strict=True))
        if not total.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves(call)]
        return torch.autograd.grad(total, leaves(call), allow_unused=True, materialize_grads=True)

    for ours, theirs in zip(curvature(entry.call), curvature(entry.reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    if entry.nature == "exact":
        torch.autograd.gradgradcheck(function, leaves(call), rtol=1e-5, atol=1e-7)


@each_example
def test_compiles_as_one_graph(name: str, example: str):
    entry, call = FUNCTIONS[name], make(name, example)
    compiled = torch.compile(entry.call, backend="aot_eager_decomp_partition", fullgraph=True)
    for a, b in zip(value_and_gradients(compiled, call), value_and_gradients(entry.call, call), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.compiler.reset()


@each_example
def test_inside_torch_func(name: str, example: str):
    """vmap(grad) over three copies of the arguments equals the gradient of each."""
    entry, call = FUNCTIONS[name], make(name, example)
    copies = [[leaf.detach() * scale for leaf in leaves(call)] for scale in (1.0, 0.5, 0.75)]

    def value(*values):
        return scalar(entry.call, replaced(call, values))

    batched = [torch.stack(parts) for parts in zip(*copies, strict=True)]
    places = tuple(range(len(batched)))
    ours = torch.func.vmap(torch.func.grad(value, places), randomness="same")(*batched)
    for i, values in enumerate(copies):
        own = [v.clone().requires_grad_() for v in values]
        expected = torch.autograd.grad(scalar(entry.reference, replaced(call, own)), own)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-10, atol=1e-10)


@each_example
def test_gradients_only_where_they_are_needed(name: str, example: str):
    entry, call = FUNCTIONS[name], make(name, example)
    _, *gradients = value_and_gradients(entry.call, call)
    for position, gradient in enumerate(gradients):
        values = [leaf.detach() for leaf in leaves(call)]
        values[position] = values[position].requires_grad_()
        alone = torch.autograd.grad(scalar(entry.call, replaced(call, values)), values[position])[0]
        torch.testing.assert_close(alone, gradient, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(scalar(entry.call, call), scalar(entry.reference, call), rtol=1e-12, atol=1e-12)


@each_example
def test_twice_and_again(name: str, example: str):
    """Used twice in one graph, and backward called twice on it, with cotangents and inputs left as they were."""
    entry, call = FUNCTIONS[name], make(name, example)
    _, *single = value_and_gradients(entry.call, call)
    before = [leaf.detach().clone() for leaf in leaves(call)]
    torch.manual_seed(SEED)
    outputs = entry.call(*call.args, **call.kwargs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in outputs]
    kept = [c.clone() for c in cotangents]
    first = torch.autograd.grad(outputs, leaves(call), cotangents, retain_graph=True)
    first = [g.clone() for g in first]
    second = torch.autograd.grad(outputs, leaves(call), [3 * c for c in cotangents])
    for a, b, c in zip(first, second, single, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b, 3 * c, rtol=1e-12, atol=1e-11)
    assert all(torch.equal(a, b) for a, b in zip(cotangents, kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(call), before, strict=True))
    double = torch.autograd.grad(scalar(entry.call, call) + scalar(entry.call, call), leaves(call))
    for a, c in zip(double, single, strict=True):
        torch.testing.assert_close(a, 2 * c, rtol=1e-12, atol=1e-11)


def saved(function, call: Call) -> int:
    """Return the bytes of the storages that are kept for backward, parameters not counted."""
    parameters = {a.untyped_storage().data_ptr() for a in call.args if isinstance(a, nn.Parameter)}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda t: t):
        function(*call.args, **call.kwargs)
    return sum(found.values())


@each_function
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_keeps_what_it_declares(name: str, how: str):
    entry = FUNCTIONS[name]
    call, elements = entry.large(torch.Generator().manual_seed(0))
    function = entry.call
    if how == "compiled":
        function = torch.compile(function, backend="aot_eager_decomp_partition", fullgraph=True)
    kept = saved(function, call) / elements
    torch.compiler.reset()
    assert kept <= 1.05 * entry.saved_bytes + 0.1, f"{name} keeps {kept:.2f} bytes an element"
    if how == "eager":
        assert kept >= 0.9 * entry.saved_bytes - 0.1, f"{name} declares more than the {kept:.2f} that it keeps"
