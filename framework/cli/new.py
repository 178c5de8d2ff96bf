"""framework new: a plugin to begin with, which works as it is written."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib import resources
from pathlib import Path

from framework import plugins, registry
from framework.errors import ConfigError, Exit, nearest

FORM = "framework new KIND NAME [--file]"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FUNCTIONS = ("data",)
"""Kinds whose example is a function, not a class."""


def new(arguments: list[str]) -> Exit:
    """Write `plugins/NAME/`, or with --file `plugins/NAME.py`, and say what can be done with it."""
    flags = [word for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    if flags not in ([], ["--file"]) or len(words) != 2:
        kinds = "|".join(registry.KINDS)
        raise ConfigError(f"new needs a kind and a name: {FORM.replace('KIND', kinds)}.")
    kind, name = words
    if kind not in registry.KINDS:
        raise ConfigError(f"there is no kind '{kind}': {nearest(kind, registry.KINDS)}")
    check_name(kind, name)
    written = write(kind, name, Path("plugins"), single=bool(flags))
    for path in written:
        print(f"wrote {path}")
    module = next(path for path in written if path.suffix == ".py")
    steps = [(_command(_example(module)), "use it"), (f"framework check plugin {name}", "hold it to the contract")]
    if not flags:
        steps.insert(1, (f"python -m pytest plugins/{name}", "run its tests"))
        steps.append((f"pip install ./plugins/{name}", "install it; it is published as it stands"))
    width = max(len(command) for command, _ in steps)
    for command, purpose in steps:
        print(f"{command:{width}}  # {purpose}")
    return Exit.OK


def check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that no plugin can have, or that is taken."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"a name is lower-case words joined by '_', such as my_{kind}, and no keyword, got '{name}'.")
    if name.startswith("test"):
        raise ConfigError(f"'{name}': pytest takes what starts with 'test' for a test; choose another name.")
    for other in (*plugins.discover().components, *registry.components(kind).values()):
        if (other.kind, other.name) == (kind, name):
            raise ConfigError(f"{kind} '{name}' is taken by {other.origin or other.module}; choose another name.")
    for path in (Path("plugins", name), Path("plugins", f"{name}.py")):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} exists: choose another name, or remove it.")
    module = _module(name)
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"a plugin with the module {module} is installed: choose another name.")


def write(kind: str, name: str, folder: Path, *, single: bool = False) -> list[Path]:
    """Write the example of a kind under a name, as a folder or a single file, and return the files."""
    text = _template(f"{kind}.py")
    # a class named as something that the example or its test imports would take its place
    taken = {*re.findall(r"\w+", text + _template(f"{kind}_test.py")), *keyword.kwlist}
    word, longer = (name, f"{name}_{kind}") if kind in FUNCTIONS else (_capitals(name), _capitals(f"{name}_{kind}"))
    attribute = longer if word in taken else word
    values = {"kind": kind, "name": name, "Name": attribute, "module": _module(name)}
    values |= {"distribution": f"chainrule-{name.replace('_', '-')}", "noun": "data set" if kind == "data" else kind}
    if single:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder / f"{name}.py", _filled(text, values))]
    home = folder / name
    home.mkdir(parents=True)
    module = _write(home / f"{values['module']}.py", _filled(text, values))
    example = _example(module)
    values |= {"run": _command(example), "summary": example.summary[0].lower() + example.summary[1:]}
    return [
        _write(home / "pyproject.toml", _filled(_template("pyproject.toml"), values)),
        module,
        _write(home / f"test_{name}.py", _filled(_template(f"{kind}_test.py"), values)),
        _write(home / "README.md", _filled(_template("README.md"), values)),
    ]


def _capitals(name: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


def _module(name: str) -> str:
    return f"chainrule_{name}"


def _example(module: Path) -> registry.Component:
    """Return the component that a written file defines."""
    return next(registry.read_components(module, module.stem))


def _command(example: registry.Component) -> str:
    """Return a command that chooses a component and one of its options."""
    kind = registry.KINDS[example.kind]
    option = example.signature.options[0]
    if kind.plural:
        return f"framework {kind.name}=[{example.name}] {kind.name}.{example.name}.{option.name}={option.default}"
    return f"framework {kind.name}={example.name} {kind.name}.{option.name}={option.default}"


def _template(name: str) -> str:
    return resources.files("framework.cli").joinpath("templates", f"{name}.txt").read_text(encoding="utf-8")


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda m: values[m[1]], text)


def _write(path: Path, text: str) -> Path:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
