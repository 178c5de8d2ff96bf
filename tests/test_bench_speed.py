"""The benchmark of a step: everybody does the same work, the clock takes what it says, the tables say what is true."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from framework.batching import TensorSet
from framework.datasets.pixels import Normalize
from framework.datasets.tokens import TokenSet
from framework.models import MLP, ConvNet, Transformer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
from benchmarks import speed  # noqa: E402
from benchmarks.speed import contestants, growth, memory, nano, peers, products, report, rows, start, works  # noqa: E402
from benchmarks.speed.contestants import Block, Clock  # noqa: E402
from benchmarks.speed.processes import Processes  # noqa: E402

NORMALIZE = Normalize(scale=255, mean=0.1307, std=0.3081)


def read(*shape: int):
    """Return what a data set's files hold, in miniature."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, *shape), dtype=torch.uint8, generator=generator)
    target = torch.randint(10, (60,), generator=generator)
    return (pixels[:40], target[:40]), (pixels[40:], target[40:]), NORMALIZE


TEXT = TokenSet(torch.randint(65, (300,), generator=torch.Generator().manual_seed(0)), block=16, stride=1)


def text() -> works.Plain:
    return works.Plain(len(TEXT), nano.Blocks(TEXT.tokens, 16), TEXT.gather(torch.arange(8)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every work with few examples and few steps."""
    images, pictures = partial(read, 1, 28, 28), partial(read, 3, 32, 32)
    mlp = {
        "sets": lambda: works.in_bytes(images),
        "data": lambda: works.in_floats(images, flat=True),
        "batch_size": 8,
    }
    convnet = {"sets": lambda: works.in_bytes(pictures), "data": lambda: works.in_floats(pictures, flat=False)}
    gpt = {
        "sets": lambda: (TEXT, TEXT.subset(torch.arange(8))),
        "data": text,
        "ours": lambda: Transformer((16,), 65, layers=1, heads=2, width=8),
        "plain": lambda: nano.GPT(65, 16, layers=1, heads=2, width=8),
        "tolerance": 0.02,
    }
    changes = {"mlp64": mlp, "mlp512": mlp, "loader": mlp, "convnet": {**convnet, "batch_size": 4}, "gpt": gpt}
    for name in speed.STEPS:
        work = replace(works.WORKS[name], **changes.get(name, {}), steps=3, warm_up=2)
        monkeypatch.setitem(works.WORKS, name, work)
    monkeypatch.setattr(growth, "MNIST", works.WORKS["mlp64"])
    monkeypatch.setattr(rows, "ONE_STEPS", 3)
    monkeypatch.setattr(speed, "measure_apart", here)  # a process of its own knows nothing of these works


def here(name: str, rounds: int, device: torch.device, peers: dict) -> rows.Row:
    return rows.measure(name, rows.work_of(name, rounds, device), rows.lineup(name, peers), rounds)


def test_contestants_run_in_processes_of_their_own():
    with Processes(partial(rows.made, "one", 1000, "cpu")) as processes:
        blocks = [processes.block(rows.RAW) for _ in range(2)]
        assert blocks[0].loss == blocks[1].loss
        assert all(block.seconds > 0 for block in blocks)
        with pytest.raises(RuntimeError, match="nobody: KeyError"):
            processes.block("nobody")


@pytest.mark.usefixtures("small")
def test_every_row_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    shutil.copy(ROOT / "docs" / "speed.md", tmp_path)
    monkeypatch.setattr(speed, "DOCS", tmp_path)
    numbers, picture = tmp_path / "n.json", tmp_path / "n.png"
    options = ["--rounds", "2", "--no-peers", "--json", str(numbers), "--picture", str(picture), "--write"]
    assert bench.main(["speed", "--rows", *speed.STEPS, *options]) == 0
    printed = capsys.readouterr().out
    content = json.loads(numbers.read_text())
    assert list(content["rows"]) == list(speed.STEPS)
    for name, row in content["rows"].items():
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values()), name
        assert row["steps"] == 3
    assert content["rows"]["gpt"]["seconds"].keys() == {rows.OURS, rows.RAW, rows.OURS_BF16, rows.RAW_BF16}
    assert picture.read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "speed.md").read_text()
    (table,) = (part for part in printed.split("\n\n") if part.startswith("| work | ours"))
    assert table in page
    assert f"torch {torch.__version__}" in page
    # numbers that are kept give the same tables again
    assert bench.main(["speed", "--from", str(numbers)]) == 0
    assert table in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_one_row_is_measured_anew_and_the_others_kept(tmp_path: Path, capsys):
    numbers = tmp_path / "n.json"
    common = ["--rounds", "1", "--no-peers", "--json", str(numbers)]
    assert bench.main(["speed", "--rows", "mlp64", "mlp512", *common]) == 0
    before = json.loads(numbers.read_text())["rows"]
    assert bench.main(["speed", "--rows", "mlp512", "--from", str(numbers), *common]) == 0
    after = json.loads(numbers.read_text())["rows"]
    assert after["mlp64"] == before["mlp64"]
    assert after["mlp512"]["seconds"] != before["mlp512"]["seconds"]
    content = json.loads(numbers.read_text())
    content["machine"]["torch"] = "1.0"
    numbers.write_text(json.dumps(content))
    assert bench.main(["speed", "--rows", "mlp512", "--from", str(numbers), *common]) == 2
    assert f"--from {numbers} has numbers of another torch: measure all." in capsys.readouterr().err


def test_networks_by_hand_are_ours():
    """The same outputs and gradients from the same weights."""
    inputs = torch.rand(4, 1, 28, 28)
    pairs = [
        (works.MNIST.ours(), works.MNIST.plain(), inputs, inputs.flatten(1)),
        (ConvNet((3, 32, 32), 10, channels=(32, 64, 128)), works.plain_convnet(), *[torch.rand(2, 3, 32, 32)] * 2),
        (
            Transformer((16,), 65, layers=2, heads=2, width=8),
            nano.GPT(65, 16, layers=2, heads=2, width=8),
            *[torch.randint(65, (3, 16))] * 2,
        ),
    ]
    for ours, plain, own, theirs in pairs:
        with torch.no_grad():
            for param, start in zip(plain.parameters(), ours.parameters(), strict=True):
                param.copy_(start)
        outputs = ours(own), plain(theirs)
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().mean().backward()
        for param, other in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(param.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["mlp64", "convnet", "gpt", "loader"])
def test_everybody_takes_the_same_batches(name: str):
    work = works.WORKS[name]
    losses = {who: run(work, Clock(work)).loss for who, run in rows.lineup(name, {}).items() if "bf16" not in who}
    assert losses[rows.OURS] == pytest.approx(losses[rows.RAW], rel=1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_a_peer_does_the_same_work(name: str):
    if name not in peers.installed():
        pytest.skip(f"{name} is not installed")
    work = works.WORKS["mlp64"]
    expected = contestants.raw(work, Clock(work)).loss
    clock = Clock(work)
    assert peers.PEERS[name][0](work, clock).loss == pytest.approx(expected, rel=work.tolerance)
    assert clock.count == work.total


def test_the_clock_takes_the_steps_of_the_block_alone(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 10.0, 20.0, 50.0])
    monkeypatch.setattr(contestants.time, "perf_counter", lambda: next(now))
    heard = []
    clock = Clock(replace(works.MNIST, warm_up=2, steps=3), lambda: heard.append(clock.count))
    for _ in range(5):
        clock.tick()
    assert clock.block(0.5) == Block(10.0, 0.5, {"to the first step's end": 10.0})
    assert heard == [5]


@pytest.mark.usefixtures("small")
def test_unequal_work_gets_no_number():
    work = works.WORKS["mlp64"]
    lazy = {rows.OURS: lambda work, clock: Block(1e-9, 99.0), rows.RAW: contestants.raw}
    with pytest.raises(RuntimeError, match=r"the validation loss of ours is 99\.0000, that of the raw loop"):
        rows.measure("mlp64", work, lazy, 1)


def timed(ours: float, theirs: float, name: str = "mlp512") -> report.Results:
    """Return a row in which ours takes so many µs, and the raw loop so many."""
    taken = {rows.OURS: [ours / 1e6] * 3, rows.RAW: [theirs / 1e6] * 3}
    return {name: rows.Row(name, "work", 200, 0.01, taken, dict.fromkeys(taken, 0.3)).as_json()}


@pytest.mark.parametrize(
    ("ours", "half_rate", "expected"),
    [
        (50, True, "≤ 0.60 | 0.50 | met, the aim too |"),
        (55, True, "≤ 0.60 | 0.50 | met |"),
        (70, True, "≤ 0.60 | 0.50 | missed |"),
        (70, False, "≤ 0.85 | 0.50 | met |"),
        (90, False, "≤ 0.85 | 0.50 | missed |"),
    ],
)
def test_a_target_is_met_or_missed(ours: float, half_rate: bool, expected: str):
    assert expected in report.steps(timed(ours, 100), half_rate=half_rate)


def test_half_rate_is_told_from_full():
    assert products.is_half_rate({"MKL": 100.0, "oneDNN": 200.0})
    assert not products.is_half_rate({"MKL": 200.0, "oneDNN": 210.0})
    assert not products.is_half_rate({"MKL": 200.0})


def test_tables_of_memory_and_start():
    found = {"mlp64": {"ours": {"peak": 2**20, "resident": 2**28}, "raw loop": {"peak": 2**21, "resident": 2**29}}}
    assert "| MLP | 1.00 | 2.00 | 0.50 | ≤ 1.05 | 0.95 | met, the aim too | 256 | 512 |" in report.memory(
        found, {"mlp64": "MLP"}
    )
    seconds = {rows.RAW: 2.0, start.FRAMEWORK: 2.2, start.TRAINER: 1.0, start.HELP: 0.3, start.TAB: 0.6}
    table = report.start({name: [each] * 3 for name, each in seconds.items()})
    assert "| framework: start to first step | 2.20 | 1.10 (1.10–1.10) | ≤ 1.0 | 0.6 | missed |" in table
    assert (
        "| a script with Trainer: start to first step | 1.00 | 0.50 (0.50–0.50) | ≤ 1.0 | 0.6 | met, the aim too |"
        in table
    )
    assert "| framework --help | 0.30 | | ≤ 0.5 s | 0.25 s | met |" in table
    assert "| TAB | 0.60 | | ≤ 0.5 s | 0.25 s | missed |" in table


@pytest.mark.usefixtures("small")
def test_memory_counts_state_and_not_the_data():
    """The MLP's peak holds its parameters, as many gradients, and twice as many numbers of Adam's."""
    found = memory.alone("mlp64", rows.RAW, works.CPU, steps=4)
    state = 4 * 4 * sum(p.numel() for p in works.MNIST.plain().parameters())
    assert state <= found["peak"] < 1.5 * state
    assert found["resident"] > found["peak"]


@pytest.mark.usefixtures("small")
def test_growth_has_every_table(monkeypatch: pytest.MonkeyPatch):
    for name, few in (("BATCHES", (1,)), ("WIDTHS", (1,)), ("SIZES", (100,)), ("COUNTS", (0, 2))):
        monkeypatch.setattr(growth, name, few)
    steps = growth.points
    monkeypatch.setattr(
        growth, "points", lambda device: ((t, n, replace(w, batch_size=8, steps=2), c) for t, n, w, c in steps(device))
    )
    tables = speed.take("growth", 3, works.CPU, {})
    assert list(tables) == ["batch size", "width", "examples", "callbacks", "metrics"]
    assert [row["title"] for row in tables["callbacks"]] == ["0", "2"]
    text = report.growth(tables)
    assert text.count("\n| 784-128-64-10 |") == 1
    assert text.count("more than it, µs") == 5


def test_generated_examples_can_be_learned_and_are_the_same_for_all():
    (train, _), data = growth.generated(50)
    assert isinstance(train, TensorSet)
    own, theirs = train.gather(torch.arange(5)), data.take(torch.arange(5))
    assert torch.equal(own[0], theirs[0])
    assert torch.equal(own[1], theirs[1])
    assert train.tensors[0].dtype == torch.uint8
    assert MLP((growth.FEATURES,), 10, widths=(4,))(own[0]).shape == (5, 10)


def test_products_are_those_of_each_linear_layer(monkeypatch: pytest.MonkeyPatch):
    """Forward, the weight's gradient, and but for the first layer the inputs' gradient: 2 + 3 + 3 products."""
    calls = []
    linear = nn.functional.linear
    monkeypatch.setattr(products, "seconds_of", lambda call: calls.append(call()) or 1.0)
    monkeypatch.setattr(
        products.functional, "linear", lambda x, w, b=None: calls.append((x.shape[0], *w.shape)) or linear(x, w, b)
    )
    data = works.in_floats(partial(read, 1, 28, 28), flat=True)
    expected = [(8, 128, 784), (8, 64, 128), (8, 10, 64)]
    assert products.product_seconds(replace(works.MNIST, batch_size=8, data=lambda: data)) == 3.0
    assert [c for c in calls if c] == 2 * expected, "once in the network, once alone"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "mlp"], "bench speed: no row on cpu is called 'mlp': choose from mlp64, mlp512, one, "),
        (["--from", "no.json"], "bench speed: --from reads a file that --json wrote, got no.json."),
        (
            ["--picture", "no/p.png"],
            "bench speed: --picture draws in a folder that exists, got no/p.png: make its folder",
        ),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["speed", *arguments])
    assert stopped.value.code == 2
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
