#!/usr/bin/env bash
# Format, lint, types, tests; --slow adds the tests that take minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
marker="not slow"
if [ "${1:-}" = "--slow" ]; then marker=""; fi
ruff format --check .
ruff check .
mypy
python -m pytest -m "$marker"
