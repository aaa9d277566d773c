"""The optimisers of a Python script, and the script without them. Nothing is executed."""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_solver.interop.reading import Call, Name, Unread, read_python
from lightning_solver.interop.torch.optimizer_classes import OPTIMIZERS, short_name

_PARAMETERS = ("parameters", "named_parameters")
_SEQUENCES = ("list", "tuple", "set", "iter", "filter", "map", "chain", "dict")
_FILLS = ("append", "extend", "insert", "add", "update")
_MOST_NODES = 5000


@dataclass
class Written:
    """A call that makes an optimiser.

    Args:
        name: Its class: short for one of torch, else the path as far as imports tell.
        where: The name that it is assigned to, or ``optimizer``.
        args: Its arguments by position, in which earlier names are put in.
        kwargs: Its arguments by name.
        added: What is given to ``add_param_group`` later.
    """

    name: str
    where: str
    args: list[ast.expr]
    kwargs: dict[str, ast.expr]
    added: list[ast.expr] = field(default_factory=list)


@dataclass(frozen=True)
class Script:
    """A script taken apart.

    Args:
        rest: Its text without optimisers and parameters; ``None`` where nothing but these is in it.
        optimizers: The optimisers.
        changed: Texts of assignments to groups of an optimiser, ``optimizer.param_groups[0]["lr"] = 0.1``.
        used: Names of what the optimisers are made of.
    """

    rest: str
    optimizers: tuple[Written, ...]
    changed: tuple[str, ...]
    used: frozenset[str]


def text_of(config: Any) -> str | None:
    """The text of a script: the config itself, or what is in a Python file; ``None`` for any other config."""
    if isinstance(config, str) and ("(" in config or "\n" in config):
        return config
    if isinstance(config, (str, Path)) and str(config).endswith(".py"):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # which whoever reads the file itself tells
            return Path(config).read_text(encoding="utf-8")
    return None


