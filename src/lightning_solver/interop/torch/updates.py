"""Where a script calls ``update_parameters`` and ``update_bn``: in which loop, and from which epoch or step on."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["st", "ep"]


@dataclass(frozen=True)
class Update:
    """When an average is updated.

    Args:
        unit: After every step or epoch.
        skipped: How many are over before the first update can follow one.
        skipped_unit: What these are.
        odd: A condition that is not understood.
    """

    unit: Unit
    skipped: int = 0
    skipped_unit: Unit = "st"
    odd: str | None = None


@dataclass
class Calls:
    """What a script does with its averages, by the names that these have in it.

    Args:
        updates: When ``update_parameters`` is called.
        statistics: Where ``update_bn`` is called: at the ``end``, or in a loop, for a ``validation``.
        names: Names that are used up by that, and placeholders (``loader, model = ...``).
    """

    updates: dict[str, Update] = field(default_factory=dict)
    statistics: dict[str, Literal["end", "validation"]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


def calls_in(text: str) -> Calls:
    """What a script does with its averages; nothing of what is not Python."""
    calls = Calls()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return calls
    known = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    reader = _Reader(calls, known)
    reader.body(tree.body, (), ())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is ...:
            calls.names |= {name for target in node.targets for name in _names(target)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "AveragedModel":
            calls.names |= {name for argument in (*node.args, *node.keywords) for name in _names(argument)}
    return calls


@dataclass
class _Reader:
    calls: Calls
    known: Mapping[str, object]

    def body(self, nodes: Iterable[ast.stmt], loops: tuple[ast.For | ast.While, ...], tests: tuple[str, ...]) -> None:
        """Go through statements that stand in loops and under conditions."""
        for node in nodes:
            if isinstance(node, (ast.For, ast.While)):
                self.body(node.body, (*loops, node), tests)
            elif isinstance(node, ast.If):
                test = ast.unparse(node.test)
                self.body(node.body, loops, (*tests, test))
                self.body(node.orelse, loops, (*tests, f"not ({test})"))
            elif isinstance(node, (ast.With, ast.FunctionDef, ast.ClassDef, ast.Try)):
                self.body(node.body, loops, tests)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._call(node.value, loops, tests)

    def _call(self, call: ast.Call, loops: tuple[ast.For | ast.While, ...], tests: tuple[str, ...]) -> None:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == "update_parameters" and isinstance(function, ast.Attribute):
            owner = ast.unparse(function.value)
            twice = owner in self.calls.updates
            update = Update("st", odd="several calls") if twice else self._update(loops, tests)
            self.calls.updates[owner] = update
        elif name == "update_bn":
            models = [keyword.value for keyword in call.keywords if keyword.arg == "model"] or call.args[1:2]
            if models:
                self.calls.statistics[ast.unparse(models[0])] = "validation" if loops else "end"

    def _update(self, loops: tuple[ast.For | ast.While, ...], tests: tuple[str, ...]) -> Update:
        units = _units(loops)
        unit: Unit = units[-1] if units else "st"
        if not tests:
            return Update(unit)
        skipped = self._skipped(loops, tests[0]) if len(tests) == 1 else None
        if skipped is None or skipped[1] < 0 or (units[skipped[0]], unit) == ("st", "ep"):
            return Update(unit, odd=" and ".join(tests))
        loop, count = skipped
        if units[loop] == "st" and "ep" in units:  # the number of a batch, from 0 in every epoch
            return Update(unit, odd=tests[0])
        return Update(unit, count, units[loop])

    def _skipped(self, loops: tuple[ast.For | ast.While, ...], text: str) -> tuple[int, int] | None:
        """``epoch > 160``: which loop counts, and how many of its turns are over before the first that fulfils it."""
        test = ast.parse(text, mode="eval").body
        if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.left, ast.Name):
            return None
        if not isinstance(test.ops[0], (ast.Gt, ast.GtE)):
            return None
        right = test.comparators[0]
        limit = right.value if isinstance(right, ast.Constant) else self.known.get(ast.unparse(right))
        counting = [i for i, loop in enumerate(loops) if _counter(loop) == test.left.id]
        if not isinstance(limit, int) or not counting:
            return None
        first = self._begin(loops[counting[-1]])
        if first is None:
            return None
        self.calls.names |= _names(right)
        return counting[-1], limit + isinstance(test.ops[0], ast.Gt) - first

    def _begin(self, loop: ast.For | ast.While) -> int | None:
        """The number that a loop counts from."""
        source = loop.iter if isinstance(loop, ast.For) else None
        if not isinstance(source, ast.Call) or ast.unparse(source.func) not in ("range", "trange", "enumerate"):
            return None
        if ast.unparse(source.func) == "enumerate":
            return 0 if len(source.args) == 1 and not source.keywords else None
        if len(source.args) == 1:
            return 0
        first = source.args[0]
        value = first.value if isinstance(first, ast.Constant) else self.known.get(ast.unparse(first))
        return value if isinstance(value, int) and len(source.args) == 2 else None


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _counter(loop: ast.For | ast.While) -> str | None:
    """The name that counts the turns of a loop."""
    if not isinstance(loop, ast.For):
        return None
    target = loop.target
    if isinstance(target, ast.Tuple) and target.elts and ast.unparse(loop.iter).startswith("enumerate("):
        target = target.elts[0]
    return target.id if isinstance(target, ast.Name) else None


def _units(loops: tuple[ast.For | ast.While, ...]) -> list[Unit]:
    """What the loops around a call go through: epochs where there is a loop in them, or where their name says so."""
    units: list[Unit] = []
    for loop in loops:
        inner = any(isinstance(node, (ast.For, ast.While)) for child in loop.body for node in ast.walk(child))
        units.append("ep" if inner or "epoch" in (_counter(loop) or "").lower() else "st")
    return units
