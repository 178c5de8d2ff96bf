"""What reaches outside a plain step: other objectives, second passes, weights of their own to evaluate."""

from collections.abc import Callable, Mapping

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from framework import Callback, ConfigError, Regularizer, Trainer
from framework.distributed import Ranks
from framework.losses.weighing import announce_cut
from framework.regularizers import L2


def data(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long()


def model(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 2)]
    return nn.Sequential(*layers).double()


def fit(network: nn.Module, *regularizers: Regularizer, **settings) -> Trainer:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    settings = {"max_steps": 3, "device": "cpu", "loss": nn.CrossEntropyLoss(), **settings}
    trainer = Trainer(network, optimizer=optimizer, regularizers=regularizers, **settings)
    trainer.fit(data(), batch_size=24)
    return trainer


class Uphill(Regularizer):
    """The gradient from a point a fixed step up the slope."""

    def second_pass(self, params: Mapping[str, nn.Parameter], recompute: Callable[[], None]) -> None:
        before = {name: p.clone() for name, p in params.items()}
        for p in params.values():
            p.add_(0.05 * p.grad)
        recompute()
        for name, p in params.items():
            p.copy_(before[name])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_second_pass_takes_the_gradient_elsewhere(accumulate):
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs, target = data()
    weights = list(expected.parameters())
    for _ in range(3):
        slope = torch.autograd.grad(F.cross_entropy(expected(inputs), target), weights)
        with torch.no_grad():
            moved = [(w + 0.05 * g).requires_grad_() for w, g in zip(weights, slope, strict=True)]
        there = dict(zip(dict(expected.named_parameters()), moved, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(expected, there, (inputs,)), target)
        gradients = torch.autograd.grad(loss + 0.01 * sum(w.square().sum() for w in weights), [*moved, *weights])
        with torch.no_grad():
            for place, w in enumerate(weights):
                w -= 0.1 * (gradients[place] + gradients[place + len(weights)])
    fit(ours, Uphill(), L2(strength=0.01, exempt=False), accumulate=accumulate)
    for ours_, expected_ in zip(ours.parameters(), weights, strict=True):
        torch.testing.assert_close(ours_, expected_, rtol=0, atol=1e-10)


class Again(Regularizer):
    """Computes the gradients again where they were."""

    def second_pass(self, params: Mapping[str, nn.Parameter], recompute: Callable[[], None]) -> None:
        self.first = {name: p.grad.clone() for name, p in params.items()}
        recompute()
        assert all(torch.equal(p.grad, self.first[name]) for name, p in params.items())


def test_a_second_pass_draws_the_same_and_leaves_the_statistics_alone():
    once, twice = model(dropout=0.5), model(dropout=0.5)
    fit(once)
    fit(twice, Again())
    for (name, one), two in zip(once.state_dict().items(), twice.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


class Doubled(Regularizer):
    """Minimises twice the loss."""

    def objective(self, objective):
        def doubled(network, batch):
            mean, weight, outputs = objective(network, batch)
            return 2 * mean, weight, outputs

        return doubled


def test_an_objective_is_trained_on_and_evaluation_keeps_its_own():
    once, twice = model(), model()
    alone = fit(once, max_steps=1)
    double = fit(twice, Doubled(), max_steps=1)
    start = model()
    for first, one, two in zip(start.parameters(), once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(two - first, 2 * (one - first))
    assert double.history[0].scores["loss/train"] == pytest.approx(2 * alone.history[0].scores["loss/train"])
    assert double.evaluate(data())["loss"] == pytest.approx(F.cross_entropy(twice.eval()(data()[0]), data()[1]).item())


class Mean(Callback):
    """The mean of the weights after every step, from the first on."""

    every_rank = True

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def on_step_end(self, trainer) -> None:
        self.count += 1
        for name, p in trainer.model.named_parameters():
            self.sums[name] = self.sums.get(name, 0) + p.detach()

    def evaluation_weights(self, trainer) -> dict[str, Tensor]:
        return {name: total / self.count for name, total in self.sums.items()}


class Trace(Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_step_end(self, trainer) -> None:
        self.steps.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})


@pytest.mark.parametrize("in_folder", [True, False])
def test_weights_to_evaluate_are_scored_saved_and_restored_and_training_goes_on_from_the_trained(tmp_path, in_folder):
    plain, averaged = Trace(), Trace()
    folder = {"directory": tmp_path / "run"} if in_folder else {}
    optimizer_steps = {"max_steps": None, "max_epochs": 4}
    fit(model(), callbacks=[plain], **optimizer_steps)
    trainer = fit(model(), callbacks=[averaged, Mean()], evaluate_every=4, **optimizer_steps, **folder)
    for one, two in zip(plain.steps, averaged.steps, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    for name, p in trainer.model.named_parameters():
        mean = torch.stack([step[name] for step in plain.steps]).mean(0)
        torch.testing.assert_close(p.detach(), mean)
        if in_folder:
            assert torch.equal(load_file(tmp_path / "run" / "best" / "model.safetensors")[name], p)


class Ahead(torch.optim.SGD):
    """SGD evaluated at twice its weights."""

    def evaluation_weights(self) -> dict[Tensor, Tensor]:
        return {p: 2 * p for group in self.param_groups for p in group["params"]}


def test_an_optimizer_has_weights_to_evaluate():
    network, expected = model(), model()
    optimizer = Ahead(network.parameters(), lr=0.1)
    settings = {"loss": nn.CrossEntropyLoss(), "max_steps": 3, "evaluate_every": 3, "device": "cpu"}
    trainer = Trainer(network, optimizer=optimizer, **settings)
    trainer.fit(data(), data(), batch_size=24)
    fit(expected)
    scored = trainer.history[0].scores["loss/val"]
    for p in expected.parameters():
        p.data.mul_(2)
    assert scored == pytest.approx(F.cross_entropy(expected.eval()(data()[0]), data()[1]).item())
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Given(Callback):
    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def evaluation_weights(self, trainer) -> dict[str, Tensor]:
        return self.weights


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Given({"0.weigth": torch.zeros(5, 3)})], "Given: '0.weigth' is not among the model's weights: did you mean"),
        ([Given({"0.weight": torch.zeros(3, 5)})], r"weights of '0.weight' must be \(5, 3\), got \(3, 5\)"),
        ([Given({}), Given({})], "Given and Given each have weights of their own to evaluate: keep one"),
        ([Given({}), Mean()], "Given and Mean each have weights of their own to evaluate: keep one"),
    ],
)
def test_weights_that_do_not_fit_are_refused(callbacks, message):
    with pytest.raises(ConfigError, match=message):
        fit(model(), callbacks=callbacks)


