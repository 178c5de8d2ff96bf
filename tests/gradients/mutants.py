"""Bugs of real backward passes, each small and beside its correct twin, for the checker to be judged by.

A mutant is made by `make(wrong)`: with False the same code is right. `bug` names the class, and the public report of
it where there is one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """What is checked: a function or module, its inputs, and what its outputs are reduced by."""

    subject: Callable[..., Any]
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    loss: Callable[..., Tensor] | None = None
    target: Any = None


@dataclass(frozen=True)
class Mutant:
    name: str
    bug: str
    make: Callable[[bool], Case]


MUTANTS: dict[str, Mutant] = {}


def mutant(bug: str):
    def file(make: Callable[[bool], Case]):
        name = make.__name__
        MUTANTS[name] = Mutant(name, bug, make)
        return make

    return file


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).requires_grad_()


def classes(rows: int, count: int) -> Tensor:
    return torch.arange(rows) % count


def keep_inputs(ctx, inputs, output):
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))


def keep_output(ctx, inputs, output):
    ctx.save_for_backward(output)


def made(forward, save, backward, **attributes):
    """Return the apply of a Function with these bodies."""
    bodies = {"forward": forward, "setup_context": save, "backward": backward}
    members = {name: staticmethod(body) for name, body in bodies.items()}
    return type("Made", (Function,), {"generate_vmap_rule": True, **members, **attributes}).apply


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def one_hot(target: Tensor, like: Tensor) -> Tensor:
    return functional.one_hot(target.clamp(min=0), like.shape[-1]).to(like.dtype)


# the incoming gradient


@mutant("loss ignores the incoming gradient (torchtitan, modded-nanogpt)")
def ignored_gradient(wrong):
    def backward(ctx, g):
        prediction, target = ctx.saved_tensors
        slope = 2 * (prediction - target) / prediction.numel()
        return (slope if wrong else g * slope), None

    mse = made(lambda p, t: (p - t).square().mean(), keep_inputs, backward)
    due = draw(5, 3, seed=1).detach()
    return Case(lambda p: mse(p, due.to(p.dtype)), (draw(5, 3),))


@mutant("the same inside a module whose loss sends 1 (torchtitan)")
def ignored_gradient_in_a_loss(wrong):
    def backward(ctx, g):
        (logits,) = ctx.saved_tensors
        slope = logits / logits.numel()
        return slope if wrong else g * slope

    energy = made(lambda x: x.square().mean() / 2, keep_inputs, backward)
    torch.manual_seed(0)
    return Case(nn.Linear(4, 3), (draw(5, 4),), loss=energy)


@mutant("grad_output[0] stands for all rows (Liger 968, 1298)")
def first_element(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        slope = probabilities(logits) - one_hot(target, logits)
        return (g[0] if wrong else g[:, None]) * slope, None

    rows = made(lambda x, t: functional.cross_entropy(x, t, reduction="none"), keep_inputs, backward)
    return Case(rows, (draw(6, 4), classes(6, 4)))


@mutant("assumes that the incoming gradient is contiguous (unsloth 10617)")
def contiguous_gradient(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        if wrong and torch._C._functorch.maybe_get_level(g) < 0:
            strides = torch.empty(g.shape, device="meta").stride()
            g = g.as_strided(g.shape, [min(s, g.untyped_storage().nbytes()) * (g.stride(-1) != 0) for s in strides])
        return g * 2 * x

    return Case(made(lambda x: x.square(), keep_inputs, backward), (draw(4, 5),))


@mutant("reads a gradient of stride 0 as memory of its own")
def expanded_gradient(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        if wrong and torch._C._functorch.maybe_get_level(g) < 0 and not any(g.stride()):
            g = torch.cat((g.flatten()[:1], torch.zeros_like(g).flatten()[1:])).view(g.shape)
        return g * x.cos()

    return Case(made(lambda x: x.sin(), keep_inputs, backward), (draw(4, 5),))


@mutant("writes to grad_output (Liger Gemma 2, 370)")
def writes_to_gradient(wrong):
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g.mul_(1 - y * y) if wrong and not torch.is_grad_enabled() else g * (1 - y * y)

    return Case(made(lambda x: x.tanh(), keep_output, backward), (draw(4, 5),))


@mutant("fails on the None of an output that nobody used")
def none_gradient(wrong):
    def save(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0])

    def backward(ctx, g, h):
        (x,) = ctx.saved_tensors
        if wrong:
            return g * x.cos() - h * x.sin()
        parts = [p for p in (None if g is None else g * x.cos(), None if h is None else -h * x.sin()) if p is not None]
        return sum(parts) if parts else None

    return Case(made(lambda x: (x.sin(), x.cos()), save, backward), (draw(6),))


@mutant("the gradient of a second output is dropped: residual and norm (QuACK 53)")
def dropped_residual(wrong):
    def backward(ctx, g, of_sum):
        (s,) = ctx.saved_tensors
        slope = g * (1 - s.tanh().square()) + (0 if wrong else of_sum)
        return slope, slope

    def forward(x, r):
        return (x + r).tanh(), x + r

    def save(ctx, inputs, output):
        ctx.save_for_backward(output[1])

    return Case(made(forward, save, backward), (draw(3, 4), draw(3, 4, seed=1)))


@mutant("derived for what one loss sends: log-softmax before the mean of a negative log-likelihood")
def derived_for_one_loss(wrong):
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g + y.exp() / len(y) if wrong else g - y.exp() * g.sum(-1, keepdim=True)

    log_softmax = made(lambda x: x.log_softmax(-1), keep_output, backward)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return log_softmax(self.layer(x))

    torch.manual_seed(0)
    return Case(Classifier(), (draw(5, 4),), loss=nn.NLLLoss(), target=classes(5, 3))


# missing gradients


@mutant("detached between two layers")
def detached(wrong):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            h = self.first(x).tanh()
            return self.second(h.detach() if wrong else h)

    torch.manual_seed(0)
    return Case(Cut(), (draw(6, 4),))


@mutant("None for the weight of a norm, which never trains (unsloth 4533)")
def untrained_weight(wrong):
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, None if wrong else (g * x).sum(0)

    return Case(made(lambda x, w: x * w, keep_inputs, backward), (draw(5, 4), draw(4, seed=1)))


@mutant("needs_input_grad of the neighbour is asked")
def misplaced_need(wrong):
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        g = g.to(x.dtype)
        of_x, of_w = ctx.needs_input_grad[::-1] if wrong else ctx.needs_input_grad
        return g @ w if of_x else None, g.t() @ x if of_w else None

    return Case(made(lambda x, w: x @ w.t(), keep_inputs, backward), (draw(5, 4), draw(3, 4, seed=1)))


@mutant("repeated indices overwrite each other in the gradient of an embedding")
def overwritten_rows(wrong):
    def backward(ctx, g):
        table, index = ctx.saved_tensors
        empty = torch.zeros_like(table)
        return empty.index_put((index,), g, accumulate=not wrong), None

    lookup = made(lambda table, index: table[index], keep_inputs, backward)
    return Case(lookup, (draw(4, 3), torch.tensor([0, 2, 2, 1, 2])))


# scale and reduction


@mutant("divides by all rows where only those count that are not ignored")
def wrong_denominator(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        valid = target != -100
        count = len(target) if wrong else valid.sum().clamp(min=1)
        return g * (probabilities(logits) - one_hot(target, logits)) * valid[:, None] / count, None

    def forward(logits, target):
        rows = functional.cross_entropy(logits, target, reduction="sum", ignore_index=-100)
        return rows / (target != -100).sum().clamp(min=1)

    target = classes(6, 4).masked_fill(torch.arange(6) == 2, -100)
    return Case(made(forward, keep_inputs, backward), (draw(6, 4), target))


@mutant("a mean whose gradient is that of a sum")
def sum_for_mean(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.sign() / (1 if wrong else x.numel())

    return Case(made(lambda x: x.abs().mean(), keep_inputs, backward), (draw(4, 5),))


@mutant("0.09 % too large: a constant with three digits")
def constant_with_three_digits(wrong):
    root = 0.7986 if wrong else math.sqrt(2 / math.pi)

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * root * x.cos()

    return Case(made(lambda x: math.sqrt(2 / math.pi) * x.sin(), keep_inputs, backward), (draw(4, 5),))


@mutant("0.01 % too large")
def slightly_too_large(wrong):
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        g = g.to(x.dtype)
        return (1.0001 if wrong else 1.0) * (g @ w), g.t() @ x

    return Case(made(lambda x, w: x @ w.t(), keep_inputs, backward), (draw(5, 4), draw(3, 4, seed=1)))


@mutant("ε of a norm is dropped in backward")
def dropped_epsilon(wrong):
    def root(x, epsilon):
        return (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        r = root(x, 0 if wrong else 1e-5)
        return r * (g - x * r * r * (g * x).mean(-1, keepdim=True))

    return Case(made(lambda x: x * root(x, 1e-5), keep_inputs, backward), (draw(4, 5),))


@mutant("the gradient of a norm's input lacks the term of the scale")
def missing_projection(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        r = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return r * (g - (0 if wrong else 1) * x * r * r * (g * x).mean(-1, keepdim=True))

    norm = made(lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt(), keep_inputs, backward)
    return Case(norm, (draw(4, 5),))


@mutant("label smoothing in the value only")
def smoothing_in_value_only(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        smoothing = 0.0 if wrong else 0.1
        due = (1 - smoothing) * one_hot(target, logits) + smoothing / logits.shape[-1]
        return g * (probabilities(logits) - due) / len(logits), None

    smoothed = made(lambda x, t: functional.cross_entropy(x, t, label_smoothing=0.1), keep_inputs, backward)
    return Case(smoothed, (draw(6, 4), classes(6, 4)))


@mutant("the factor 1 − (z/c)² of a soft cap is missing")
def missing_softcap(wrong):
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g if wrong else g * (1 - (y / 5).square())

    return Case(made(lambda x: 5 * (x / 5).tanh(), keep_output, backward), (draw(4, 5),))


@mutant("distillation without a factor of the temperature")
def missing_temperature(wrong):
    def backward(ctx, g):
        student, teacher = ctx.saved_tensors
        slope = (student / 2).softmax(-1) - (teacher / 2).softmax(-1)
        return g * slope * (4 if wrong else 2) / len(student), None

    def forward(student, teacher):
        log_p, log_q = (x.div(2).log_softmax(-1) for x in (student, teacher))
        return 4 * (log_q.exp() * (log_q - log_p)).sum() / len(student)

    distill = made(forward, keep_inputs, backward)
    teacher = draw(5, 4, seed=1).detach()
    return Case(lambda s: distill(s, teacher.to(s.dtype)), (draw(5, 4),))


@mutant("the last rows of an incomplete tile get no gradient")
def tail_of_a_tile(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = g * x.cos()
        rows = torch.arange(len(x)) < len(x) - len(x) % 4
        return slope * rows[:, None] if wrong else slope

    return Case(made(lambda x: x.sin(), keep_inputs, backward), (draw(6, 3),))


@mutant("W in the place of Wᵀ, of a square matrix")
def transposed_weight(wrong):
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        g = g.to(x.dtype)
        return g @ (w.t() if wrong else w), g.t() @ x

    return Case(made(lambda x, w: x @ w.t(), keep_inputs, backward), (draw(5, 4), draw(4, 4, seed=1)))


# extreme values


@mutant("GELU without its tail: 0 for x < −3")
def missing_tail(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * (-x * x / 2).exp() / math.sqrt(2 * math.pi)
        return g * (slope.masked_fill(x < -3, 0.0) if wrong else slope)

    return Case(made(lambda x: functional.gelu(x), keep_inputs, backward), (draw(4, 5),))


@mutant("p − 1 from a p that was rounded to bfloat16")
def rounded_probability(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        p = probabilities(logits)
        return g * ((p.bfloat16().double() if wrong else p) - one_hot(target, logits)) / len(p), None

    loss = made(lambda x, t: functional.cross_entropy(x, t), keep_inputs, backward)
    return Case(loss, (draw(6, 4), classes(6, 4)))


@mutant("100 % wrong where p > 0.999, which randn never reaches (Liger 1329)")
def wrong_when_certain(wrong):
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        p = z.sigmoid()
        return g * (p.clamp(max=0.999) - 1 if wrong else p - 1) / z.numel()

    loss = made(lambda z: functional.softplus(-z).mean(), keep_inputs, backward)
    return Case(loss, (draw(8) * 0.5,))


@mutant("sigmoid then cross-entropy: p (1 − p) + ε is divided by (sigmoid and BCE apart)")
def epsilon_in_a_division(wrong):
    def backward(ctx, g):
        z, t = ctx.saved_tensors
        p = z.sigmoid()
        rest = p * (1 - p)
        return g * (rest * (p - t) / (rest + 1e-12) if wrong else p - t) / z.numel(), None

    loss = made(lambda z, t: functional.binary_cross_entropy_with_logits(z, t), keep_inputs, backward)
    return Case(lambda z: loss(z, (torch.arange(8) % 2).to(z.dtype)), (draw(8),))


@mutant("softmax without the shift by the maximum: ∞/∞")
def unshifted_softmax(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        p = logits.exp() / logits.exp().sum(-1, keepdim=True) if wrong else probabilities(logits)
        return g * (p - one_hot(target, logits)) / len(logits), None

    loss = made(lambda x, t: functional.cross_entropy(x, t), keep_inputs, backward)
    return Case(loss, (draw(6, 4), classes(6, 4)))


@mutant("the input's sign from the output, of a leaky ReLU of negative slope (pytorch 31938)")
def sign_from_output(wrong):
    def save(ctx, inputs, output):
        ctx.save_for_backward(output if wrong else inputs[0])

    def backward(ctx, g):
        (kept,) = ctx.saved_tensors
        return torch.where(kept > 0, g, -0.2 * g)

    return Case(made(lambda x: torch.where(x > 0, x, -0.2 * x), save, backward), (draw(4, 5),))


@mutant("the input from the output by division, of a slope that may be 0 (inplace_abn 15)")
def inverted_zero(wrong):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, 0.0, 2.0], dtype=DOUBLE))

        def forward(self, x):
            def save(ctx, inputs, output):
                ctx.save_for_backward(output if wrong else inputs[0], inputs[1])

            def backward(ctx, g):
                kept, w = ctx.saved_tensors
                return g * w, (g * (kept / w if wrong else kept)).sum(0)

            return made(lambda x, w: x * w, save, backward)(x, self.weight)

    return Case(Scale(), (draw(4, 3),))


# rows that must not count


@mutant("0/0 where every target is ignored (torch 2.13, linear_cross_entropy)")
def nothing_to_count(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        valid = target != -100
        count = valid.sum() if wrong else valid.sum().clamp(min=1)
        return g * (probabilities(logits) - one_hot(target, logits)) * valid[:, None] / count, None, None

    def forward(logits, target, ignore_index):
        valid = target != ignore_index
        return functional.cross_entropy(logits, target, reduction="sum") / valid.sum().clamp(min=1)

    inner = made(forward, keep_inputs, backward)

    def loss(logits, target, ignore_index=-100):
        return inner(logits, target, ignore_index)

    return Case(loss, (draw(6, 4), classes(6, 4)))


@mutant("ignored rows get a gradient, as padding of a vocabulary did (unsloth 10616)")
def padding_counts(wrong):
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        valid = target != -100
        slope = probabilities(logits) - one_hot(target, logits)
        return g * slope * (1 if wrong else valid[:, None]) / valid.sum().clamp(min=1), None

    def forward(logits, target):
        return functional.cross_entropy(logits, target, reduction="sum") / (target != -100).sum().clamp(min=1)

    inner = made(forward, keep_inputs, backward)

    def loss(logits, target, ignore_index=-100):
        return inner(logits, target)

    return Case(loss, (draw(6, 4), classes(6, 4)))


@mutant("a loss that counts rows, of a mean over the targets that are not ignored")
def miscounted_rows(wrong):
    class TokenLoss(nn.Module):
        ignore_index = -100

        def forward(self, prediction, target):
            return functional.cross_entropy(prediction.flatten(0, 1), target.flatten(), reduction="sum") / (
                (target != -100).sum().clamp(min=1)
            )

        def weight(self, target):
            return len(target) if wrong else (target != -100).sum()

    target = torch.tensor([[0, 1, -100], [2, -100, -100], [1, 1, 0], [2, 0, 1]])
    torch.manual_seed(0)
    return Case(nn.Linear(5, 3), (draw(4, 3, 5),), loss=TokenLoss(), target=target)


# state, memory and randomness


@mutant("writes to a saved tensor: a second backward differs (unsloth 5002)")
def writes_to_saved(wrong):
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return y.data.mul_(g) if wrong and not torch.is_grad_enabled() else g * y

    return Case(made(lambda x: x.exp(), keep_output, backward), (draw(4, 5),))


@mutant("what backward needs is kept outside ctx")
def state_outside(wrong):
    state = {}

    def save(ctx, inputs, output):
        state["x"] = inputs[0]
        ctx.save_for_backward(inputs[0])

    def backward(ctx, g):
        return g * (state["x"] if wrong else ctx.saved_tensors[0]).cos()

    return Case(made(lambda x: x.sin(), save, backward), (draw(4, 5),))


@mutant("ctx.x = x: an input that is overwritten goes unnoticed")
def saved_as_attribute(wrong):
    def save(ctx, inputs, output):
        if wrong:
            ctx.x = inputs[0]
        else:
            ctx.save_for_backward(inputs[0])

    def backward(ctx, g):
        return g * 2 * (ctx.x if wrong else ctx.saved_tensors[0])

    return Case(made(lambda x: x.square(), save, backward), (draw(4, 5),))


@mutant("dropout draws another mask in backward")
def fresh_mask(wrong):
    def forward(x):
        mask = (torch.rand_like(x) < 0.5).to(x.dtype)
        return x * mask * 2, mask

    def save(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    def backward(ctx, g, _):
        (mask,) = ctx.saved_tensors
        return g * 2 * ((torch.rand_like(g) < 0.5).to(g.dtype) if wrong else mask)

    drop = made(forward, save, backward)

    def dropout(x):
        torch.manual_seed(1)
        return drop(x)[0]

    return Case(dropout, (draw(4, 5),))


@mutant("reads its input as if it were contiguous (unsloth 10617: 254 of 472 layouts)")
def contiguous_input(wrong):
    def flat(x):
        if not wrong or torch._C._functorch.maybe_get_level(x) >= 0 or torch.compiler.is_compiling():
            return x
        return x.as_strided(x.shape, (x.shape[1], 1))

    def backward(ctx, g):
        return g * flat(ctx.saved_tensors[0]).cos()

    return Case(made(lambda x: x.sin(), keep_inputs, backward), (draw(4, 5),))


@mutant("a write between two layers under no_grad")
def written_between(wrong):
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            h = self.first(x).tanh()
            if wrong:
                h.data.mul_(0.5)
                return self.second(h)
            return self.second(h * 0.5)

    torch.manual_seed(0)
    return Case(Clipped(), (draw(6, 4),))


@mutant("the value is 0 without a graph (Liger 507)")
def zero_without_graph(wrong):
    def loss(x):
        if wrong and not torch.is_grad_enabled():
            return (x * 0).mean()
        return x.square().mean()

    return Case(loss, (draw(4, 5),))


# what is around


@mutant("a constant under create_graph=True, without an exception (once_differentiable)")
def once_only(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * (x.detach() if wrong else x).square()

    return Case(made(lambda x: x**3, keep_inputs, backward), (draw(4, 5),))


@mutant("a detached result in the second derivative")
def half_of_the_second_derivative(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        y = x.tanh()
        return g * (1 - y * (y.detach() if wrong else y))

    return Case(made(lambda x: x.tanh(), keep_inputs, backward), (draw(4, 5),))


@mutant("the weight's gradient is summed in bfloat16 (Liger 950)")
def summed_in_bfloat16(wrong):
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        g = g.to(x.dtype)
        of_w = (g.bfloat16().t() @ x.bfloat16()).to(w.dtype) if wrong else g.t() @ x
        return g @ w, of_w

    return Case(made(lambda x, w: x @ w.t(), keep_inputs, backward), (draw(5, 4), draw(3, 4, seed=1)))


@mutant("mixes types under autocast")
def mixed_types(wrong):
    def forward(x, w):
        return (x.bfloat16() @ w.t().bfloat16()) if torch.is_autocast_enabled("cpu") else x @ w.t()

    def backward(ctx, g):
        x, w = ctx.saved_tensors
        if wrong:
            return torch.mm(g.contiguous(), w), torch.mm(g.t(), x)
        return torch.mm(g.to(w.dtype), w), torch.mm(g.to(x.dtype).t(), x)

    return Case(made(forward, keep_inputs, backward), (draw(5, 4), draw(3, 4, seed=1)))


@mutant("another formula where torch.compile looks")
def another_path_compiled(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x if wrong and torch.compiler.is_compiling() else 2 * x)

    return Case(made(lambda x: x.square(), keep_inputs, backward), (draw(4, 5),))


@mutant("a vmap rule that forgets which dimension is the batch's")
def wrong_vmap_rule(wrong):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 2 * x / x.shape[-1]

    def forward(x):
        return x.square().mean(-1)

    def vmap(info, in_dims, x):
        moved = x.movedim(in_dims[0], 0)
        return (apply(moved).sum(0) / len(moved), None) if wrong else (apply(moved), 0)

    apply = made(forward, keep_inputs, backward, generate_vmap_rule=False, vmap=staticmethod(vmap))
    return Case(apply, (draw(5),))


@mutant("another function when forward is run again, by a counter of calls")
def counts_its_calls(wrong):
    class Warming(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 3), 0

        def forward(self, x):
            self.calls += wrong
            return self.layer(x) * (1 + 0.1 * self.calls)

    torch.manual_seed(0)
    return Case(Warming(), (draw(5, 4),))
