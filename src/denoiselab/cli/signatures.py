"""Limits in a part's signature, read from its source without running it, so that torch is not imported.

A `_target_` is followed through the imports of its packages to the class or function. A constructor's **kwargs stand
for the parameters of the class's bases, or of the TypedDict that it unpacks.
"""

import ast
import collections.abc
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from denoiselab import limits

_MODULES = {module.__name__: module for module in (typing, collections.abc, limits)}  # modules used in limits
_BUILTINS = {kind.__name__: kind for kind in (*limits.PLAIN, list, tuple)}
_PLAIN = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.Constant, ast.BitOr, ast.USub, ast.Load, ast.keyword)


class Source(NamedTuple):
    name: str
    defined: dict[str, ast.stmt]
    imported: dict[str, str]  # full names of imported ones


@cache
def limits_of(target: str) -> dict[str, Any]:
    """Return the type hint of each parameter with a limit; empty if the target's source is not found."""
    try:
        return {name: hint for name, hint in _parameters(target).items() if limits.limited(hint)}
    except RecursionError:  # circular names
        return {}


@cache
def _source(module: str) -> Source | None:
    root, *inner = module.split(".")
    try:
        spec = find_spec(root)  # does not execute a top-level module
        for i in range(len(inner)):
            folders = spec and spec.submodule_search_locations
            spec = PathFinder.find_spec(".".join([root, *inner[: i + 1]]), folders) if folders else None
        if spec is None or spec.origin is None:
            return None
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        return _read(module, module if spec.submodule_search_locations else spec.parent or "", body)
    except (ImportError, OSError, SyntaxError, ValueError):  # reported when it is imported
        return None


def _read(module: str, package: str, body: Sequence[ast.stmt]) -> Source:
    source = Source(module, {}, {})
    for statement in _statements(body):
        match statement:
            case ast.ImportFrom():
                home = resolve_name("." * statement.level + (statement.module or ""), package)
                source.imported.update({name.asname or name.name: f"{home}.{name.name}" for name in statement.names})
            case ast.Import():
                shorts = {name.name.partition(".")[0]: name.name.partition(".")[0] for name in statement.names}
                source.imported.update(shorts | {n.asname: n.name for n in statement.names if n.asname})
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                source.defined[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                source.defined[name] = statement
    return source


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the top-level statements of a module, including those inside `if` and `try`."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements([*statement.body, *statement.orelse])


def _find(name: str) -> tuple[Source, ast.stmt] | None:
    """Find the definition of "package.module.Name", following imports."""
    for i in range(name.count("."), 0, -1):
        first, *rest = name.split(".")[i:]
        source = _source(name.rsplit(".", len(rest) + 1)[0])
        if source is not None:
            elsewhere = ".".join([source.imported.get(first, name), *rest])
            if first in source.imported and elsewhere != name:
                return _find(elsewhere)
            return (source, source.defined[first]) if first in source.defined and not rest else None
    return None


def _full(node: ast.expr, source: Source) -> str:
    """Return the full name that a name in a module refers to."""
    first, dot, rest = ast.unparse(node).partition(".")
    return source.imported.get(first, f"{source.name}.{first}") + dot + rest


def _parameters(target: str) -> dict[str, Any]:
    match _find(target):
        case source, ast.Assign(value=ast.Name() | ast.Attribute() as other):
            return _parameters(_full(other, source))
        case source, ast.FunctionDef() as function:
            return _arguments(function, source)
        case source, ast.ClassDef() as made:
            init = next((f for f in made.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            fields = [(f.target, f.annotation) for f in made.body if isinstance(f, ast.AnnAssign)]
            own = {target.id: _hint(hint, source) for target, hint in fields if isinstance(target, ast.Name)}
            own = own if init is None else _arguments(init, source)
            bases = made.bases if init is None or init.args.kwarg else []
            named = [base.value if isinstance(base, ast.Subscript) else base for base in bases]  # Sampler[State]
            return {k: hint for base in named[::-1] for k, hint in _parameters(_full(base, source)).items()} | own
    return {}


def _arguments(function: ast.FunctionDef, source: Source) -> dict[str, Any]:
    args = function.args
    known = {a.arg: _hint(a.annotation, source) for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    match args.kwarg:
        case ast.arg(annotation=ast.Subscript(slice=fields)):  # Unpack[...]
            return _parameters(_full(fields, source)) | known
    return known


class _Unknown(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Other(metaclass=_Unknown):
    """Placeholder for types that limits do not use."""

    def __class_getitem__(cls, _: Any) -> type:
        return cls


class _Names(dict[str, Any]):
    """Namespace in which a module's annotations are evaluated."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __missing__(self, name: str) -> Any:
        if name in _BUILTINS:
            return _BUILTINS[name]
        full = self.source.imported.get(name, f"{self.source.name}.{name}")
        home, _, last = full.rpartition(".")
        if full in _MODULES or home in _MODULES:
            return _MODULES.get(full) or getattr(_MODULES[home], last, Other)
        match _find(full):
            case source, ast.Assign(value=value) | ast.AnnAssign(value=value):
                return _hint(value, source)
        return Other


def _hint(node: ast.expr | None, source: Source) -> Any:
    """Evaluate an annotation; Other if it contains more than names, literals and Limit(...)."""
    if node is None:
        return Other
    for part in ast.walk(node):
        match part:
            case ast.Call(func=called) if ast.unparse(called).rpartition(".")[2] == "Limit":
                continue
            case ast.BinOp(op=ast.BitOr()) | ast.UnaryOp(op=ast.USub()):
                continue
        if not isinstance(part, _PLAIN):
            return Other
    try:
        hint = eval(compile(ast.Expression(node), source.name, "eval"), {"__builtins__": {}}, _Names(source))
        return _hint(ast.parse(hint, mode="eval").body, source) if isinstance(hint, str) else hint
    except (SyntaxError, TypeError, ValueError):
        return Other
