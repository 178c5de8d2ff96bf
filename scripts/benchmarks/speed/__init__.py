"""A step of ours with everything on against the loop by hand and the peers; memory, start-up, and how cost grows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pages import DOCS, rewrite

from benchmarks.arguments import Parser
from benchmarks.measure import machine
from benchmarks.speed import growth, memory, report, start
from benchmarks.speed.peers import PEERS, installed
from benchmarks.speed.picture import draw
from benchmarks.speed.products import cuda_rate, is_half_rate, rates
from benchmarks.speed.rows import RAW, Row, measure_apart
from benchmarks.speed.works import WORKS

ROUNDS = 15
STEPS = ("mlp64", "mlp512", "one", "convnet", "gpt", "loader")
ROWS = (*STEPS, "memory", "start", "growth")
CUDA_ROWS = (*STEPS, "gpt2", "memory", "growth")

Content = dict[str, Any]
"""What --json writes: `machine`, `rates` and `rows`."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; exit with code 2 and one message where they are wrong."""
    parser = Parser("speed", __doc__, ROUNDS)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"only these of {', '.join((*ROWS, 'gpt2'))}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the ratios there")
    parser.add_argument("--no-peers", action="store_true", help="leave the other frameworks out")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="take rows that --json wrote as well")
    options = parser.checked(arguments)
    rows = CUDA_ROWS if options.device == "cuda" else ROWS
    if options.source and not options.source.is_file():
        parser.error(f"--from reads a file that --json wrote, got {options.source}.")
    for name in options.rows or ():
        if name not in rows:
            parser.error(f"no row on {options.device} is called {name!r}: choose from {', '.join(rows)}.")
    if options.picture and not options.picture.absolute().parent.is_dir():
        parser.error(f"--picture draws in a folder that exists, got {options.picture}: make its folder first.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device that torch sees, and there is none.")
    if options.write and options.device == "cuda":
        parser.error("--write makes the page of the CPU's table: leave it out with --device cuda.")
    if options.rows is None:
        options.rows = [] if options.source else rows
    return options


def main(arguments: list[str]) -> int:
    """Measure, print, and write what was asked for."""
    options = parse(arguments)
    device = torch.device(options.device)
    versions = {} if options.no_peers else installed()
    on = "on the CPU" if device.type == "cpu" else f"on {torch.cuda.get_device_name()}"
    if device.type == "cuda":
        print("This part was written without a CUDA device at hand, and has not been run on one yet.")
    content: Content = {"machine": {**machine(), "device": on, "peers": versions}, "rates": {}, "rows": {}}
    if options.source:
        kept = json.loads(options.source.read_text(encoding="utf-8"))
        if options.rows and (other := _differing(kept["machine"], content["machine"])):
            print(f"bench speed: --from {options.source} has numbers of another {other}: measure all.", file=sys.stderr)
            return 2
        content = kept
    for name in PEERS.keys() - versions.keys():
        if options.rows and not options.no_peers:
            print(f"{name} is not installed, and left out: pip install -e '.[bench]' has it.")
    if options.rows:
        content["rates"] = rates() if device.type == "cpu" else {"CUDA bf16": cuda_rate()}
    begun = time.perf_counter()
    for name in options.rows:
        start_of_row = time.perf_counter()
        peers = {peer: PEERS[peer][0] for peer in versions}
        content["rows"][name] = take(name, options.rounds, device, peers)
        print(f"{name}: measured in {time.perf_counter() - start_of_row:.0f} s", flush=True)
        if options.json:
            write(content, options.json)
    if options.rows:
        print(f"all: {time.perf_counter() - begun:.0f} s")
    content["rows"] = {name: content["rows"][name] for name in (*ROWS, "gpt2") if name in content["rows"]}
    sections = make(content, cuda=device.type == "cuda")
    print("\n" + "\n\n".join(part for part in sections.values() if part))
    if options.json:
        write(content, options.json)
    if options.picture:
        targets = report.CUDA_TARGETS if device.type == "cuda" else report.TARGETS
        draw(content["rows"], targets, options.picture, half_rate=half_rate(content))
    if options.write:
        page(content, sections)
    return 0


def _differing(kept: Content, own: Content) -> str:
    """Return which facts, but for the peers, two measurements differ in."""
    return ", ".join(name for name in own if name != "peers" and kept.get(name) != own[name])


def take(name: str, rounds: int, device: torch.device, peers: dict[str, Any]) -> Any:
    """Return what was measured of a row, as JSON has it."""
    if name == "memory":
        return memory.measure(device)
    if name == "start":
        return start.measure(max(3, rounds // 2))
    if name == "growth":
        tables: dict[str, list[Content]] = {}
        for table, row in growth.measure_all(max(1, rounds // 3), device):
            tables.setdefault(table, []).append(row.as_json())
            print(f"growth, {table} {row.title}: {row.ratio(RAW)} of the raw loop's time", flush=True)
        return tables
    row = measure_apart(name, rounds, device, peers)
    for rival in row.seconds:
        print(f"{name}, {rival}: {row.microseconds(rival):,.1f} µs a step; ours {row.ratio(rival)} of it", flush=True)
    return row.as_json()


def half_rate(content: Content) -> bool:
    """Whether MKL ran at half rate."""
    return "MKL" in content["rates"] and is_half_rate(content["rates"])


def make(content: Content, *, cuda: bool = False) -> dict[str, str]:
    """Return the sections of the page by their marks."""
    rows = content["rows"]
    half = half_rate(content)
    targets = report.CUDA_TARGETS if cuda else report.TARGETS
    stepped = any(report.timed(rows))
    numbers = {len(next(iter(row.seconds.values()))) for row in report.timed(rows)}
    sections = {"machine": report.about(content["machine"], content["rates"])}
    if stepped:
        spread = (
            f"Rounds: {', '.join(map(str, sorted(numbers)))}. Median (middle half); ratios with their 95 % interval."
        )
        sections["steps"] = f"{report.steps(rows, half_rate=half, targets=targets)}\n\n{spread}"
        sections["products"] = report.products(rows)
        sections["peers"] = report.peers(rows, half_rate=half)
        sections["apart"] = report.apart(rows)
        sections["losses"] = report.losses(rows)
    if "gpt2" in rows:
        sections["chip"] = report.chip_share(Row.from_json(rows["gpt2"]), content["rates"])
    if "memory" in rows:
        sections["memory"] = report.memory(rows["memory"], {name: work.title for name, work in WORKS.items()})
    if "start" in rows:
        sections["start"] = report.start(rows["start"])
    if "growth" in rows:
        sections["growth"] = report.growth(rows["growth"])
    return sections


def write(content: Content, path: Path) -> None:
    """Write every number."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page(content: Content, sections: dict[str, str]) -> None:
    """Renew the page's sections that were measured, and its picture."""
    for mark, section in sections.items():
        if section and mark != "chip":
            rewrite(DOCS / "speed.md", f"bench: speed {mark}", section)
    if any(report.timed(content["rows"])):
        draw(content["rows"], report.TARGETS, DOCS / "speed.png", half_rate=half_rate(content))