class Search(Callback):
    """Tries two steps before the first, and takes them back."""

    every_rank = True

    def on_fit_start(self, trainer) -> None:
        snapshot = trainer.snapshot()
        for window in trainer.train_batches.windows(0):
            trainer.step(window)
        trainer.restore(snapshot)


@pytest.mark.parametrize("in_folder", [True, False])
def test_steps_are_taken_back(tmp_path, in_folder):
    plain, searched = Trace(), Trace()
    folder = {"directory": tmp_path / "run"} if in_folder else {}
    fit(model(0.5), callbacks=[plain])
    trainer = fit(model(0.5), callbacks=[Search(), searched], **folder)
    assert (trainer.progress.step, trainer.progress.samples) == (3, 72)
    tried, kept = searched.steps[:1], searched.steps[1:]
    assert torch.equal(tried[0]["0.weight"], kept[0]["0.weight"])
    for one, two in zip(plain.steps, kept, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_rank_s_callbacks_and_the_main_one_s():
    trainer = fit(model(), callbacks=[Trace(), Mean()], max_steps=1)
    trainer.ranks.index = 1
    try:
        from framework.record import Record

        heard = Record(trainer, None, trainer.callbacks).listeners["on_step_end"]
        assert [type(h.__self__) for h in heard] == [Mean]
    finally:
        trainer.ranks.index = 0


def test_a_loss_that_is_no_mean_over_examples_is_announced_when_a_batch_is_cut():
    class Whole:
        additive = False

    assert announce_cut(Whole(), 1) is None
    assert announce_cut(F.cross_entropy, 4) is None
    assert "each of the 4 parts" in announce_cut(Whole(), 4)


class Averaged(Mean):
    """A mean that is resumed."""

    def state(self) -> dict:
        return {"count": self.count, "sums": self.sums}

    def load_state(self, state: Mapping) -> None:
        self.count, self.sums = state["count"], dict(state["sums"])


def test_a_callback_of_every_rank_goes_back_on_every_rank():
    class Second(Ranks):
        """Alone, and yet not the main one."""

        is_main = False

    class Other(Callback):
        def on_fit_start(self, trainer) -> None:
            trainer.ranks = Second()

    mean, trace = Averaged(), Trace()
    trainer = fit(model(), callbacks=[Other(), Search(), mean, trace])
    assert mean.count == trainer.progress.step == 3
    expected = torch.stack([step["0.weight"] for step in trace.steps[1:]]).mean(0)
    torch.testing.assert_close(mean.evaluation_weights(trainer)["0.weight"], expected)


class Losses(Callback):
    """What a search's steps and the run's own said."""

    every_rank = True

    def on_fit_start(self, trainer) -> None:
        snapshot = trainer.snapshot()
        window = next(iter(trainer.train_batches.windows(0)))
        self.returned = [trainer.step(window).sums(torch.float64) for _ in range(2)]
        trainer.restore(snapshot)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_returns_its_losses_and_those_taken_back_count_nothing(accumulate):
    losses = Losses()
    trainer = fit(model(), callbacks=[losses], max_steps=1, accumulate=accumulate)
    plain = fit(model(), max_steps=1, accumulate=accumulate)
    assert trainer.history[0].scores["loss/train"] == plain.history[0].scores["loss/train"]
    (loss, weight), (after, _) = losses.returned
    assert weight == 24
    assert float(loss / weight) == pytest.approx(plain.history[0].scores["loss/train"], rel=1e-6)
    assert after < loss


class Epochs(Callback):
    """The counters at each epoch's end, and how many evaluations there were before it."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int]] = []

    def on_epoch_end(self, trainer) -> None:
        self.heard.append((trainer.progress.epoch, trainer.progress.step, len(trainer.history)))


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 7}])
def test_an_epoch_s_end_is_heard_before_its_evaluation(limits):
    epochs = Epochs()
    optimizer = torch.optim.SGD((network := model()).parameters(), lr=0.1)
    trainer = Trainer(
        network, loss=nn.CrossEntropyLoss(), optimizer=optimizer, callbacks=[epochs], device="cpu", **limits
    )
    trainer.fit(data(), batch_size=10)
    assert epochs.heard == [(1, 3, 0), (2, 6, 1), (3, 9, 2)][: trainer.progress.step // 3]


def test_tied_weights_are_evaluated_and_saved_by_any_of_their_names(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(3, 3, dtype=torch.float64), nn.Linear(3, 3, dtype=torch.float64)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.second(self.first(inputs))

    ones = torch.ones(3, 3, dtype=torch.float64)
    plain, traced = Trace(), Trace()
    fit(Tied(), callbacks=[plain])
    trainer = fit(Tied(), callbacks=[Given({"second.weight": ones}), traced], directory=tmp_path)
    assert all(
        torch.equal(a["first.weight"], b["first.weight"]) for a, b in zip(plain.steps, traced.steps, strict=True)
    )
    assert torch.equal(trainer.model.first.weight, ones)
    assert torch.equal(load_file(tmp_path / "best" / "model.safetensors")["first.weight"], ones)


class Rebase(Callback):
    def on_fit_start(self, trainer) -> None:
        trainer.rate.rebase(0.5)


def test_base_rates_change_in_proportion():
    network = model()
    groups = [{"params": network[0].parameters(), "lr": 0.1}, {"params": network[4].parameters(), "lr": 0.3}]
    settings = {"loss": nn.CrossEntropyLoss(), "max_steps": 3, "device": "cpu", "callbacks": [Rebase()]}
    optimizer = torch.optim.SGD(groups, lr=0.1)
    Trainer(network, optimizer=optimizer, scheduler=lambda step: 1 / (1 + step), **settings).fit(data(), batch_size=24)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 / 3, 1.5 / 3])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    with pytest.raises(ConfigError, match="the optimizer's lr must be > 0 for others to be in proportion, got 0"):
        Trainer(network, optimizer=optimizer, **settings).fit(data(), batch_size=24)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ConfigError, match="a StepLR keeps base rates of its own, got a new one"):
        Trainer(network, optimizer=optimizer, scheduler=scheduler, **settings).fit(data(), batch_size=24)
