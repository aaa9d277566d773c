"""Peers' configs as data: mappings, YAML and JSON files, Python text read for literals and calls, never executed."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_solver.errors import SolverError

SUFFIXES = (".py", ".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Call:
    """A constructor call as data.

    Args:
        name: Name of what is called, without its module: ``StepLR`` for ``lr_scheduler.StepLR(...)``.
        args: Positional arguments; names that stand for objects (``optimizer``) are :class:`Name`.
        kwargs: Arguments by name.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def bound(self, names: Sequence[str], where: str) -> dict[str, Any]:
        """The arguments by name, the positional ones named in order by ``names``.

        Raises:
            SolverError: More positional arguments than names, or one given twice.
        """
        if len(self.args) > len(names):
            got = f"{len(self.args)} for {', '.join(names)}"
            raise SolverError(where, f"{self.name} has too many arguments", got=got, do="name them")
        bound = dict(zip(names, self.args))
        for name, value in self.kwargs.items():
            if name in bound:
                raise SolverError(f"{where}.{name}", "is given twice", got=repr(value), do="give it once")
            bound[name] = value
        return bound


@dataclass(frozen=True)
class Name:
    """A name in Python text that stands for something that is not data, such as ``optimizer``."""

    text: str


@dataclass(frozen=True)
class Unread:
    """A piece of Python text that is not data: a function, a condition, a comprehension."""

    text: str


def load(config: Any, where: str = "config") -> Any:
    """A config as data: what is in a file, if it is the path of one; anything else as it is.

    Raises:
        SolverError: A file that is not there, or that cannot be read.
    """
    is_path = isinstance(config, Path) or (
        isinstance(config, str) and config.endswith(SUFFIXES) and "(" not in config and "\n" not in config
    )
    if not is_path:
        return config
    path = Path(config)
    if path.suffix not in SUFFIXES:
        do = f"give one of {', '.join(SUFFIXES)}"
        raise SolverError(where, "is not a file of a kind that is read", got=str(path), do=do)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SolverError(where, f"cannot be read: {error}", got=str(path), do="correct the path") from error
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SolverError(where, f"is not JSON: {error}", got=str(path), do="mend it") from error
    if path.suffix == ".py":
        return _with_bases(read_python(text, str(path)), path)
    import yaml  # comes with jsonargparse

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SolverError(where, f"is not YAML: {error}", got=str(path), do="mend it") from error


def _with_bases(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config with what its ``_base_`` files hold beneath it, as the OpenMMLab projects merge them."""
    bases = data.pop("_base_", None)
    if bases is None:
        return data
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str):
            raise SolverError(f"{path}: _base_", "must name files", got=repr(base), do="give paths")
        merged.update(load(path.parent / base, f"{path}: _base_"))
    return _merged(merged, data)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not value.get("_delete_", False):
            result[key] = _merged(old, value)
        elif isinstance(value, Mapping):
            result[key] = {name: inner for name, inner in value.items() if name != "_delete_"}
        else:
            result[key] = value
    return result


# ------------------------------------------------------------------ Python text


def load_mapping(config: Any) -> Mapping[str, Any]:
    """A config that has to be a mapping: given as one, as the text of a Python config, or as a path.

    Raises:
        SolverError: It is something else.
    """
    data = load(config)
    data = read_python(data) if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise SolverError("config", "must be a mapping", got=repr(data)[:120], do="give a config, or its path")
    return data


def read_python(text: str, where: str = "config") -> dict[str, Any]:
    r"""The assignments of a Python file as data, in order; what is not data becomes :class:`Unread` or :class:`Name`.

    Numbers are worked out (``20 * 1252``), names that were assigned before are followed, ``dict(...)`` is a mapping,
    every other call a :class:`Call`. A bare call is kept under the key ``calls``. Nothing is executed.

    Example:
        >>> read_python("epochs = 100\nlr_config = dict(policy='step', step=[epochs // 2])")
        {'epochs': 100, 'lr_config': {'policy': 'step', 'step': [50]}}
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        got = repr((error.text or text).strip()[:80])
        raise SolverError(where, f"is not Python: {error.msg}", got=got, do="mend it") from None
    found: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            value = _value(statement.value, found)
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = value
                elif isinstance(target, (ast.Attribute, ast.Subscript)):
                    _assign_inside(target, value, found)
                elif isinstance(target, (ast.Tuple, ast.List)):
                    _unpack(target, value, found)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            found[statement.target.id] = _value(statement.value, found)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, (ast.Call, ast.List, ast.Tuple)):
            value = _value(statement.value, found)
            found.setdefault("calls", []).extend(value if isinstance(value, (list, tuple)) else [value])
    return found


def _unpack(target: ast.Tuple | ast.List, value: Any, found: dict[str, Any]) -> None:
    """``a, b = 1, 2``; of what a call gives, the first name stands for the call (``scheduler, _ = make(...)``)."""
    several = isinstance(value, (list, tuple)) and len(value) == len(target.elts)
    for i, name in enumerate(target.elts):
        if isinstance(name, ast.Name):
            found[name.id] = value[i] if several else value if i == 0 else Unread(ast.unparse(target))