def read_script(text: str, others: Iterable[str] = ()) -> Script | None:
    """Take a script apart.

    Args:
        text: The script.
        others: Names of classes that are optimisers besides those of torch.

    Returns:
        ``None`` for what is not Python or has no optimisers: it is to be read as it is.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    reader = _Reader(frozenset(others))
    rest = [kept for statement in tree.body if (kept := reader.statement(statement)) is not None]
    if not reader.found and not reader.changed:
        return None
    return Script(ast.unparse(ast.Module(rest, [])), tuple(reader.found), tuple(reader.changed), reader.used)


def value_of(node: ast.expr) -> Any:
    """An expression as data, where it is; else :class:`Unread`."""
    value = readable(read_python(f"value = {ast.unparse(node)}")["value"])
    return Unread(ast.unparse(node)) if isinstance(value, Unread) else value


def readable(value: Any) -> Any:
    """A value as plain data; :class:`Unread` where something in it is not data."""
    if isinstance(value, Call) and value.name in ("tensor", "as_tensor") and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, (Call, Name)):
        return Unread(value.text if isinstance(value, Name) else f"{value.name}(...)")
    if isinstance(value, (list, tuple)):
        items = [readable(item) for item in value]
        return next((item for item in items if isinstance(item, Unread)), type(value)(items))
    return value


def names_parameters(node: ast.expr) -> bool:
    """Whether ``parameters()`` of a module stand somewhere in an expression."""
    return any(isinstance(inner, ast.Attribute) and inner.attr in _PARAMETERS for inner in ast.walk(node))


class _Reader:
    """Goes through the statements of a script in order."""

    def __init__(self, others: frozenset[str]) -> None:
        self._others = others
        self._names: dict[str, ast.expr] = {}
        self._made_of: dict[str, set[str]] = {}
        self._imports: dict[str, str] = {}
        self._by_name: dict[str, Written] = {}
        self._used: set[str] = set()
        self.found: list[Written] = []
        self.changed: list[str] = []

    @property
    def used(self) -> frozenset[str]:
        """Names of what the optimisers are made of."""
        return frozenset(self._used)

    def statement(self, node: ast.stmt) -> ast.stmt | None:
        """What is left of a statement without optimisers; ``None`` for nothing."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self._assigned(node, node.targets[0], node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            return self._assigned(node, node.target, node.value)
        elif isinstance(node, ast.Expr):
            return self._bare(node)
        elif isinstance(node, (ast.For, ast.While)):
            self._loop(node)
        return node

    def _loop(self, node: ast.For | ast.While) -> None:
        """Forget what is in lists that a loop fills: they are empty from here on."""
        for inner in ast.walk(node):
            owner: ast.expr | None = None
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in _FILLS:
                owner = inner.func.value
            elif isinstance(inner, ast.AugAssign):
                owner = inner.target
            filled = [one.id for one in ast.walk(owner) if isinstance(one, ast.Name)] if owner is not None else []
            for name in filled:
                if isinstance(self._names.get(name), ast.List):
                    self._names[name] = ast.List([], ast.Load())

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                self._imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif alias.asname:
                self._imports[alias.asname] = alias.name

    def _assigned(self, node: ast.Assign | ast.AnnAssign, target: ast.expr, written: ast.expr) -> ast.stmt | None:
        if not isinstance(target, ast.Name):
            if "param_groups" in ast.unparse(target):
                self.changed.append(ast.unparse(node))
                return None
            node.value = self._without(written)
            return node
        if ast.unparse(written) == "list()":
            written = ast.List([], ast.Load())
        value = self._put_in(written)
        made = self._optimizer(value, target.id)
        if made is not None:
            self.found.append(made)
            self._used |= self._names_in(written)
            self._by_name[target.id] = made
            return None
        node.value = self._without(written)
        known = self._is_data(value) and sum(1 for _ in ast.walk(value)) <= _MOST_NODES
        if known:
            self._made_of[target.id] = self._names_in(written)
            self._names[target.id] = value
        else:
            self._names.pop(target.id, None)
        return None if known and names_parameters(value) else node

    def _bare(self, node: ast.Expr) -> ast.stmt | None:
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.args:
            owner, attribute = value.func.value, value.func.attr
            if attribute == "add_param_group" and isinstance(owner, ast.Name):
                made = self._by_name.get(owner.id)
                if made is not None:
                    made.added.append(self._put_in(value.args[0]))
                    self._used |= self._names_in(value.args[0])
                    return None
        if isinstance(value, (ast.List, ast.Tuple)):
            value.elts = [item for item in value.elts if not self._takes(item)]
            if not value.elts:
                return None
        elif self._takes(value):
            return None
        node.value = self._without(value)
        return node

    def _takes(self, value: ast.expr) -> bool:
        """Whether an expression makes an optimiser, which is then found."""
        made = self._optimizer(self._put_in(value))
        if made is not None:
            self.found.append(made)
            self._used |= self._names_in(value)
        return made is not None

    def _without(self, node: ast.expr) -> ast.expr:
        """An expression with names in place of the optimisers that are made in it."""
        reader = self

        class Replace(ast.NodeTransformer):
            def visit_Call(self, call: ast.Call) -> ast.expr:
                if reader._takes(call):
                    return ast.Name("optimizer")
                self.generic_visit(call)
                return call

            def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
                return node

        replaced: ast.expr = Replace().visit(node)
        return replaced

    def _optimizer(self, node: ast.expr, assigned: str = "") -> Written | None:
        """The optimiser that a call makes; ``assigned`` is the name that it gets."""
        where = assigned or "optimizer"
        if not isinstance(node, ast.Call):
            return None
        path, args = self._path(node.func), list(node.args)
        kwargs = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        if path.rpartition(".")[2] == "partial" and args:
            path = self._path(args.pop(0))
            args.insert(0, ast.parse("model.parameters()", mode="eval").body)
        for keyword in node.keywords:
            if keyword.arg is None:
                if not isinstance(keyword.value, ast.Dict):
                    kwargs["**"] = keyword.value
                    continue
                for key, value in zip(keyword.value.keys, keyword.value.values):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        kwargs[key.value] = value
        name = short_name(path)
        last = name.rpartition(".")[2]
        params = kwargs.get("params", args[0] if args else None)
        if name in OPTIMIZERS or last in self._others:
            return Written(last if last in self._others else name, where, args, kwargs)
        known = "optim" in path.lower() or assigned.lower().startswith("opt")
        if params is None or not known or not last[:1].isupper() or not names_parameters(params):
            return None
        return Written(name, where, args, kwargs)

    def _names_in(self, node: ast.expr) -> set[str]:
        """The names in an expression, and those of what they were made of."""
        direct = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        return direct.union(*(self._made_of[name] for name in direct & self._made_of.keys()))

    def _path(self, node: ast.expr) -> str:
        head, dot, tail = ast.unparse(node).partition(".")
        return self._imports.get(head, head) + dot + tail

    def _is_data(self, node: ast.expr) -> bool:
        """Whether a later use of the name may be replaced by the expression: not one that makes an object."""
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            return name in (*_PARAMETERS, *_SEQUENCES) and all(map(self._is_data, node.args))
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return all(map(self._is_data, node.elts))
        if isinstance(node, ast.Dict):
            return all(map(self._is_data, node.values))
        if isinstance(node, ast.BinOp):
            return self._is_data(node.left) and self._is_data(node.right)
        if isinstance(node, (ast.UnaryOp, ast.Starred)):
            return self._is_data(node.operand if isinstance(node, ast.UnaryOp) else node.value)
        kinds = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Lambda)
        return isinstance(node, (*kinds, ast.ListComp, ast.SetComp, ast.GeneratorExp))

    def _put_in(self, node: ast.expr) -> ast.expr:
        """An expression with what was assigned in place of names."""
        put: ast.expr = _PutIn(self._names).visit(copy.deepcopy(node))
        return put


class _PutIn(ast.NodeTransformer):
    """Puts what was assigned in place of names, but for those that a comprehension or lambda binds."""

    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self._names[node.id]) if node.id in self._names else node

    def _bound(self, node: ast.AST, bound: set[str]) -> ast.AST:
        return _PutIn({name: value for name, value in self._names.items() if name not in bound}).generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self._bound(node, {argument.arg for argument in node.args.args})

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ast.AST:
        targets = [inner for loop in node.generators for inner in ast.walk(loop.target)]
        bound = {inner.id for inner in targets if isinstance(inner, ast.Name)}
        first = self.visit(node.generators[0].iter)  # which is read outside
        node.generators[0].iter = ast.Constant(None)
        self._bound(node, bound)
        node.generators[0].iter = first
        return node

    def visit(self, node: ast.AST) -> Any:
        """What is put in place of a node."""
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self._comprehension(node)
        return super().visit(node)
