"""Schedulers: torch's closed forms, hand-computed numbers, and bad limits refused."""

import math
import subprocess
import sys

import pytest
import torch
from torch.optim import lr_scheduler

from framework import registry, schedulers
from framework.errors import ConfigError

NAMES = sorted(registry.components("scheduler"))
BOUNDED = [n for n in NAMES if "total_steps" in registry.find("scheduler", n).signature.runtime]
CLOCKED = [n for n in NAMES if "steps_per_epoch" in registry.find("scheduler", n).signature.runtime]
STEPS = 300


def multipliers(scheduler, steps=STEPS):
    return [scheduler(step) for step in range(steps)]


def torchs(make, steps=STEPS, per=1, lr=1.0):
    """Return the learning rates of a torch scheduler that is stepped every `per` updates."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % per == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("mine", "make", "per"),
    [
        (schedulers.Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0), 1),
        (
            schedulers.Step(step_size=40, gamma=0.5, unit="steps"),
            lambda o: lr_scheduler.StepLR(o, 40, 0.5),
            1,
        ),
        (schedulers.Step(7, step_size=3, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 3, 0.5), 7),
        (
            schedulers.MultiStep(milestones=(200, 20, 20), unit="steps"),
            lambda o: lr_scheduler.MultiStepLR(o, [20, 20, 200]),
            1,
        ),
        (
            schedulers.MultiStep(7, milestones=(4, 30), gamma=0.3),
            lambda o: lr_scheduler.MultiStepLR(o, [4, 30], 0.3),
            7,
        ),
        (
            schedulers.Exponential(gamma=0.99, unit="steps"),
            lambda o: lr_scheduler.ExponentialLR(o, 0.99),
            1,
        ),
        (schedulers.Exponential(7, gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9), 7),
        (
            schedulers.Linear(200, start_factor=0.25, end_factor=0.75),
            lambda o: lr_scheduler.LinearLR(o, 0.25, 0.75, 200),
            1,
        ),
        (schedulers.Polynomial(200), lambda o: lr_scheduler.PolynomialLR(o, 200, 0.9), 1),
        (schedulers.Polynomial(200, power=3.0), lambda o: lr_scheduler.PolynomialLR(o, 200, 3.0), 1),
        (
            schedulers.Cosine(STEPS, minimum=0.1),
            lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.1),
            1,
        ),
        (
            schedulers.CosineRestarts(period=40, unit="steps"),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 40),
            1,
        ),
        (
            schedulers.CosineRestarts(7, period=3, growth=2, minimum=0.1),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 21, 2, 0.1),
            1,
        ),
    ],
)
def test_agrees_with_torch(mine, make, per):
    assert multipliers(mine) == pytest.approx(torchs(make, per=per), abs=1e-9)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("pct_start", [0.3, 0.5, 0.99])
def test_one_cycle_agrees_with_torch(anneal, pct_start):
    total = STEPS + 1  # torch refuses to be stepped after its last
    options = {
        "pct_start": pct_start,
        "anneal_strategy": anneal,
        "div_factor": 10.0,
        "final_div_factor": 100.0,
    }
    mine = schedulers.OneCycle(total, **options)

    def make(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, 1.0, total, cycle_momentum=False, **options)

    assert multipliers(mine) == pytest.approx(torchs(make), abs=1e-9)
    assert mine(total - 1) == mine(2 * total) == pytest.approx(1e-3)


def plateau_scores(mode):
    """Scores that get better, stall, get slightly better, jump back and stall again."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, generator=generator).tolist()
    curve = [max(1.0 - 0.02 * i, 0.4) + 0.05 * noise[i] - (0.2 if 90 < i < 120 else 0) for i in range(200)]
    curve[60] = math.nan
    return curve if mode == "min" else [1.0 - value for value in curve]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 3},
        {"factor": 0.5, "patience": 0, "cooldown": 4},
        {"factor": 0.8, "patience": 2, "threshold": 0.05, "cooldown": 1, "minimum": 0.3},
    ],
)
def test_plateau_agrees_with_torch_through_a_checkpoint(mode, options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    renamed = {"min_lr" if k == "minimum" else k: v for k, v in options.items()}
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, eps=0, **renamed)
    mine = schedulers.Plateau(mode=mode, **options)
    seen = []
    for i, score in enumerate(plateau_scores(mode)):
        theirs.step(score)
        mine.observe(score)
        assert mine(i) == pytest.approx(optimizer.param_groups[0]["lr"])
        seen.append(mine(i))
        fresh = schedulers.Plateau(mode=mode, **options)
        fresh.load_state_dict(mine.state_dict())
        mine = fresh
    assert len(set(seen)) > 3
    assert all(isinstance(v, int | float) for v in mine.state_dict().values())