def _assign_inside(target: ast.Attribute | ast.Subscript, value: Any, found: dict[str, Any]) -> None:
    """``cfg.SOLVER.MAX_ITER = 300`` and ``optimizer["lr"] = 0.1``; owners that are not data yet become mappings."""
    path: list[Any] = []
    node: ast.expr = target
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        path.append(node.attr if isinstance(node, ast.Attribute) else _value(node.slice, found))
        node = node.value
    if not isinstance(node, ast.Name):
        return
    owner: Any = found
    for key in (node.id, *path[:0:-1]):
        owner = _inside(owner, key)
    inside = owner.kwargs if isinstance(owner, Call) else owner
    if isinstance(inside, (dict, list)):
        with contextlib.suppress(TypeError, IndexError):  # an index that is not there
            inside[path[0]] = value


def _inside(owner: Any, key: Any) -> Any:
    """What ``owner`` has under ``key``; a new mapping where that is no data that could hold something."""
    holder = owner.kwargs if isinstance(owner, Call) else owner
    if isinstance(holder, dict):
        if not isinstance(holder.get(key), (dict, list, Call)):
            holder[key] = {}
        return holder[key]
    return holder[key] if isinstance(holder, list) and isinstance(key, int) and key < len(holder) else None


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _value(node: ast.expr, found: Mapping[str, Any]) -> Any:
    value = functools.partial(_value, found=found)
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Set)):
        return [value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {value(key): value(item) for key, item in zip(node.keys, node.values) if key is not None}
    if isinstance(node, ast.Name):
        return found.get(node.id, Name(node.id))
    if isinstance(node, ast.Attribute):
        owner = value(node.value)
        holder = owner.kwargs if isinstance(owner, Call) else owner
        if isinstance(holder, Mapping) and node.attr in holder:
            return holder[node.attr]
        return Name(ast.unparse(node))
    if isinstance(node, (ast.UnaryOp, ast.BinOp)):
        return _worked_out(node, found)
    if isinstance(node, ast.Call):
        return _call(node, found)
    return Unread(ast.unparse(node))


def _worked_out(node: ast.UnaryOp | ast.BinOp, found: Mapping[str, Any]) -> Any:
    operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    values = [_value(operand, found) for operand in operands]
    if not all(isinstance(value, (int, float)) for value in values):
        return Unread(ast.unparse(node))
    if isinstance(node, ast.UnaryOp):
        return -values[0] if isinstance(node.op, ast.USub) else Unread(ast.unparse(node))
    try:
        if isinstance(node.op, ast.Pow) and abs(values[0]) <= 1e6 and abs(values[1]) <= 64:
            return values[0] ** values[1]
        return _BINARY[type(node.op)](*values) if type(node.op) in _BINARY else Unread(ast.unparse(node))
    except (ZeroDivisionError, OverflowError):
        return Unread(ast.unparse(node))


_NUMBERS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "round": round}


def _call(node: ast.Call, found: Mapping[str, Any]) -> Any:
    function = node.func
    args = tuple(_value(item, found) for item in node.args)
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        inner = _value(keyword.value, found)
        if keyword.arg is not None:
            kwargs[keyword.arg] = inner
        elif isinstance(inner, Mapping):
            kwargs.update(inner)
        else:
            return Unread(ast.unparse(node))
    if isinstance(function, ast.Call) and isinstance(function.func, ast.Name) and len(function.args) == 1:
        return Call(_short(function.args[0]), args, kwargs)  # L(Class)(...), LazyCall(Class)(...)
    name = _short(function)
    if name == "dict" and not args:
        return kwargs
    if name in ("list", "tuple", "set") and len(args) == 1 and isinstance(args[0], (list, tuple, dict, str)):
        return list(args[0]) if name != "tuple" else tuple(args[0])
    if name in _NUMBERS and len(args) == 1 and isinstance(args[0], (int, float)):
        return _NUMBERS[name](args[0])
    return Call(name, args, kwargs)


def _short(node: ast.expr) -> str:
    return (
        node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ast.unparse(node)
    )


def read_calls(config: Any, where: str) -> list[Call]:
    """Constructor calls, however they are written down.

    Text of one or more calls; a mapping with ``type``, ``class_path``, ``_target_`` or ``name`` and arguments beside it
    or under ``init_args``; a mapping of one class name to its arguments; a ``functools.partial``; a list of these.

    Raises:
        SolverError: None of these.
    """
    if isinstance(config, Call):
        return [config]
    if isinstance(config, str):
        if "(" not in config:
            return [Call(config.rpartition(".")[2])]
        data = read_python(config, where)
        calls = data.pop("calls", [])
        return [*(value for value in data.values() if isinstance(value, Call)), *read_calls(calls, where)]
    if isinstance(config, (list, tuple)):
        return [call for i, item in enumerate(config) for call in read_calls(item, f"{where}[{i}]")]
    if isinstance(config, functools.partial):
        return [Call(config.func.__name__, config.args, config.keywords)]
    if isinstance(config, Mapping):
        for key in ("class_path", "type", "_target_", "name"):
            if key in config:
                name = (
                    config[key] if isinstance(config[key], str) else getattr(config[key], "__name__", repr(config[key]))
                )
                rest = {other: value for other, value in config.items() if other != key}
                inner = rest.pop("init_args", None) or rest.pop("dict_kwargs", None)
                return [Call(name.rpartition(".")[2], (), inner if isinstance(inner, Mapping) else rest)]
        if len(config) == 1:
            ((name, arguments),) = config.items()
            if isinstance(arguments, Mapping):
                return [Call(str(name), (), arguments)]
    do = "give the text of a constructor call, or a mapping with type and arguments"
    raise SolverError(where, "is not a constructor call", got=repr(config)[:120], do=do)
