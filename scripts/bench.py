"""Measure a part of the framework against what it replaces.

scripts/bench.py gradients [NAME ...]      hand-written backward passes against autograd and torch.compile
scripts/bench.py backprop                  training by hand against training by autograd
scripts/bench.py linear                    matrix products by the kernel that is chosen, against torch's
scripts/bench.py speed                     a step with everything on against the raw loop and the peers
scripts/bench.py BENCHMARK --help          what a benchmark can be told
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import backprop, gradients, linear, speed

BENCHMARKS: dict[str, Callable[[list[str]], int]] = {
    "gradients": gradients.main,
    "backprop": backprop.main,
    "linear": linear.main,
    "speed": speed.main,
}


def main(arguments: list[str]) -> int:
    """Run the benchmark that is named first with the arguments after it, and return its exit code."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not arguments or arguments[0] not in BENCHMARKS:
        given = f"got {arguments[0]!r}" if arguments else "got none"
        print(
            f"bench: the first argument must be a benchmark, {given}: choose {', '.join(BENCHMARKS)}.", file=sys.stderr
        )
        return 2
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
