"""Which parameters a piece of a Python script names."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lightning_solver.interop.torch.selections import EVERYTHING, Selection, literal, named, with_ndim

_MOVES = ("to", "cuda", "cpu", "train", "eval", "float", "half", "double", "bfloat16", "requires_grad_")
_NONE = Selection(())


class NotKnownError(Exception):
    """A piece of a script of which it cannot be told which parameters it names."""


class Parameters:
    """Reads expressions that name parameters, in which names that were assigned before are put in already.

    Args:
        several: Whether modules go by several names in the script, which are attributes of one module then.
    """

    def __init__(self, several: bool = False) -> None:
        self._several = several
        self.roots: dict[str, None] = {}
        self.paths: dict[str, None] = {}
        self.remarks: dict[str, None] = {}

    def of(self, node: ast.expr) -> Selection:
        """The parameters that an expression names.

        Raises:
            NotKnownError: It cannot be told.
        """
        if isinstance(node, ast.Call):
            return self._of_call(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.BitOr)):
            return self.of(node.left) | self.of(node.right)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and node.elts:
            found = _NONE
            for item in node.elts:
                found = found | (self.of(item.value) if isinstance(item, ast.Starred) else self._one(item))
            return found
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            return self._of_comprehension(node)
        raise NotKnownError(ast.unparse(node))

    def _of_call(self, node: ast.Call) -> Selection:
        function, args = node.func, node.args
        if isinstance(function, ast.Attribute) and function.attr in ("parameters", "named_parameters"):
            if args or node.keywords:
                raise NotKnownError(ast.unparse(node))
            found = _NONE
            for path in self._modules(function.value):
                found = found | (self._at(f"{literal(path)}.*") if path else EVERYTHING)
            return found
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("list", "tuple", "iter", "set") and len(args) == 1:
            return self.of(args[0])
        if name == "chain" and args:
            found = _NONE
            for item in args:
                found = found | (self.of(item.value) if isinstance(item, ast.Starred) else self.of(item))
            return found
        if name == "filter" and len(args) == 2 and isinstance(args[0], ast.Lambda) and len(args[0].args.args) == 1:
            return self.of(args[1]) & _Tests(self, args[0].args.args[0].arg, None).of(args[0].body)
        raise NotKnownError(ast.unparse(node))

    def _of_comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Selection:
        if len(node.generators) != 1:
            raise NotKnownError(ast.unparse(node))
        (loop,) = node.generators
        target = loop.target
        if isinstance(target, ast.Name):
            name, tensor = None, target.id
        elif isinstance(target, ast.Tuple) and [type(item) for item in target.elts] == [ast.Name, ast.Name]:
            name, tensor = (item.id for item in target.elts if isinstance(item, ast.Name))
        else:
            raise NotKnownError(ast.unparse(node))
        kept = [item.id for item in ast.walk(node.elt) if isinstance(item, ast.Name)]
        if not isinstance(node.elt, (ast.Name, ast.Tuple)) or {*kept} - {name, tensor} or tensor not in kept:
            raise NotKnownError(ast.unparse(node))
        found, owner = self.of(loop.iter), _owner(loop.iter)
        if (name is None) != (owner is None):  # pairs of names and parameters, or parameters
            raise NotKnownError(ast.unparse(node))
        paths = [""] if owner is None else self._modules(owner)
        if len(paths) > 1:
            raise NotKnownError(ast.unparse(node))
        tests = _Tests(self, tensor, name, f"{literal(paths[0])}." if paths[0] else "")
        for test in loop.ifs:
            found = found & tests.of(test)
        return found

    def _one(self, node: ast.expr) -> Selection:
        """One tensor: ``model.head.weight``."""
        if not isinstance(node, (ast.Attribute, ast.Subscript)):
            raise NotKnownError(ast.unparse(node))
        found = _NONE
        for path in self._modules(node):
            if not path:
                raise NotKnownError(ast.unparse(node))
            found = found | self._at(literal(path))
        return found

    def _at(self, glob: str) -> Selection:
        """What a path of the script names, which is kept."""
        self.paths[glob] = None
        return named(glob)

    def _modules(self, node: ast.expr) -> list[str]:
        """Paths of the modules (or tensors) that an expression names, from the module as a whole."""
        if isinstance(node, ast.Attribute):
            if node.attr == "module" and isinstance(node.value, ast.Name):
                self.remarks["module is taken to be the wrapper of DataParallel, and not part of names"] = None
                return self._modules(node.value)
            return [f"{path}.{node.attr}".lstrip(".") for path in self._modules(node.value)]
        if isinstance(node, ast.Subscript):
            return [f"{path}.{i}".lstrip(".") for path in self._modules(node.value) for i in _indices(node.slice)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
            return self._modules(node.func.value)
        if not isinstance(node, ast.Name):
            raise NotKnownError(ast.unparse(node))
        self.roots[node.id] = None
        return [node.id if self._several else ""]


class _Tests:
    """Reads conditions on a parameter.

    Args:
        parameters: Reads what is compared by identity.
        tensor: Name of the variable that is the parameter.
        name: Name of the variable that is its name, where there is one.
        prefix: What its qualified name has in front of that.
    """

    def __init__(self, parameters: Parameters, tensor: str, name: str | None, prefix: str = "") -> None:
        self._parameters, self._tensor, self._name, self._prefix = parameters, tensor, name, prefix

    def of(self, node: ast.expr, values: Mapping[str, ast.expr] | None = None) -> Selection:
        """The parameters for which a condition holds."""
        values = values or {}
        if isinstance(node, ast.BoolOp):
            parts = [self.of(value, values) for value in node.values]
            return _folded(parts, operator.and_ if isinstance(node.op, ast.And) else operator.or_)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            if self._requires_grad(node.operand):
                raise NotKnownError(ast.unparse(node))
            return ~self.of(node.operand, values)
        if self._requires_grad(node):
            self._parameters.remarks["frozen parameters are left out, here as there"] = None
            return EVERYTHING
        if isinstance(node, ast.Call):
            return self._of_call(node, values)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self._of_comparison(node, node.left, node.ops[0], node.comparators[0], values)
        raise NotKnownError(ast.unparse(node))

    def _requires_grad(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "requires_grad" and self._is(node.value, self._tensor)

    @staticmethod
    def _is(node: ast.expr, name: str | None) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    def _of_call(self, node: ast.Call, values: Mapping[str, ast.expr]) -> Selection:
        function = node.func
        ends = isinstance(function, ast.Attribute) and function.attr in ("startswith", "endswith")
        if isinstance(function, ast.Attribute) and ends and self._is(function.value, self._name) and node.args:
            before, after = ("", "*") if function.attr == "startswith" else ("*", "")
            parts = [named(f"{self._prefix}{before}{literal(t)}{after}") for t in self._texts(node.args[0], values)]
            return _folded(parts, operator.or_)
        if isinstance(function, ast.Name) and function.id in ("any", "all") and len(node.args) == 1:
            inner = node.args[0]
            if isinstance(inner, (ast.GeneratorExp, ast.ListComp)) and len(inner.generators) == 1:
                (loop,) = inner.generators
                if isinstance(loop.target, ast.Name) and not loop.ifs:
                    texts = [ast.Constant(text) for text in self._texts(loop.iter, values)]
                    parts = [self.of(inner.elt, {**values, loop.target.id: text}) for text in texts]
                    if function.id == "any":
                        return _folded(parts, operator.or_) if parts else _NONE
                    return _folded(parts, operator.and_) if parts else EVERYTHING
        raise NotKnownError(ast.unparse(node))

    def _of_comparison(
        self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr, values: Mapping[str, ast.expr]
    ) -> Selection:
        known = type(op) in _COMPARISONS
        if known and self._is_ndim(left) and isinstance(right, ast.Constant) and isinstance(right.value, int):
            bound, compare = right.value, _COMPARISONS[type(op)]
            return with_ndim(lambda n: compare(n, bound))
        found: Selection | None = None
        if isinstance(op, (ast.In, ast.NotIn)):
            if self._is(right, self._name):
                texts = self._texts(left, values)
                found = _folded([named(f"{self._prefix}*{literal(text)}*") for text in texts], operator.or_)
            elif self._is(left, self._name):
                texts = self._texts(right, values)
                found = _folded([named(f"{self._prefix}{literal(text)}") for text in texts], operator.or_)
            elif isinstance(left, ast.Call) and self._is(left.func, "id") and self._is(left.args[0], self._tensor):
                found = self._parameters.of(_without_ids(right))
        elif isinstance(op, (ast.Eq, ast.NotEq)) and self._is(left, self._name):
            (text,) = self._texts(right, values)
            found = named(f"{self._prefix}{literal(text)}")
        if found is None:
            raise NotKnownError(ast.unparse(node))
        return ~found if isinstance(op, (ast.NotIn, ast.NotEq)) else found

    def _is_ndim(self, node: ast.expr) -> bool:
        """``p.ndim``, ``p.dim()``, ``len(p.shape)``, ``len(p.size())``."""
        if isinstance(node, ast.Call) and self._is(node.func, "len") and len(node.args) == 1:
            node = node.args[0]
            known: tuple[str, ...] = ("shape", "size")
        else:
            known = ("ndim", "dim", "ndimension")
        inner = node.func if isinstance(node, ast.Call) else node
        return isinstance(inner, ast.Attribute) and inner.attr in known and self._is(inner.value, self._tensor)

    def _texts(self, node: ast.expr, values: Mapping[str, ast.expr]) -> list[str]:
        """A text, or several."""
        node = values.get(node.id, node) if isinstance(node, ast.Name) else node
        items = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else [node]
        texts = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if len(texts) != len(items):
            raise NotKnownError(ast.unparse(node))
        return texts


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def _folded(parts: list[Selection], join: Callable[[Selection, Selection], Selection]) -> Selection:
    if not parts:
        raise NotKnownError("an empty list of names")
    found = parts[0]
    for part in parts[1:]:
        found = join(found, part)
    return found


def _owner(node: ast.expr) -> ast.expr | None:
    """The module of ``module.named_parameters()``."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        node = node.args[0]  # list(...)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "named_parameters":
        return node.func.value
    return None


def _without_ids(node: ast.expr) -> ast.expr:
    """The parameters of ``list(map(id, parameters))`` and ``{id(p) for p in parameters}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        if node.func.id in ("list", "set", "tuple", "frozenset"):
            return _without_ids(node.args[0])
        if node.func.id == "map" and len(node.args) == 2 and ast.unparse(node.args[0]) == "id":
            return node.args[1]
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        of = node.elt
        if isinstance(of, ast.Call) and ast.unparse(of.func) == "id" and len(of.args) == 1:
            return ast.GeneratorExp(elt=of.args[0], generators=node.generators)
    raise NotKnownError(ast.unparse(node))


def _indices(node: ast.expr) -> Iterator[int | str]:
    """Places in a sequence of modules: ``layers[3]``, ``layers[:3]``, ``layers["head"]``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, str)):
        yield node.value
        return
    if isinstance(node, ast.Slice) and node.step is None:
        low = node.lower.value if isinstance(node.lower, ast.Constant) else 0 if node.lower is None else None
        high = node.upper.value if isinstance(node.upper, ast.Constant) else None
        if isinstance(low, int) and isinstance(high, int) and 0 <= low < high <= 1000:
            yield from range(low, high)
            return
    raise NotKnownError(ast.unparse(node))
