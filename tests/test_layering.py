"""Who may import whom: the plan of the house, held by reading every import."""

import ast
from pathlib import Path

import pytest

import framework

ROOT = Path(framework.__file__).parent

TIERS = [
    {"errors", "untrusted"},
    {"registry", "functions"},
    {"batching", "parameters", "history"},
    {
        "losses",
        "optimizers",
        "schedulers",
        "regularizers",
        "initializers",
        "models",
        "datasets",
        "metrics",
    },
    {
        "signals",
        "distributed",
        "determinism",
        "allocator",
        "precision",
        "checkpoint",
        "tensorboard",
        "callbacks",
        "plotting",
    },
    {
        "objective",
        "backprop",
        "gradients",
        "meters",
        "monitor",
        "limits",
        "learning_rate",
        "evaluation",
        "evaluation_weights",
        "faults",
        "record",
        "resuming",
        "reporting",
        "shares",
        "profiling",
        "environment",
        "predictions",
    },
    {"trainer"},
    {"plugins", "config"},
    {"run", "account"},
    {"export", "testing"},
    {"cli", "__main__"},
]
"""Rooms, from the ground up: none imports a room of a higher tier when it is imported itself."""

OUTSIDE = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "tensorboard": {"tensorboard"},
    "matplotlib": {"plotting"},
    "torch": set().union(*TIERS) - {"errors", "untrusted", "registry", "config", "plugins", "cli", "__main__"},
}
"""Packages that only some rooms may import at all, even inside functions."""

NEVER = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
CALLS = {"eval", "exec", "__import__"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def type_checking_only(tree: ast.AST) -> set[ast.AST]:
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {child for block in blocks for child in ast.walk(block)}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return (module, at import time) of every import that runs."""
    tree = ast.parse(path.read_text())
    hidden = type_checking_only(tree)
    inner = {c for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for c in ast.walk(f)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "framework":
                names = [f"framework.{alias.name}" for alias in node.names]
            found += [(name, node not in inner) for name in names]
    return found


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]
TIER = {name: i for i, tier in enumerate(TIERS) for name in tier}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_imports_a_higher_one(path: Path):
    assert room(path) in TIER, f"{room(path)} has no place in the plan: add it to TIERS"
    for module, at_import in imports(path):
        top, _, rest = module.partition(".")
        if top == "framework" and rest and at_import:
            target = rest.partition(".")[0]
            assert TIER[target] <= TIER[room(path)], f"{path} imports {module}"
        if top in OUTSIDE:
            assert room(path) in OUTSIDE[top], f"{path} imports {module}"
        assert top not in NEVER, f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_from_strings(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"{path}:{node.lineno} calls {node.func.id}"


def test_step_fits_on_a_screen():
    tree = ast.parse((ROOT / "trainer" / "steps.py").read_text())
    step = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "step")
    assert step.end_lineno is not None
    assert step.end_lineno - step.lineno + 1 <= 40
