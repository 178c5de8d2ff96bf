#!/usr/bin/env bash
# Format, lint, types, tests; --slow adds the tests that take minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
marker="not slow"
if [ "${1:-}" = "--slow" ]; then marker=""; fi
ruff format --check .
ruff check .
mypy
# one thread a process: those that share cores wait for each other's threads
OMP_NUM_THREADS=1 python -m pytest --numprocesses logical --dist worksteal -m "$marker"
