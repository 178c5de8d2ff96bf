"""What TensorBoard is shown of a run; the only module that knows TensorBoard."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

ALONE = ("gap/loss", "lr", "grad_norm", "samples_per_second")
"""Scalars with a chart of their own in the layout."""

FILES = "events.out.tfevents."
"""What the names of files of events begin with, before the time in seconds, ten digits long."""

HPARAMS = "hparams"
"""The plugin of the table of hyperparameters. Its own constants would import a stub of TensorFlow."""

HPARAM = {
    bool: ("bool_value", api_pb2.DATA_TYPE_BOOL),
    int: ("number_value", api_pb2.DATA_TYPE_FLOAT64),
    float: ("number_value", api_pb2.DATA_TYPE_FLOAT64),
    str: ("string_value", api_pb2.DATA_TYPE_STRING),
}
"""The field and the data type of a hyperparameter, by its Python type."""


class TensorBoard:
    """Writes one run's events into its folder.

    `purge_step` is the step from which on the folder's earlier events are void: 0 for a new run, for a
    resumed one the first step that it takes. It is announced at every opening, since TensorBoard's Python
    loader overlooks the first announcement in a folder. Writing raises OSError after `close`, and whatever an
    earlier write, which happens in another thread, ended with.
    """

    def __init__(self, directory: Path, *, purge_step: int = 0) -> None:
        _put_earlier_first(directory)
        self._writer = EventFileWriter(str(directory))
        self._open = True
        self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of one moment as one event, in float32; nan and infinities stay what they are."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._add(Event(step=step, summary=summary))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text for the page of texts."""
        metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
        value = Summary.Value(tag=tag, metadata=metadata, tensor=_string(markdown.encode()))
        self._add(Event(step=step, summary=Summary(value=[value])))

    def layout(self, names: Iterable[str]) -> None:
        """Lay out the page of custom scalars: for each name, such as loss, a chart of its /train and /val."""
        scores = [_chart(name, (f"{name}/train", f"{name}/val")) for name in names]
        layout = layout_pb2.Layout(
            category=[
                layout_pb2.Category(title="train and validation", chart=scores),
                layout_pb2.Category(title="progress", chart=[_chart(tag, (tag,)) for tag in ALONE]),
            ]
        )
        value = Summary.Value(
            tag=layout_metadata.CONFIG_SUMMARY_TAG,
            metadata=layout_metadata.create_summary_metadata(),
            tensor=_string(layout.SerializeToString()),
        )
        self._add(Event(summary=Summary(value=[value])))

    def hparams(self, values: Mapping[str, bool | int | float | str], metrics: Sequence[str]) -> None:
        """Write the run's row for the table of hyperparameters; `metrics` are tags among its scalars.

        It goes into the run's own folder, so that the folder above several runs is one table of them.
        """
        start = SessionStartInfo(start_time_secs=time.time())
        infos = []
        for name, value in values.items():
            field, kind = HPARAM[type(value)]
            setattr(start.hparams[name], field, value)
            infos.append(api_pb2.HParamInfo(name=name, type=kind))
        shown = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
        experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=shown)
        self._add_hparams("experiment", HParamsPluginData(experiment=experiment))
        self._add_hparams("session_start_info", HParamsPluginData(session_start_info=start))

    def finish(self, success: bool) -> None:
        """Write how the run ended into its row of the table of hyperparameters."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        end = SessionEndInfo(status=status, end_time_secs=time.time())
        self._add_hparams("session_end_info", HParamsPluginData(session_end_info=end))

    def flush(self) -> None:
        """Return when everything is on disk."""
        if self._open:
            self._writer.flush()

    def close(self) -> None:
        """Flush and end; nothing can be written after it."""
        self._open = False
        self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.add_event(event)

    def _add_hparams(self, tag: str, content: HParamsPluginData) -> None:
        value = Summary.Value(
            tag=f"_{HPARAMS}_/{tag}",
            metadata=SummaryMetadata(
                plugin_data=SummaryMetadata.PluginData(plugin_name=HPARAMS, content=content.SerializeToString())
            ),
            tensor=TensorProto(dtype=DT_FLOAT, tensor_shape=_shape(0)),  # TensorBoard shows none without one
        )
        self._add(Event(summary=Summary(value=[value])))


def _put_earlier_first(directory: Path) -> None:
    """Rename a folder's files of events so that one made now is read after them: TensorBoard goes by the names.

    The names begin with the time, which is the same within a second, and may have been set back.
    """
    files = sorted(directory.glob(f"{FILES}*"))
    if not files or files[-1].name < f"{FILES}{int(time.time()):010d}":
        return
    for number, path in enumerate(files):
        _, _, rest = path.name.removeprefix(FILES).partition(".")
        path.rename(path.with_name(f"{FILES}{number:010d}.{rest}"))


def _string(content: bytes) -> TensorProto:
    return TensorProto(dtype=DT_STRING, tensor_shape=_shape(), string_val=[content])


def _shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _chart(title: str, tags: Sequence[str]) -> layout_pb2.Chart:
    """Return a chart of exactly these tags; TensorBoard takes them for regular expressions."""
    content = layout_pb2.MultilineChartContent(tag=[f"^{re.escape(tag)}$" for tag in tags])
    return layout_pb2.Chart(title=title, multiline=content)
