"""The loop against a hand-written one, and every way in which it can be asked to run."""

import copy
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from framework import Callback, ConfigError, Regularizer, Trainer
from framework.batching import BatchOptions
from framework.batching.order import epoch_order
from framework.metrics import accuracy
from framework.models import MLP

CLASSES = 3


def blobs(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three separable clouds in the plane."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % CLASSES
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[target] + 0.4 * torch.randn(count, 2, generator=generator), target


def small_model(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, CLASSES))


def trainer(model: nn.Module | None = None, *, lr: float = 0.05, **settings: Any) -> Trainer:
    model = model or small_model()
    settings.setdefault("loss", nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return Trainer(model, optimizer=optimizer, device="cpu", **settings)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    epochs: int,
    batch_size: int,
    change: Callable[[nn.Module], None] = lambda model: None,
) -> nn.Module:
    """The loop as anybody would write it, in the same order of examples."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        order = epoch_order(len(inputs), seed=0, epoch=epoch, sampling="shuffled")
        for start in range(0, len(inputs), batch_size):
            index = order[start : start + batch_size]
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[index]), target[index]).backward()
            change(model)
            optimizer.step()
    return model


@pytest.mark.parametrize("batch_size", [1, 16, 25, None])
def test_same_weights_as_a_loop_by_hand(batch_size):
    inputs, target = blobs()
    ours = trainer(max_epochs=3, backprop="autograd")
    result = ours.fit((inputs, target), batch_size=batch_size)
    size = batch_size or len(inputs)
    expected = weights(by_hand(small_model(), inputs, target, epochs=3, batch_size=size))
    assert torch.equal(weights(ours.model), expected)
    without_autograd = trainer(max_epochs=3, backprop="manual")
    without_autograd.fit((inputs, target), batch_size=batch_size)
    torch.testing.assert_close(weights(without_autograd.model), expected)
    assert (result.status, result.reason, result.epochs) == ("finished", "max_epochs", 3)
    assert result.steps == 3 * -(-len(inputs) // size)
    assert result.samples == 3 * len(inputs)


def test_drop_last_leaves_the_ragged_batch_out():
    ours = trainer(max_epochs=2)
    batches = ours.batches(blobs(), BatchOptions(batch_size=25, drop_last=True))
    assert ours.fit(batches).samples == 2 * 50


CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
UNEVEN = {
    "plain": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),
    "both": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=0),
}
"""Losses whose mean is not over rows: micro-batches of one step weigh differently."""


@pytest.mark.parametrize("case", UNEVEN)
@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_accumulated_gradient_is_the_whole_batch_s(case, accumulate):
    inputs, target = blobs(50)
    results = []
    for count in (1, accumulate):
        model = small_model().double()
        ours = trainer(model, loss=UNEVEN[case], accumulate=count, max_epochs=3)
        ours.fit((inputs.double(), target), batch_size=20)
        results.append(weights(model))
        assert ours.progress.micro == 9 * count
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-12)


def test_a_loader_s_batches_are_micro_batches():
    inputs, target = blobs(50)
    model = small_model().double()
    dataset = TensorDataset(inputs.double(), target)
    ours = trainer(model, accumulate=4, max_epochs=2)
    result = ours.fit(DataLoader(dataset, batch_size=5, shuffle=True))
    whole = trainer(small_model().double(), max_epochs=2)
    whole.fit(DataLoader(dataset, batch_size=20, shuffle=True))
    assert torch.allclose(weights(model), weights(whole.model), rtol=0, atol=1e-12)
    assert (result.steps, ours.progress.micro) == (6, 20)


def test_all_targets_ignored_leaves_the_weights_still():
    inputs, _ = blobs(20)
    ours = trainer(loss=nn.CrossEntropyLoss(ignore_index=1), accumulate=2, max_epochs=1)
    before = weights(ours.model)
    ours.fit((inputs, torch.ones(20, dtype=torch.long)), batch_size=10)
    assert torch.equal(before, weights(ours.model))


def test_loaders_of_every_kind_train_alike():
    inputs, target = blobs()
    dataset = TensorDataset(inputs, target)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(dataset)

    found = []
    for source in [
        DataLoader(dataset, batch_size=20, shuffle=False),
        DataLoader(Stream(), batch_size=20),
        DataLoader(dataset, batch_sampler=[list(range(s, s + 20)) for s in (0, 20, 40)]),
        DataLoader(dataset, batch_size=20, shuffle=False, num_workers=2),
    ]:
        ours = trainer(max_epochs=2)
        ours.fit(source)
        found.append(weights(ours.model))
    assert all(torch.equal(found[0], other) for other in found)


def test_shuffled_loader_gets_the_order_of_the_seed_and_tensors_the_same():
    inputs, target = blobs()
    loader = trainer(max_epochs=2)
    loader.fit(DataLoader(TensorDataset(inputs, target), batch_size=16, shuffle=True))
    tensors = trainer(max_epochs=2)
    tensors.fit((inputs, target), batch_size=16)
    assert torch.equal(weights(loader.model), weights(tensors.model))


def test_a_frozen_batch_norm_stays_frozen_and_the_random_state_comes_back():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    model[1].eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trainer(model, max_epochs=1).fit(blobs(), blobs(seed=1), batch_size=20)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert model.training
    assert not model[1].training


def test_parameters_that_the_optimizer_does_not_hold_touch_nothing():
    found = []
    for frozen in (False, True):
        model = small_model()
        model[0].requires_grad_(not frozen)
        model(blobs()[0]).sum().backward()  # a stray gradient from before
        ours = Trainer(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model[3].parameters(), lr=0.1),
            clip_norm=0.1,
            accumulate=2,
            max_epochs=3,
            device="cpu",
        )
        ours.fit(blobs(), batch_size=20)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])


def test_a_diverged_run_says_so():
    ours = trainer(lr=1e38, max_epochs=4, on_nonfinite="skip")
    assert "Diverged" in ours.fit(blobs(), blobs(seed=1)).verdict
    assert "its update overflowed" in trainer(lr=1e38, max_epochs=4).fit(blobs(), blobs(seed=1)).error


def test_clipping_by_norm_and_by_value():
    inputs, target = blobs()

    def norm(model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)

    def value(model: nn.Module) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 0.01)

    for settings, change in [({"clip_norm": 0.1}, norm), ({"clip_value": 0.01}, value)]:
        ours = trainer(max_epochs=2, **settings)
        ours.fit((inputs, target), batch_size=20)
        hand = by_hand(small_model(), inputs, target, epochs=2, batch_size=20, change=change)
        assert torch.allclose(weights(ours.model), weights(hand), atol=1e-7)


class Squares(Regularizer):
    def penalty(self, model: nn.Module) -> Tensor:
        return 0.1 * sum((p**2).sum() for p in model.parameters())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_penalties_are_added_once_however_the_batch_is_cut(accumulate):
    inputs, target = blobs()

    def add(model: nn.Module) -> None:
        for p in model.parameters():
            p.grad += 0.2 * p.detach()

    ours = trainer(max_epochs=2, regularizers=[Squares()], accumulate=accumulate)
    ours.fit((inputs, target), batch_size=20)
    hand = by_hand(small_model(), inputs, target, epochs=2, batch_size=20, change=add)
    assert torch.allclose(weights(ours.model), weights(hand), atol=1e-6)


def test_hooks_see_batches_gradients_and_weights_in_training_only():
    seen: list[str] = []

    class Spy(Regularizer):
        def on_batch(self, batch):
            seen.append("batch")
            return batch

        def on_gradients(self, params, step):
            seen.append(f"gradients {step}")
            for p in params.values():
                p.grad.zero_()

        def project(self, params, lr):
            seen.append("project")
            assert set(lr.values()) == {0.05}
            assert set(params) == {"0.weight", "0.bias", "3.weight", "3.bias"}

    ours = trainer(max_epochs=1, regularizers=[Spy()])
    before = weights(ours.model)
    ours.fit(blobs(20), blobs(20, seed=1), batch_size=10)
    assert torch.equal(before, weights(ours.model))
    assert seen == ["batch", "gradients 0", "project", "batch", "gradients 1", "project"]


def test_our_schedulers_are_multipliers_of_each_group_s_rate():
    model = small_model()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[3].parameters()}], lr=0.1
    )
    rates: list[tuple[float, float]] = []

    class Watch(Callback):
        def on_step_end(self, trainer):
            rates.append(tuple(g["lr"] for g in optimizer.param_groups))

    ours = Trainer(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        scheduler=lambda step: 0.5**step,
        callbacks=[Watch()],
        max_steps=3,
        device="cpu",
    )
    ours.fit(blobs(), batch_size=10)
    assert rates == [(0.2, 0.1), (0.1, 0.05), (0.05, 0.025)]


def test_torch_s_schedulers_are_stepped_once_a_step():
    rates: list[float] = []

    class Watch(Callback):
        def on_step_end(self, trainer):
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    ours = trainer(max_steps=5, callbacks=[Watch()])
    ours.scheduler = torch.optim.lr_scheduler.StepLR(ours.optimizer, step_size=2, gamma=0.1)
    ours.fit(blobs(), batch_size=10)
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005])


def test_plateau_of_torch_hears_the_monitored_score():
    ours = trainer(max_epochs=4, mode="max")
    ours.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(ours.optimizer, "max", patience=0, factor=0.5)
    ours.fit(blobs(), blobs(seed=1))
    assert ours.optimizer.param_groups[0]["lr"] == 0.05 * 0.5**3


def test_best_weights_come_back_and_the_history_is_true():
    inputs, target = blobs(30)
    kept: dict[int, Tensor] = {}

    class Keep(Callback):
        def on_evaluated(self, trainer, scores):
            kept[trainer.progress.step] = weights(trainer.model)

    ours = trainer(lr=1.5, max_epochs=12, callbacks=[Keep()])
    validation = blobs(30, seed=5)
    result = ours.fit((inputs, target), validation, batch_size=10)
    assert result.best is not None
    best = min(ours.history, key=lambda e: e.scores["loss/val"])
    assert result.best == best
    assert torch.equal(weights(ours.model), kept[best.step])
    assert ours.evaluate(validation)["loss"] == best.scores["loss/val"]
    gap = best.scores["loss/val"] - best.scores["loss/train_slice"]
    assert best.scores["gap/loss"] == pytest.approx(gap)


def test_train_loss_of_an_evaluation_is_the_mean_over_its_steps():
    inputs, target = blobs(50)
    ours = trainer(lr=0.0, max_epochs=1, log_every=2, loss=nn.CrossEntropyLoss())
    ours.fit((inputs, target), batch_size=8)
    expected = F.cross_entropy(ours.model(inputs), target).item()
    assert ours.history[0].scores["loss/train"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "status", "reason", "steps"),
    [
        ({"max_steps": 4}, "finished", "max_steps", 4),
        ({"max_steps": 6, "max_epochs": 99}, "finished", "max_steps", 6),
        ({"max_epochs": 2}, "finished", "max_epochs", 12),
        ({"max_time": 1e-9}, "finished", "max_time", 0),
        ({"max_epochs": 50, "patience": 2, "lr": 0.0}, "stopped_early", "patience", 18),
        ({"max_epochs": 50, "target": 10.0}, "stopped_early", "target", 6),
        ({"max_epochs": 50, "target": 10.0, "evaluate_every": "4 steps"}, "stopped_early", "target", 4),
    ],
)
def test_every_way_to_stop(settings, status, reason, steps):
    result = trainer(**settings).fit(blobs(), blobs(seed=1), batch_size=10)
    assert (result.status, result.reason, result.steps) == (status, reason, steps)
    assert (result.best is not None) == (steps > 0)
    assert result.epochs == steps // 6


def test_no_time_at_all_ends_before_the_first_step_without_a_validation_set_too():
    assert trainer(max_time=1e-9).fit(blobs()).steps == 0


def test_a_second_fit_goes_on_from_the_weights_with_counters_of_its_own():
    inputs, target = blobs()
    ours = trainer(max_epochs=2)
    ours.fit((inputs, target), batch_size=20)
    between = weights(ours.model)
    result = ours.fit((inputs, target), batch_size=20)
    assert (result.steps, result.epochs, len(ours.history)) == (6, 2, 2)
    assert not torch.equal(between, weights(ours.model))


def test_a_folder_with_a_run_is_refused_unless_it_is_to_be_overwritten(tmp_path):
    trainer(max_epochs=1, directory=tmp_path).fit(blobs())
    kept = (tmp_path / "result.json").read_text()
    with pytest.raises(ConfigError, match="has a run already"):
        trainer(small_model(1), max_epochs=1, directory=tmp_path).fit(blobs())
    assert (tmp_path / "result.json").read_text() == kept
    ours = trainer(small_model(1), max_epochs=1, directory=tmp_path, overwrite=True)
    ours.fit(blobs())
    saved = load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in ours.model.state_dict().items())


def test_deterministic_runs_are_the_same_to_the_bit():
    found = []
    for _ in range(2):
        ours = trainer(small_model(dropout=0.3), deterministic=True, max_epochs=2)
        ours.fit(blobs(), blobs(seed=1), batch_size=7)
        found.append((weights(ours.model), ours.history[-1].scores))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")])
def test_signals_end_at_a_step_s_boundary_with_weights_and_result_on_disk(tmp_path, number, status):
    class Kill(Callback):
        def on_step_end(self, trainer):
            if trainer.progress.step == 7:
                os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    ours = trainer(max_epochs=5, callbacks=[Kill()], directory=tmp_path)
    result = ours.fit(blobs(), blobs(seed=1), batch_size=10)
    assert (result.status, result.steps) == (status, 7)
    assert signal.getsignal(number) == handler
    assert json.loads((tmp_path / "result.json").read_text())["status"] == status
    assert (tmp_path / "last").resolve().name == "step-7"
    assert (tmp_path / "best").resolve().name == "step-6"


def test_interrupted_before_the_first_step_still_leaves_weights(tmp_path):
    class Kill(Callback):
        def on_fit_start(self, trainer):
            os.kill(os.getpid(), signal.SIGINT)

    result = trainer(callbacks=[Kill()], directory=tmp_path).fit(blobs())
    assert (result.status, result.steps) == ("interrupted", 0)
    assert (tmp_path / "best" / "model.safetensors").exists()


def test_a_failure_is_recorded_and_raised(tmp_path):
    class Fails(Callback):
        def on_step_end(self, trainer):
            raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        trainer(callbacks=[Fails()], directory=tmp_path).fit(blobs())
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: the disk is on fire")


def test_dictionary_batches_and_models_with_their_own_loss():
    class OwnLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small_model()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.body(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, float, Any]:
        outputs = model(**batch)
        return outputs["loss"], len(batch["labels"]), (outputs["logits"], batch["labels"])

    inputs, target = blobs()
    model = OwnLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ours = Trainer(model, objective=objective, optimizer=optimizer, max_epochs=3, device="cpu", accumulate=2)
    ours.fit({"x": inputs, "labels": target}, batch_size=16)
    hand = by_hand(small_model(), inputs, target, epochs=3, batch_size=16)
    assert torch.allclose(weights(model), weights(hand), atol=1e-6)


def test_predict_is_in_order_and_in_evaluation_mode():
    inputs, target = blobs(25)
    ours = trainer(small_model(dropout=0.9))
    expected = ours.model.eval()(inputs)
    ours.model.train()
    for source in (inputs, (inputs, target), DataLoader(TensorDataset(inputs, target), batch_size=7, shuffle=True)):
        assert torch.allclose(ours.predict(source, batch_size=10), expected, atol=1e-6)
    assert ours.model.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_keeps_float32_weights(precision):
    ours = trainer(precision=precision, max_epochs=20)
    ours.fit(blobs(), batch_size=20)
    assert all(p.dtype == torch.float32 for p in ours.model.parameters())
    assert ours.evaluate(blobs(seed=1))["loss"] < 0.2


def test_dropout_draws_are_a_function_of_seed_step_and_slot():
    def final(**settings: Any) -> Tensor:
        ours = trainer(small_model(dropout=0.5), max_epochs=2, **settings)
        torch.manual_seed(os.getpid())
        ours.fit(blobs(), batch_size=20)
        return weights(ours.model)

    assert torch.equal(final(), final())
    assert torch.equal(final(log_every=1), final())
    assert not torch.equal(final(seed=1), final())


def test_nothing_reaches_the_host_between_log_points():
    reads = 0

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal reads
            reads += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    ours = trainer(max_steps=5, log_every=100, clip_norm=1.0, regularizers=[Squares()], accumulate=2, precision="fp16")
    ours._evaluate = lambda: ""
    with Counting():
        ours.fit(blobs(), batch_size=10)
    assert ours.progress.step == 5
    assert reads == 0


@pytest.mark.slow
def test_compiled_model_trains_alike_and_keeps_its_canonical_names(tmp_path):
    ours = trainer(compile="model", max_epochs=2, directory=tmp_path)
    ours.fit(blobs(), blobs(seed=1), batch_size=20)
    eager = trainer(max_epochs=2)
    eager.fit(blobs(), blobs(seed=1), batch_size=20)
    assert torch.allclose(weights(ours.model), weights(eager.model), atol=1e-5)
    assert set(load_file(tmp_path / "best" / "model.safetensors")) == set(small_model().state_dict())


def test_gradient_checkpointing_trains_to_the_same_weights():
    found = []
    for setting in (False, True):
        torch.manual_seed(0)
        model = MLP((2,), CLASSES, widths=(16, 16), dropout=0.3)
        ours = trainer(model, gradient_checkpointing=setting, max_epochs=2, backprop="autograd")
        ours.fit(blobs(), batch_size=20)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])


def test_deterministic_mode_ends_with_the_fit():
    states: list[bool] = []

    class Watch(Callback):
        def on_step_end(self, trainer):
            states.append(torch.are_deterministic_algorithms_enabled())

    trainer(deterministic=True, max_steps=1, callbacks=[Watch()]).fit(blobs())
    assert states == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_mistakes_are_short_messages():
    data = blobs(10)
    model = small_model()
    for make, message in [
        (lambda: Trainer(model), "either loss= or objective="),
        (lambda: Trainer(model, nn.MSELoss(), objective=print), "either loss= or objective="),
        (lambda: Trainer(model, nn.MSELoss()).fit(data), "needs an optimizer"),
        (lambda: Trainer(model, nn.MSELoss(), torch.optim.LBFGS(model.parameters())).fit(data), "LBFGS calls the loss"),
        (lambda: trainer(monitor="loss/vall").fit(data, data), "did you mean 'loss/val'"),
        (lambda: trainer(monitor="loss/val").fit(data), "no score 'loss/val'"),
        (lambda: trainer(devices=2), "one of 1 processes"),
        (lambda: trainer(precision=16), r"trainer\.precision cannot be '?16"),
        (lambda: trainer(mode="maximum"), r"trainer\.mode cannot be 'maximum'"),
        (lambda: trainer(clip_norm=-1.0), r"trainer\.clip_norm must be > 0, got -1"),
        (lambda: trainer(accumulate=0), r"trainer\.accumulate must be >= 1, got 0"),
        (lambda: trainer().fit(data, batch_size=0), "batch_size must be >= 1, got 0"),
        (lambda: trainer(metrics={"loss": accuracy("classification", 3)}), "cannot be named 'loss'"),
        (
            lambda: trainer(metrics={"acc": accuracy("classification", 3)}, monitor="acc/val").fit(data, data),
            "better higher",
        ),
        (
            lambda: Trainer(model, nn.MSELoss(), torch.optim.SGD(small_model().parameters())).fit(data),
            "holds no trainable parameter",
        ),
        (lambda: trainer().fit((data[0][:, :1], data[1])), "cannot take this data"),
        (lambda: trainer(nn.Linear(2, 3), gradient_checkpointing=True), "no blocks worth recomputing"),
        (lambda: trainer(evaluate_every="often"), "evaluate_every must be"),
        (lambda: trainer().fit(data[0]), r"a batch must be \(inputs, target\)"),
        (lambda: trainer().fit({"x": data[0]}), r"a dict with keys \['x'\]"),
        (lambda: trainer().fit("data"), "training data must be"),
        (lambda: trainer().fit((data[0], data[1][:5])), "same first dimension"),
        (lambda: trainer().fit(DataLoader(TensorDataset(*data), batch_size=20, drop_last=True)), "gives no batch"),
    ]:
        with pytest.raises((ConfigError, ValueError, TypeError), match=message):
            make()
    with pytest.raises(ValueError, match="must be auto, cpu"):
        Trainer(model, nn.MSELoss(), device="gpu")


def test_model_given_is_the_model_trained():
    model = small_model()
    same = copy.deepcopy(model)
    trainer(model, max_epochs=1).fit(blobs())
    assert not torch.equal(weights(model), weights(same))
