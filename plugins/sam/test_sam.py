"""SAM against a loop of torch's own operations, through the trainer."""

from collections.abc import Iterator

import pytest
import torch
from chainrule_sam import SAM
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from framework import ConfigError, Trainer, registry

ROWS, STEPS = 24, 5


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    return inputs, (inputs.sum(1) > 0).long()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def by_hand(model: nn.Module, rho: float, adaptive: bool) -> None:
    """Foret et al., algorithm 1 with p = 2, and Kwon et al., algorithm 1, over the whole set each step."""
    inputs, target = data()
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.2, momentum=0.9)
    for _ in range(STEPS):
        slopes = torch.autograd.grad(cross_entropy(model(inputs), target), weights)
        original = [w.detach().clone() for w in weights]
        scales = [w.abs() + 0.01 if adaptive else torch.ones_like(w) for w in original]
        size = sum((s * g).square().sum() for s, g in zip(scales, slopes, strict=True)).sqrt()
        for w, scale, slope in zip(weights, scales, slopes, strict=True):
            w.data.add_(rho * scale**2 * slope / size)
        optimizer.zero_grad()
        cross_entropy(model(inputs), target).backward()
        for w, value in zip(weights, original, strict=True):
            w.data.copy_(value)
        optimizer.step()


def fit(model: nn.Module, *regularizers: SAM, **settings) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    given = {"loss": nn.CrossEntropyLoss(), "max_steps": STEPS, "device": "cpu", **settings}
    trainer = Trainer(model, optimizer=optimizer, regularizers=regularizers, **given)
    trainer.fit(data(), batch_size=ROWS)
    return trainer


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_trains_as_the_published_loop_does(adaptive, accumulate):
    expected, ours = network(), network()
    by_hand(expected, 0.3, adaptive)
    fit(ours, SAM(rho=0.3, adaptive=adaptive), accumulate=accumulate)
    plain = network()
    fit(plain)
    for w, mine, without in zip(expected.parameters(), ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, w, rtol=0, atol=1e-10)
        assert (mine - without).abs().max() > 1e-3


def test_with_dropout_both_passes_draw_the_same():
    """With one linear layer and a quadratic loss, equal masks make the second gradient H ε away from the first."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).double()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.detach().clone()))
    trainer = Trainer(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        regularizers=[SAM(rho=0.1)],
        max_steps=1,
        device="cpu",
    )
    trainer.fit((data()[0], data()[0][:, :1]), batch_size=ROWS)
    in_training = [s for s in seen if (s == 0).any()]
    assert len(in_training) == 2
    assert torch.equal(*in_training)


@pytest.fixture
def params() -> Iterator[dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    made = {
        "w": nn.Parameter(torch.randn(4, 3)),
        "b": nn.Parameter(torch.randn(3)),
        "unused": nn.Parameter(torch.ones(2)),
    }
    for name in ("w", "b"):
        made[name].grad = torch.randn_like(made[name])
    return made


@pytest.mark.parametrize("adaptive", [False, True])
def test_reaches_rho_far_and_gives_the_weights_back_exactly(params, adaptive):
    before = {name: p.detach().clone() for name, p in params.items()}
    moved = {}

    def recompute() -> None:
        moved.update({name: p.detach() - before[name] for name, p in params.items()})

    SAM(rho=0.7, adaptive=adaptive).second_pass(params, recompute)
    assert all(torch.equal(p, before[name]) for name, p in params.items())
    scale = {name: before[name].abs() + 0.01 if adaptive else 1.0 for name in ("w", "b")}
    reach = sum((moved[name] / scale[name]).square().sum() for name in ("w", "b")).sqrt()
    torch.testing.assert_close(reach, torch.tensor(0.7), rtol=1e-4, atol=0)
    assert moved["unused"].tolist() == [0.0, 0.0]


def test_the_weights_are_given_back_when_the_second_pass_fails(params):
    before = {name: p.detach().clone() for name, p in params.items()}

    def recompute() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        SAM().second_pass(params, recompute)
    assert all(torch.equal(p, before[name]) for name, p in params.items())


def test_a_gradient_of_0_moves_nothing(params):
    for name in ("w", "b"):
        params[name].grad.zero_()
    before = {name: p.detach().clone() for name, p in params.items()}

    def recompute() -> None:
        assert all(torch.equal(p, before[name]) for name, p in params.items())

    SAM().second_pass(params, recompute)


def test_rho_0_takes_no_second_pass(params):
    def recompute() -> None:
        raise AssertionError("called")

    SAM(rho=0.0).second_pass(params, recompute)
    SAM().second_pass({"unused": params["unused"]}, recompute)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="regularizer 'sam': rho must be >= 0, got -1"):
        SAM(rho=-1.0)


def test_trains_digits():
    torch.manual_seed(0)
    digits = registry.build("data", "digits", {}, runtime={"seed": 0})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    metrics = {"accuracy": registry.build("metric", "accuracy", {}, runtime={"task": digits.task, "outputs": 10})}
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        regularizers=[SAM()],
        metrics=metrics,
        max_epochs=1,
        device="cpu",
    )
    assert trainer.fit(digits.train).status == "finished"
    assert trainer.evaluate(digits.test)["accuracy"] > 0.7