def test_plateau_with_negative_and_endless_scores():
    mine = schedulers.Plateau(patience=1, factor=0.5, threshold=0.1)
    assert mine.state_dict()["best"] is None
    for score in (math.inf, -1.0, -1.05, -1.2):  # -1.05 is not a tenth better than -1, -1.2 is
        mine.observe(score)
    assert mine(0) == 1.0
    assert mine.state_dict()["best"] == -1.2
    for _ in range(2):
        mine.observe(-1.25)
    assert mine(0) == 0.5


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        # rise (step + 1)/(4 + 1), then 1 + cos(π·k/8) halved
        (
            schedulers.WarmupCosine(12, warmup_steps=4),
            {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 6: 0.8535533906, 8: 0.5, 12: 0.0, 20: 0.0},
        ),
        (schedulers.WarmupCosine(12, warmup_steps=4, minimum=0.1), {0: 0.2, 4: 1.0, 8: 0.55, 12: 0.1}),
        (schedulers.WarmupCosine(8, warmup_steps=0), {0: 1.0, 4: 0.5, 8: 0.0}),
        (schedulers.WarmupLinear(12, warmup_steps=4), {3: 0.8, 4: 1.0, 6: 0.75, 10: 0.25, 12: 0.0, 99: 0.0}),
        (schedulers.WarmupLinear(12, warmup_steps=4, minimum=0.2), {8: 0.6, 12: 0.2}),
        (schedulers.WarmupLinear(100), {0: 1 / 11, 9: 10 / 11, 10: 1.0, 55: 0.5}),
        (
            schedulers.WarmupStableDecay(20, warmup_steps=4, decay_steps=5),
            {0: 0.2, 3: 0.8, 4: 1.0, 15: 1.0, 16: 0.8, 19: 0.2, 20: 0.0, 30: 0.0},
        ),
        (
            schedulers.WarmupStableDecay(20, warmup_steps=4, decay_steps=4, shape="sqrt", minimum=0.1),
            {16: 1.0, 17: 0.55, 19: 1 - 0.9 * 0.8660254038, 20: 0.1},
        ),
        (schedulers.WarmupStableDecay(100), {9: 10 / 11, 10: 1.0, 90: 1.0, 95: 0.5}),
        (schedulers.InverseSqrt(warmup_steps=4), {0: 0.25, 3: 1.0, 15: 0.5, 99: 0.2}),
        (schedulers.Polynomial(10, power=2.0, minimum=0.2), {0: 1.0, 5: 0.4, 10: 0.2, 11: 0.2}),
    ],
)
def test_agrees_with_numbers_by_hand(mine, expected):
    assert {step: mine(step) for step in expected} == pytest.approx(expected, abs=1e-9)


def test_inverse_sqrt_is_the_papers_up_to_its_peak():
    mine = schedulers.InverseSqrt(warmup_steps=4000)
    peak = (512 * 4000) ** -0.5
    for t in (1, 100, 3999, 4000, 4001, 20000):
        assert mine(t - 1) * peak == pytest.approx(512**-0.5 * min(t**-0.5, t * 4000**-1.5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("total", "per_epoch"), [(1, 1), (2, 1), (7, 3), (400, 20)])
def test_every_scheduler_stays_finite_and_above_zero(name, total, per_epoch):
    runtime = {"total_steps": total, "steps_per_epoch": per_epoch}
    mine = registry.build("scheduler", name, {}, runtime=runtime)
    values = multipliers(mine, 2 * total + 10)
    assert all(math.isfinite(v) and 0 <= v <= 1 for v in values)
    assert values[0] > 0
    assert values == multipliers(mine, 2 * total + 10)
    if name in BOUNDED:
        assert len(set(values[total:])) == 1


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("total", [None, 0])
def test_without_a_limit_the_fix_is_named(name, total):
    with pytest.raises(ConfigError, match=r"needs a limit.*trainer.max_epochs or trainer.max_steps"):
        registry.build("scheduler", name, {}, runtime={"total_steps": total})


@pytest.mark.parametrize("name", CLOCKED)
def test_epochs_of_unknown_length_are_refused(name):
    with pytest.raises(ConfigError, match=r"needs steps_per_epoch >= 1, got None.*unit=steps"):
        registry.build("scheduler", name, {}, runtime={"steps_per_epoch": None})
    assert registry.build("scheduler", name, {"unit": "steps"}, runtime={"steps_per_epoch": None})(0) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedulers.WarmupCosine(10, warmup_steps=10), "below the total of 10 steps, got 10"),
        (lambda: schedulers.WarmupLinear(10, warmup_steps=-1), "warmup_steps must be >= 0, got -1"),
        (lambda: schedulers.WarmupStableDecay(10, warmup_steps=6, decay_steps=5), "got 6 . 5: shorten"),
        (lambda: schedulers.Exponential(gamma=1.1, unit="steps"), "gamma must be >= 0 and <= 1, got 1.1"),
        (lambda: schedulers.Step(step_size=0, unit="steps"), "step_size must be >= 1, got 0"),
        (lambda: schedulers.Cosine(10, minimum=2.0), "minimum must be >= 0 and <= 1, got 2"),
        (lambda: schedulers.OneCycle(10, pct_start=1.0), "pct_start must be > 0 and < 1, got 1"),
        (lambda: schedulers.Plateau(factor=1.0), "factor must be > 0 and < 1, got 1"),
        (
            lambda: registry.build("scheduler", "step", {"unit": "epoch"}, runtime={"steps_per_epoch": 1}),
            "scheduler.unit cannot be 'epoch': did you mean 'epochs'",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_schedulers_import_no_torch():
    code = "import sys, framework.schedulers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "scheduler",
    [
        schedulers.Step(7, step_size=3, gamma=0.5),
        schedulers.Step(step_size=1, gamma=0.5, unit="steps"),
        schedulers.MultiStep(5, milestones=(4, 1, 0, 90), gamma=0.5),
        schedulers.Exponential(6, gamma=0.9),
        schedulers.CosineRestarts(period=4, growth=2, unit="steps"),
        schedulers.CosineRestarts(2, period=3),
    ],
    ids=repr,
)
def test_discontinuities_are_where_the_multiplier_jumps(scheduler):
    restarts = isinstance(scheduler, schedulers.CosineRestarts)
    values = [scheduler(step) for step in range(60)]
    jumps = [
        step
        for step in range(1, 60)
        if (values[step] > values[step - 1] if restarts else values[step] != values[step - 1])
    ]
    assert jumps
    assert sorted(scheduler.discontinuities(60)) == jumps
