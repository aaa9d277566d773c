"""An optimiser of torch, however it is written down: its class, its arguments, and who gets what."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Call, Name, Unread, read_calls
from lightning_solver.interop.torch.made import Made, OwnGroup
from lightning_solver.interop.torch.optimizer_classes import OPTIMIZERS, short_name
from lightning_solver.interop.torch.optimizer_forms import path_of
from lightning_solver.interop.torch.parameters import NotKnownError, Parameters
from lightning_solver.interop.torch.script import Written, names_parameters, readable, value_of
from lightning_solver.interop.torch.selections import EVERYTHING, Clause, Selection, literal
from lightning_solver.interop.torch.untold import note_untold
from lightning_solver.optimizer_spec import OptimizerSpec

_PLACEHOLDERS = ("params", "parameters", "model_params", "model_parameters", "param_groups")
_SCHEDULERS_OWN = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")


class OptimizerReader:
    """Reads optimisers.

    Args:
        notes: Takes what is odd.
        signatures: The arguments of further classes, after ``params``, by the name that they get here.
    """

    def __init__(self, notes: Notes, signatures: Mapping[str, str] | None = None) -> None:
        self._notes = notes
        self._signatures = {**OPTIMIZERS, **(signatures or {})}

    def written(self, call: Written) -> Made | None:
        """The optimiser of a script; ``None`` where its class is not known."""
        if "." not in call.name and call.name not in self._signatures:
            what = f"is not mapped: {call.name} is no optimiser of torch, and no import says where it comes from"
            self._notes.unmapped(call.where, what)
            return None
        if "**" in call.kwargs:
            do = "write the arguments out, or hand over the optimiser itself"
            got = ast.unparse(call.kwargs["**"])
            raise SolverError(call.where, "has arguments that are not literals", got=f"**{got}", do=do)
        bound: dict[str, Any] = Call(call.name, tuple(call.args), call.kwargs).bound(self._names(call), call.where)
        params = bound.pop("params", None)
        if params is None:
            raise SolverError(f"{call.where}.params", "is missing", do="give model.parameters()")
        args = self._arguments(call.name, {key: value_of(node) for key, node in bound.items()}, call.where)
        groups, paths = self._groups([params, *call.added], call.where, call.name)
        return Made(call.where, OptimizerSpec(call.name, args), groups, paths)

    def _names(self, call: Written) -> list[str]:
        if call.name in self._signatures:
            return ["params", *self._signatures[call.name].split()]
        if len(call.args) > 1:
            got = ", ".join(map(ast.unparse, call.args[1:]))
            raise SolverError(call.where, f"the arguments of {call.name} have no names", got=got, do="name them")
        return ["params"]

    def _arguments(self, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Its arguments, those that the class does not have taken out."""
        known = self._signatures.get(name, " ".join(given)).split()
        for key in given:
            if key not in known:
                self._notes.unknown(f"{where}.{key}", key, name, known)
        settings = Settings({key: readable(given[key]) for key in given if key in known}, where, self._notes)
        return {key: _number(settings.take(key)) for key in given if key in known}

    def _groups(self, params: Sequence[ast.expr], where: str, name: str) -> tuple[tuple[OwnGroup, ...], frozenset[str]]:
        """The groups that ``params`` says, and those added later; and the paths by which they name parameters."""
        first, *added = params
        items = _parts(first)
        dicts = [item for item in items if _is_dict(item) or is_empty(item)]
        path = f"{where}.params"
        if all(map(is_empty, dicts)):
            dicts = []
        if dicts and len(dicts) < len(items):
            raise SolverError(path, "has groups beside parameters", got=ast.unparse(first), do="give groups only")
        written = [*(dicts or [first]), *added]
        rough = Parameters()
        for node in written:  # which finds by what names the modules go
            self._chosen(rough, _params_of(node)[0], path, quiet=True)
        several = len(rough.roots) > 1
        reader = Parameters(several)
        groups: list[OwnGroup] = []
        for i, node in enumerate(written):
            inner, options = _params_of(node)
            at = f"{path}[{i}]" if len(written) > 1 or dicts else path
            chosen, why = self._chosen(reader, inner, at, alone=len(written) == 1)
            group = self._group(at, chosen, {key: value_of(value) for key, value in options.items()}, name)
            groups.append(group)
            if is_empty(node):
                self._notes.unmapped(at, "is not mapped: a loop that fills it is not read; write its groups as rules")
            elif chosen is None:
                note_untold(group, why, self._notes)
        for remark in reader.remarks:
            self._notes.say(path, remark)
        if several:
            what = f"{', '.join(rough.roots)} are taken to be attributes of the module that is trained"
            self._notes.say(path, what)
        elif (glob := _anchored(groups)) is not None and (root := next(iter(reader.roots))) != "self":
            what = f"names, such as {glob}, are those of the script's {root}: where a module holds it as self.net, "
            self._notes.say(path, f"{what}write net.{glob}")
        if added:
            self._notes.say(f"{where}.add_param_group", "is taken to come before the schedulers are made")
        return tuple(groups), frozenset(reader.paths)

    def _chosen(
        self, reader: Parameters, node: ast.expr, where: str, alone: bool = False, quiet: bool = False
    ) -> tuple[Selection | None, str]:
        """The parameters that a piece of a script names; ``None``, and why, where that cannot be told."""
        try:
            return reader.of(node), ""
        except NotKnownError as error:
            if quiet:
                return None, ""
            if is_empty(node):
                return None, "a loop that fills it is not read"
            if not alone or names_parameters(node):
                return None, f"it cannot be told which parameters these are; got {error}"
            what = "is taken to stand for all parameters of the module"
            if isinstance(node, ast.Name) and node.id in _PLACEHOLDERS:
                self._notes.say(where, f"{ast.unparse(node)} {what}")
            else:
                self._notes.unmapped(where, f"is not mapped: {ast.unparse(node)} {what}, as their names are not known")
            return EVERYTHING, ""

    def _group(self, where: str, chosen: Selection | None, options: Mapping[str, Any], optimizer: str) -> OwnGroup:
        known = self._signatures.get(optimizer, " ".join(options)).split()
        settings = Settings(options, where, self._notes)
        called = settings.take("name")
        own: dict[str, Any] = {}
        for key in [key for key in options if key != "name"]:
            if key in known:
                own[key] = _number(settings.take(key))
            else:
                self._notes.unknown(f"{where}.{key}", key, optimizer, known)
        called = called if isinstance(called, str) else None
        return OwnGroup(where, chosen or EVERYTHING, own, called, told=chosen is not None)

    def _named(self, path: str) -> str:
        """The name under which the arguments of a class are known, where they are; else its path."""
        last = path.rpartition(".")[2]
        return last if last in self._signatures and last not in OPTIMIZERS else short_name(path)

    def called(self, config: Any, where: str) -> Made:
        """An optimiser written as a call in data: a mapping with ``class_path`` or ``type``, a ``partial``."""
        if isinstance(config, functools.partial):
            path = f"{config.func.__module__}.{config.func.__qualname__}"
            call = Call(path, config.args, config.keywords)
        else:
            (call,) = read_calls(config, where)
            path = path_of(config, call)
        name = self._named(path)
        given = call.bound(["params", *self._signatures.get(name, "").split()], where)
        params = given.pop("params", None)
        if "." not in name and name not in self._signatures:
            raise SolverError(where, "is no optimiser of torch", got=name, do="give the dotted path of its class")
        args = self._arguments(name, given, where)
        whole = (
            params is None
            or isinstance(params, (Name, Unread))
            or (isinstance(params, Call) and params.name in ("parameters", "named_parameters"))
        )
        if not whole:
            what = "is not mapped: these are taken to be all parameters of the module, as their names are not known"
            if _has_groups(params):
                return Made(where, OptimizerSpec(name, args), self._untold(params, f"{where}.params", name))
            self._notes.unmapped(f"{where}.params", what)
        return Made(where, OptimizerSpec(name, args), (OwnGroup(f"{where}.params", EVERYTHING, {}),))

    def _untold(self, params: Sequence[Any], where: str, name: str) -> tuple[OwnGroup, ...]:
        """Groups in data, in which parameters have no names."""
        groups = []
        for i, group in enumerate(params):
            options = {str(key): value for key, value in group.items() if key != "params"} if _is_map(group) else {}
            groups.append(self._group(f"{where}[{i}]", None, options, name))
            note_untold(groups[-1], "it cannot be told which parameters these are", self._notes)
        return tuple(groups)

    def instance(self, optimizer: Any, where: str) -> Made:
        """An optimiser itself."""
        cls = type(optimizer)
        name = self._named(f"{cls.__module__}.{cls.__qualname__}")
        takes = inspect.signature(cls.__init__).parameters
        defaults = {key: _plain(value) for key, value in optimizer.defaults.items() if key != "params"}
        options = {key: value for key, value in defaults.items() if key in takes}
        args = {key: value for key, value in options.items() if value != _plain(takes[key].default)}
        if optimizer.state:
            self._notes.say(where, "has made steps: its state is not carried over")
        nameless = len(optimizer.param_groups) == 1
        groups: list[OwnGroup] = []
        paths: set[str] = set()
        for i, group in enumerate(optimizer.param_groups):
            at = f"{where}.param_groups[{i}]"
            names = group.get("param_names")
            told = names is not None or nameless
            if names is None and nameless:
                self._notes.say(at, "has parameters without names: they are taken to be all of the module's")
            chosen = EVERYTHING if names is None else _by_names(names)
            held = {**group, "lr": group.get("initial_lr", group.get("lr"))}  # which a scheduler has changed
            own = {key: _plain(held[key]) for key in options if key in held and _plain(held[key]) != options[key]}
            called = group.get("name")
            groups.append(OwnGroup(at, chosen, own, called if isinstance(called, str) else None, told))
            if not told:
                why = "its parameters have no names, unless the optimiser is made over model.named_parameters()"
                note_untold(groups[-1], why, self._notes)
            elif names is not None and own:
                paths.update(map(literal, names))
            for key in group.keys() - {"params", "param_names", "name", *_SCHEDULERS_OWN, *defaults}:
                self._notes.say(f"{at}.{key}", f"is not used by {name}")
        if paths:
            what = "names are those of the module that the optimiser was made over: where another one holds it as "
            self._notes.say(where, f"{what}self.net, write net. before them")
        return Made(where, OptimizerSpec(name, args), tuple(groups), frozenset(paths))


