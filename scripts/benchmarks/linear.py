"""The products of weighted sums by the kernel that is chosen for them, against torch's own."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from pages import DOCS, rewrite
from torch import Generator, Tensor, nn
from torch.nn import functional

from benchmarks import backprop
from benchmarks.arguments import Parser
from benchmarks.backprop import CASES, Case
from benchmarks.measure import interleaved, machine, ratio
from framework.functions import products
from framework.models import Transformer

ROUNDS = 15
SHAPES = (
    (64, 784, 128),
    (64, 128, 64),
    (64, 64, 10),
    (512, 784, 128),
    (512, 128, 64),
    (768, 128, 384),
    (768, 128, 128),
    (768, 128, 512),
    (768, 512, 128),
    (768, 128, 65),
)
"""Rows, inputs and outputs: of the network 784-128-64-10 at two batch sizes, and of a small language model."""
CALLS = 20
"""Calls of a product in a round."""
STEPS = 5
"""Steps of the language model in a round."""

Times = dict[str, list[float]]


def use(kernel: str) -> None:
    """Have every product from here on by what FRAMEWORK_LINEAR=kernel says."""
    os.environ["FRAMEWORK_LINEAR"] = kernel
    products.chosen_kernel.cache_clear()


def by(kernel: str, run: Callable[[], object], times: int = 1) -> Callable[[], None]:
    """Return what runs so many times with a kernel chosen."""

    def step() -> None:
        use(kernel)
        for _ in range(times):
            run()

    return step


@torch.no_grad()
def measure_products(shape: tuple[int, int, int], rounds: int) -> list[Times]:
    """Return the seconds of a Wᵀ + b, δ W and δᵀ a in each round, by kernel."""
    rows, inputs, outputs = shape
    generator = Generator().manual_seed(0)
    values, weight = (torch.randn(n, inputs, generator=generator) for n in (rows, outputs))
    delta, bias = torch.randn(rows, outputs, generator=generator), torch.zeros(outputs)
    runs: list[Callable[[], Tensor]] = [
        lambda: products.weighted_sum(values, weight, bias),
        lambda: products.input_gradient(delta, weight),
        lambda: products.weight_gradient(delta, values),
    ]
    found = []
    for run in runs:
        steps = {kernel: by(kernel, run, CALLS) for kernel in ("torch", "auto")}
        for step in steps.values():
            step()
        taken = interleaved(steps, rounds, seconds=2.0)
        found.append({kernel: [t / CALLS for t in times] for kernel, times in taken.items()})
    return found


def raw_block(case: Case, data: tuple[Tensor, Tensor]) -> float:
    """Train by a plain loop over batches in memory with torch's default Adam; return the seconds a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, (inputs, target) = torch.optim.Adam(model.parameters(), lr=1e-3), data
    done, start = 0, time.perf_counter()
    while done < case.steps:
        for chosen in torch.randperm(len(target)).split(case.batch_size)[: case.steps - done]:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[chosen]), target[chosen]).backward()
            optimizer.step()
            done += 1
    return (time.perf_counter() - start) / case.steps


def measure_mlp(case: Case, rounds: int) -> Times:
    """Return the seconds a step of the trainer by hand, by kernel, and of a plain loop, in each round."""
    generator = Generator().manual_seed(0)
    target = torch.randint(10, (case.batch_size * 50,), generator=generator)
    data = (torch.rand(len(target), *case.shape, generator=generator) + target.view(-1, 1) / 10, target)
    taken: Times = {"raw": [], "torch": [], "auto": []}

    def trained(kernel: str) -> None:
        use(kernel)
        taken[kernel].append(backprop.block(case, data, "manual")[0])

    steps = {"torch": lambda: trained("torch"), "auto": lambda: trained("auto")}
    interleaved({"raw": lambda: taken["raw"].append(raw_block(case, data)), **steps}, rounds, seconds=60.0)
    return taken


def measure_gpt(rounds: int) -> Times:
    """Return the seconds a step of a language model under autograd, by kernel, in each round."""
    generator = Generator().manual_seed(0)
    tokens = torch.randint(65, (12, 65), generator=generator)

    def trained() -> Callable[[], object]:
        torch.manual_seed(0)
        model = Transformer((64,), 65)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    steps = {kernel: trained() for kernel in ("torch", "auto")}
    losses = {}
    for kernel, step in steps.items():
        use(kernel)
        losses[kernel] = [float(step()) for _ in range(3)][-1]  # type: ignore[arg-type]  # a tensor
    if abs(losses["torch"] - losses["auto"]) > 1e-4:
        raise RuntimeError(f"the losses differ: {losses}")
    taken = interleaved({kernel: by(kernel, step, STEPS) for kernel, step in steps.items()}, rounds, seconds=30.0)
    return {kernel: [t / STEPS for t in times] for kernel, times in taken.items()}


def _pair(times: Times) -> str:
    torchs, chosen = (f"{1e6 * statistics.median(times[kernel]):.0f}" for kernel in ("torch", "auto"))
    return f"{torchs} → {chosen}"


def main(arguments: list[str]) -> int:
    """Measure, print, and write what was asked for."""
    options = Parser("linear", __doc__, ROUNDS).checked(arguments)
    use("auto")
    kernel = products.faster_kernel()
    lines = ["| rows × inputs → outputs | a Wᵀ + b, µs | δ W, µs | δᵀ a, µs |", "|---|---|---|---|"]
    found: dict[str, object] = {}
    for shape in SHAPES:
        of_shape = measure_products(shape, options.rounds)
        name = f"{shape[0]} × {shape[1]} → {shape[2]}"
        found[name] = of_shape
        lines.append(f"| {name} | {' | '.join(map(_pair, of_shape))} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "| a training step | torch's → chosen, µs | share of the time | of a plain loop's |",
        "|---|---|---|---|",
    ]
    for case in CASES[:2]:
        times = measure_mlp(case, options.rounds)
        found[case.name] = times
        shares = f"{ratio(times['auto'], times['torch'])} | {ratio(times['auto'], times['raw'])}"
        lines.append(f"| {case.name}, by hand | {_pair(times)} | {shares} |")
        print(lines[-1], flush=True)
    times = found["GPT"] = measure_gpt(options.rounds)
    lines.append(
        f"| GPT of 4 layers, width 128, 12 × 64 tokens, autograd | {_pair(times)} "
        f"| {ratio(times['auto'], times['torch'])} | |"
    )
    print(lines[-1], flush=True)
    facts = machine()
    lines += ["", f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; torch {facts['torch']}; "]
    lines[-1] += f"chosen where it pays: {kernel}; {options.rounds} rounds at most; float32."
    section = "\n".join(lines)
    print(f"\n{section}")
    if options.json:
        content = {"machine": facts, "kernel": kernel, "seconds": found}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        rewrite(DOCS / "gradients.md", "bench: linear", section)
    return 0
