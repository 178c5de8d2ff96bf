"""Reads components and their options out of source files, so that listing them imports nothing."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framework.errors import ConfigError
from framework.registry.places import NOWHERE, Places, beside, own
from framework.registry.values import NAMED


class Missing:
    """The default of an option that has none."""

    def __repr__(self) -> str:
        return "???"

    def __reduce__(self) -> str:
        return "MISSING"  # the one of this module, in another process too


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


@dataclass(frozen=True)
class Import:
    """What a name was imported from: `from {level dots}{module} import {name}`, or with no name, `import module`."""

    module: str
    name: str = ""
    level: int = 0


class Module:
    """The definitions of one source file; what it imports is followed within this package and `places`."""

    def __init__(self, path: Path, places: Places) -> None:
        self.path = path
        self.places = places
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        except SyntaxError as error:
            raise ConfigError(f"{path}:{error.lineno} is not Python: {error.msg}.") from error
        except (MemoryError, RecursionError):  # the first is the parser's own
            raise ConfigError(f"{path} is not Python that can be read: it is nested too deep.") from None
        self.definitions = {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        self.names: dict[str, ast.expr] = {}
        self.imports: dict[str, Import] = {}
        self.passed_on: list[Import] = []
        for node in _statements(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.names[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.names[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom):
                self._take_names(node)
            elif isinstance(node, ast.Import):
                whole = {a.asname or a.name: Import(a.name) for a in node.names if a.asname or "." not in a.name}
                self.imports |= whole

    def _take_names(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            found = Import(node.module or "", alias.name, node.level)
            if alias.name == "*":
                self.passed_on.append(found)
            else:
                self.imports[alias.asname or alias.name] = found

    def find(self, name: str) -> tuple[Module, str] | None:
        """Return where a name of this module is defined, through the modules that pass it on; None for others'."""
        return self._find(name, set())

    def _find(self, name: str, seen: set[tuple[Path, str]]) -> tuple[Module, str] | None:
        if (self.path, name) in seen:
            return None
        seen.add((self.path, name))
        if name in self.definitions:
            return self, name
        if name in self.names:
            value = self.names[name]
            renamed = self._resolve(value, seen) if isinstance(value, ast.Name | ast.Attribute) else None
            return renamed or (self, name)
        passed_on = [Import(whole.module, name, whole.level) for whole in self.passed_on]
        for wanted in [self.imports[name]] if name in self.imports else passed_on:
            module = self._module(wanted.module, wanted.level)
            if wanted.name and module is not None and (found := module._find(wanted.name, seen)):
                return found
        return None

    def resolve(self, node: ast.expr) -> tuple[Module, str] | None:
        """Return where the name or the attribute of a module that an expression is, is defined; None for others'."""
        return self._resolve(node, set())

    def _resolve(self, node: ast.expr, seen: set[tuple[Path, str]]) -> tuple[Module, str] | None:
        if isinstance(node, ast.Subscript):
            return self._resolve(node.value, seen)
        if isinstance(node, ast.Name):
            return self._find(node.id, seen)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.imports:
            whole = self.imports[node.value.id]
            path = ".".join(filter(None, (whole.module, whole.name)))
            module = self._module(path, whole.level)
            return module._find(node.attr, seen) if module is not None else None
        return None

    def _module(self, name: str, level: int) -> Module | None:
        path = beside(self.path, level, name) if level else own().source(name) or self.places.source(name)
        return None if path is None else read_module(path, self.places)

    def signature(self, definition: Definition) -> Signature:
        """Read a constructor: `__init__`, a dataclass's fields, a function, or a base class's.

        Raises ConfigError, by file and line, where it is no schema.
        """
        if isinstance(definition, ast.FunctionDef):
            return self._of_arguments(definition.args, skip=0)
        for node in definition.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return self._of_arguments(node.args, skip=1)
        if any(_last_name(d) == "dataclass" for d in definition.decorator_list):
            return self._of_fields(definition)
        for base in definition.bases:
            found = self.resolve(base)
            parent = found[0].definitions.get(found[1]) if found else None
            if found and parent is not None and parent is not definition:
                return found[0].signature(parent)
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
            if node.attr not in NAMED and (found := self.resolve(node)):
                return found[0].value(found[0].names[found[1]])
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
        found = self.find(name)
        if found is None:
            raise LookupError(name)
        return found[0].value(found[0].names[found[1]])

    def _option(self, name: str, annotation: ast.expr | None, default: ast.expr | None) -> Option:
        line = getattr(annotation or default, "lineno", 0)
        try:
            if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
                annotation = ast.parse(annotation.value, mode="eval").body
            value = MISSING if default is None else self._default(default)
            return Option(name, self.value(annotation), value)
        except (LookupError, TypeError, ValueError, AttributeError, SyntaxError, RecursionError) as error:
            raise ConfigError(
                f"{self.path}:{line}: option '{name}' uses {error}, which is no configuration type. Use "
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
        for starred, argument in (("*", arguments.vararg), ("**", arguments.kwarg)):
            if argument is not None:
                raise ConfigError(
                    f"{self.path}:{argument.lineno}: '{starred}{argument.arg}' hides what can be configured; name each "
                    f"option after a bare '*'."
                )
        for argument in arguments.kwonlyargs:
            if argument.annotation is None:
                raise ConfigError(
                    f"{self.path}:{argument.lineno}: option '{argument.arg}' has no type; write '{argument.arg}: float "
                    f"= ...'."
                )
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


def decorations(definition: Definition, kinds: frozenset[str]) -> list[tuple[str, str]]:
    """Return (kind, registered name) of every `@kind("name")` on a definition."""
    found: list[tuple[str, str]] = []
    for call in definition.decorator_list:
        if isinstance(call, ast.Call) and (kind := _last_name(call.func)) in kinds and call.args:
            name = call.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((kind, name.value))
    return found


def summary(definition: Definition) -> str:
    """Return the first line of a definition's docstring."""
    return (ast.get_docstring(definition) or "").partition("\n")[0]


@functools.cache
def _parsed(path: Path, places: Places, changed: int) -> Module:
    return Module(path, places)


def read_module(path: Path, places: Places = NOWHERE) -> Module:
    """Parse a source file, once a process as long as it stays the same."""
    return _parsed(path, places, path.stat().st_mtime_ns)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the top level's statements, those under `if TYPE_CHECKING` included."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else (node,)