def _parts(node: ast.expr) -> list[ast.expr]:
    """The items of a list, also of one that is put together of several."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_parts(node.left), *_parts(node.right)]
    if not isinstance(node, (ast.List, ast.Tuple)):
        return []
    return [node] if is_empty(node) else list(node.elts)


def is_empty(node: ast.expr) -> bool:
    """Whether a list is empty as it is written: a loop fills it."""
    return isinstance(node, (ast.List, ast.Tuple)) and not node.elts


def _anchored(groups: Iterable[OwnGroup]) -> str | None:
    """The first glob that says how a name begins."""
    clauses = [clause for group in groups if group.told for clause in group.chosen.clauses]
    globs = [glob for clause in clauses for glob in (*clause.holds, *clause.fails)]
    return next((glob for glob in globs if not glob.startswith("*")), None)


def _is_dict(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "dict")


def _params_of(node: ast.expr) -> tuple[ast.expr, dict[str, ast.expr]]:
    """The parameters of a group, and its other keys; of bare parameters none."""
    if not _is_dict(node):
        return node, {}
    items: dict[str, ast.expr] = {}
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                got = ast.unparse(node)
                raise SolverError("optimizer.params", "has a key that is not a text", got=got, do="write it out")
            items[key.value] = value
    elif isinstance(node, ast.Call):
        items = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    if "params" not in items:
        raise SolverError("optimizer.params", "has a group without params", got=ast.unparse(node), do="add params")
    return items.pop("params"), items


def _has_groups(params: Any) -> bool:
    return isinstance(params, (list, tuple)) and any(map(_is_map, params))


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _by_names(names: Iterable[str]) -> Selection:
    return Selection(tuple(Clause(holds=(literal(name),)) for name in names))


def _plain(value: Any) -> Any:
    """A value as plain data: a tensor of one number as that number."""
    return value.item() if hasattr(value, "item") else [_plain(v) for v in value] if _is_row(value) else value


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _number(value: Any) -> Any:
    """A number that YAML reads as a text, ``1e-3``, as the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
