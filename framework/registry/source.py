"""Reads components and their options out of source files, so that listing them imports nothing."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framework.errors import ConfigError
from framework.registry.values import NAMED


class Missing:
    """The default of an option that has none."""

    def __repr__(self) -> str:
        return "???"


MISSING: Final = Missing()


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter: its name, its type, and its default or MISSING."""

    name: str
    annotation: Any
    default: Any


@dataclass(frozen=True)
class Signature:
    """What a constructor takes: `runtime` from the framework, `options` from the configuration."""

    runtime: tuple[str, ...]
    options: tuple[Option, ...]


Definition = ast.ClassDef | ast.FunctionDef


class Module:
    """The definitions of one source file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        except SyntaxError as error:
            raise ConfigError(f"{path}:{error.lineno} is not Python: {error.msg}.") from error
        except (MemoryError, RecursionError):  # the first is the parser's own
            raise ConfigError(f"{path} is not Python that can be read: it is nested too deep.") from None
        self.definitions = {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        self.names: dict[str, ast.expr] = {}
        self.imports: dict[str, str] = {}
        for node in _statements(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.names[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.names[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self.imports |= {a.asname or a.name: f"{node.module}:{a.name}" for a in node.names}

    def decorated(self, kinds: frozenset[str]) -> Iterator[tuple[str, str, Definition]]:
        """Yield (kind, registered name, definition) for every `@kind("name")` at the top level."""
        for definition in self.definitions.values():
            for call in definition.decorator_list:
                if isinstance(call, ast.Call) and (kind := _last_name(call.func)) in kinds and call.args:
                    name = call.args[0]
                    if isinstance(name, ast.Constant) and isinstance(name.value, str):
                        yield kind, name.value, definition

    def signature(self, definition: Definition) -> Signature:
        """Read a constructor: `__init__`, a dataclass's fields, a function, or a base class's."""
        if isinstance(definition, ast.FunctionDef):
            return self._of_arguments(definition.args, skip=0)
        for node in definition.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return self._of_arguments(node.args, skip=1)
        if any(_last_name(d) == "dataclass" for d in definition.decorator_list):
            return self._of_fields(definition)
        for base in definition.bases:
            if (name := _last_name(base)) in self.definitions:
                return self.signature(self.definitions[name])
            if name in self.imports and (found := _imported(self.imports[name])):
                module, name = found
                return module.signature(module.definitions[name])
        return Signature((), ())

    def value(self, node: ast.expr | None) -> Any:
        """Interpret a constant or an annotation: literals, and names of known types. Nothing is run.

        Raises LookupError for anything else.
        """
        if node is None:
            return Any
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Attribute):
            return self._named(node.attr)
        if isinstance(node, ast.Subscript):
            return self.value(node.value)[self._index(node.slice)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self.value(node.left) | self.value(node.right)
        if isinstance(node, ast.Call) and self.value(node.func) in NAMED.values():
            keywords = {k.arg: self.value(k.value) for k in node.keywords if k.arg}
            return self.value(node.func)(*map(self.value, node.args), **keywords)
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise LookupError(ast.unparse(node)) from None

    def _index(self, node: ast.expr) -> Any:
        return tuple(map(self.value, node.elts)) if isinstance(node, ast.Tuple) else self.value(node)

    def _named(self, name: str) -> Any:
        if name in NAMED:
            return NAMED[name]
        if name in self.names:
            return self.value(self.names[name])
        if name in self.imports and (found := _imported(self.imports[name])):
            return found[0].value(found[0].names[found[1]])
        raise LookupError(name)

    def _option(self, name: str, annotation: ast.expr | None, default: ast.expr | None) -> Option:
        try:
            value = MISSING if default is None else self._default(default)
            return Option(name, self.value(annotation), value)
        except LookupError as error:
            raise ConfigError(
                f"{self.path}: option '{name}' uses {error}, which is no configuration type. Use "
                f"float, int, bool, str, None, list, tuple, dict, Literal or Annotated[..., Range(...)]."
            ) from None

    def _default(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and _last_name(node.func) == "field":
            keywords = {k.arg: k.value for k in node.keywords}
            factory = keywords.get("default_factory")
            if factory is None:
                return self._default(keywords["default"]) if "default" in keywords else MISSING
            if isinstance(factory, ast.Lambda):
                return self.value(factory.body)
            return self.value(factory)()
        return self.value(node)

    def _of_arguments(self, arguments: ast.arguments, skip: int) -> Signature:
        keyword_only = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        options = tuple(self._option(a.arg, a.annotation, default) for a, default in keyword_only)
        return Signature(tuple(a.arg for a in (arguments.posonlyargs + arguments.args)[skip:]), options)

    def _of_fields(self, definition: ast.ClassDef) -> Signature:
        runtime: list[str] = []
        options: list[Option] = []
        keyword_only = any(
            k.arg == "kw_only" for d in definition.decorator_list if isinstance(d, ast.Call) for k in d.keywords
        )
        for node in definition.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            annotation = _last_name(node.annotation)
            if annotation == "KW_ONLY":
                keyword_only = True
            elif annotation != "ClassVar" and not _is_internal(node.value):
                if keyword_only:
                    options.append(self._option(node.target.id, node.annotation, node.value))
                else:
                    runtime.append(node.target.id)
        return Signature(tuple(runtime), tuple(options))


def _is_internal(default: ast.expr | None) -> bool:
    """Tell a dataclass field that is no parameter: `field(init=False)`."""
    return isinstance(default, ast.Call) and any(
        k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in default.keywords
    )


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def summary(definition: Definition) -> str:
    """Return the first line of a definition's docstring."""
    return (ast.get_docstring(definition) or "").partition("\n")[0]


@functools.cache
def read_module(path: Path) -> Module:
    """Parse a source file, once a process."""
    return Module(path)


def _imported(target: str) -> tuple[Module, str] | None:
    """Find the source of `module:name` among this package's own modules, through those that pass it on."""
    module, _, name = target.partition(":")
    path = find_source(module) if module.partition(".")[0] == "framework" else None
    if path is None:
        return None
    found = read_module(path)
    if name in found.definitions or name in found.names:
        return found, name
    return _imported(found.imports[name]) if name in found.imports else None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the top level's statements, those under `if TYPE_CHECKING` included."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else (node,)


def find_source(module: str) -> Path | None:
    """Return the file of a module of this package without importing it."""
    root = importlib.util.find_spec("framework")
    assert root is not None
    assert root.submodule_search_locations
    path = Path(root.submodule_search_locations[0]).joinpath(*module.split(".")[1:])
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
