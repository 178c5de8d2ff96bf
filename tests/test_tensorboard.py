"""What is written is read back by TensorBoard's own loaders and by its server."""

import json
import math
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, metadata

from framework.tensorboard import TensorBoard

ALL = {"scalars": 0, "tensors": 0}


def read(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance=ALL).Reload()


def events(directory: Path) -> list:
    return [event for path in sorted(directory.glob("events*")) for event in EventFileLoader(str(path)).Load()]


def values(directory: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in read(directory).Scalars(tag)]


def test_scalars_of_a_moment_are_one_event(tmp_path):
    board = TensorBoard(tmp_path)
    board.scalars(50, {"loss/train": 0.5, "lr": 0.25, "samples_per_second": 1e4})
    board.scalars(100, {"loss/train": 0.125})
    board.close()
    assert values(tmp_path, "loss/train") == [(50, 0.5), (100, 0.125)]
    assert values(tmp_path, "samples_per_second") == [(50, 1e4)]
    written = [[v.tag for v in e.summary.value] for e in events(tmp_path) if e.summary.value]
    assert written == [["loss/train", "lr", "samples_per_second"], ["loss/train"]]
    assert all(abs(e.wall_time - time.time()) < 60 for e in events(tmp_path))


def test_diverged_scalars_are_written_as_they_are(tmp_path):
    board = TensorBoard(tmp_path)
    board.scalars(1, {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "beyond": 1e300})
    board.close()
    assert math.isnan(values(tmp_path, "nan")[0][1])
    assert values(tmp_path, "inf") == [(1, math.inf)]
    assert values(tmp_path, "minus") == [(1, -math.inf)]
    assert values(tmp_path, "beyond") == [(1, math.inf)]


@pytest.mark.parametrize(
    ("loader", "points"),
    [
        (EventAccumulator, EventAccumulator.Scalars),
        (plugin_event_accumulator.EventAccumulator, plugin_event_accumulator.EventAccumulator.Tensors),
    ],
)
def test_a_resumed_run_voids_the_steps_it_takes_again(tmp_path, loader, points):
    first = TensorBoard(tmp_path)
    for step in range(10):
        first.scalars(step, {"loss/train": 1.0})
    first.close()
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "events.out.tfevents.1000000000.an_earlier_second")
    resumed = TensorBoard(tmp_path, purge_step=6)
    for step in range(6, 9):
        resumed.scalars(step, {"loss/train": 2.0})
    resumed.close()
    data = loader(str(tmp_path), size_guidance=ALL).Reload()
    assert [e.step for e in points(data, "loss/train")] == list(range(9))
    starts = [(e.step, e.session_log.status) for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [(0, SessionLog.START), (6, SessionLog.START)]


def test_text_and_layout(tmp_path):
    board = TensorBoard(tmp_path)
    board.text("config", "```yaml\nlr: 0.1\n```")
    board.layout(["loss", "f1.macro"])
    board.close()
    data = read(tmp_path)
    text = data.Tensors("config")[0]
    assert (text.step, text.tensor_proto.string_val[0]) == (0, b"```yaml\nlr: 0.1\n```")
    assert data.SummaryMetadata("config").plugin_data.plugin_name == "text"

    (tensor,) = data.Tensors("custom_scalars__config__")
    layout = Layout.FromString(tensor.tensor_proto.string_val[0])
    charts = {c.title: list(c.multiline.tag) for category in layout.category for c in category.chart}
    assert list(charts) == ["loss", "f1.macro", "gap/loss", "lr", "grad_norm", "samples_per_second"]
    tags = [
        "loss/train",
        "loss/val",
        "loss/train_slice",
        "gap/loss",
        "f1.macro/val",
        "f1_macro/val",
        "lr",
        "lr_2",
    ]
    drawn = {title: [t for t in tags if any(re.match(p, t) for p in ps)] for title, ps in charts.items()}
    assert drawn["loss"] == ["loss/train", "loss/val"]
    assert drawn["f1.macro"] == ["f1.macro/val"]
    assert drawn["gap/loss"] == ["gap/loss"]
    assert drawn["lr"] == ["lr"]


@pytest.mark.parametrize(("success", "status"), [(True, api_pb2.STATUS_SUCCESS), (False, api_pb2.STATUS_FAILURE)])
def test_hparams_stand_in_the_runs_own_folder(tmp_path, success, status):
    board = TensorBoard(tmp_path)
    board.hparams({"lr": 0.1, "seed": 3, "nesterov": True, "optimizer": "sgd"}, ["loss/val"])
    board.finish(success)
    board.close()
    assert [p.parent for p in tmp_path.rglob("events*")] == [tmp_path]
    contents = read(tmp_path).PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["lr"].number_value == 0.1
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["nesterov"].bool_value is True
    assert start.hparams["optimizer"].string_value == "sgd"
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    kinds = {i.name: api_pb2.DataType.Name(i.type).removeprefix("DATA_TYPE_") for i in experiment.hparam_infos}
    assert kinds == {"lr": "FLOAT64", "seed": "FLOAT64", "nesterov": "BOOL", "optimizer": "STRING"}
    assert [m.name.tag for m in experiment.metric_infos] == ["loss/val"]
    end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    assert end.status == status
    assert start.start_time_secs <= end.end_time_secs


def test_flush_puts_everything_on_disk_and_closing_twice_is_safe(tmp_path):
    board = TensorBoard(tmp_path / "new" / "folder")
    for step in range(100):
        board.scalars(step, {"loss/train": 0.0})
    board.flush()
    assert len(values(tmp_path / "new" / "folder", "loss/train")) == 100
    board.close()
    board.close()
    board.flush()
    with pytest.raises(OSError, match="closed"):
        board.scalars(1, {"loss/train": 0.0})


def test_writing_needs_neither_torch_nor_tensorflow():
    code = "import sys, framework.tensorboard\nassert not {'torch', 'tensorflow'} & set(sys.modules), 'a heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def server(tmp_path):
    """TensorBoard on a folder of two runs, as a function from a path to what it answers."""
    for number, lr in enumerate((0.1, 0.01)):
        board = TensorBoard(tmp_path / str(number))
        board.layout(["loss"])
        board.hparams({"lr": lr}, ["loss/val"])
        board.text("verdict", "fine")
        board.scalars(10, {"loss/train": 1.0, "loss/val": 0.5 + number})
        board.finish(True)
        board.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/data/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if ask("runs") == ["0", "1"] and "1" in ask("plugin/scalars/tags"):
                    break
            except OSError:
                assert process.poll() is None, "tensorboard ended"
            assert time.monotonic() < deadline, "tensorboard does not answer"
            time.sleep(0.2)
        yield ask
    finally:
        process.kill()
        process.wait()


def test_the_page_shows_scalars_layout_texts_and_a_table_of_the_runs(server):
    points = server("plugin/scalars/scalars?run=1&tag=loss/val")
    assert [(step, value) for _, step, value in points] == [(10, 1.5)]
    scores, _ = server("plugin/custom_scalars/layout")["category"]
    assert [c["title"] for c in scores["chart"]] == ["loss"], "two runs, one chart"
    assert set(server("plugin/text/tags")) == {"0", "1"}
    assert server("plugin/text/text?run=0&tag=verdict")[0]["text"] == "<p>fine</p>"
    question = {"startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_SUCCESS"], "colParams": []}
    groups = server("plugin/hparams/session_groups", question)["sessionGroups"]
    table = {g["name"]: (g["hparams"]["lr"], g["metricValues"][0]["value"]) for g in groups}
    assert table == {"0": (0.1, 0.5), "1": (0.01, 1.5)}
