"""Clipping of gradients: ``clip_grad_norm_`` and ``clip_grad_value_``, and what Lightning's ``Trainer`` is told."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_solver.clipping import Clip, GlobalNorm, Value
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.clip_arguments import read_limit
from lightning_solver.interop.reading import Call, Name, Unread, read_calls, read_python
from lightning_solver.interop.torch.parameters import NotKnownError, Parameters
from lightning_solver.interop.torch.selections import EVERYTHING, Selection
from lightning_solver.rule import Selector

_NORM = ("parameters", "max_norm", "norm_type", "error_if_nonfinite", "foreach")
_VALUE = ("parameters", "clip_value", "foreach")
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "clip_grad_norm_": _NORM,
    "clip_grad_norm": _NORM,
    "clip_grad_value_": _VALUE,
    "clip_grad_value": _VALUE,
}
"""The functions that clip: their arguments in order."""

_INFINITE = ("inf", "math.inf", "torch.inf", "np.inf", "numpy.inf")
_ALL = ("parameters", "params", "model_parameters", "trainable_params")


@dataclass(frozen=True)
class Found:
    """A call that clips, wherever it stands in a script.

    Args:
        call: The call; what was assigned before is put in.
        node: The same as it is written.
        tests: The conditions under which it stands.
    """

    call: Call
    node: ast.Call
    tests: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """The names that it uses."""
        return {inner.id for inner in ast.walk(self.node) if isinstance(inner, ast.Name)}


@dataclass
class Clips:
    """What is known of clipping so far.

    Args:
        found: The clippings, in the order in which they act.
        nonfinite: The policy for gradients that are not finite, where the config says one.
        idle: Whether there is a call that clips nothing, as its limit is infinite.
    """

    found: list[Clip] = field(default_factory=list)
    nonfinite: str | None = None
    idle: bool = False

    def __bool__(self) -> bool:
        return bool(self.found) or self.nonfinite is not None or self.idle

    def fields(self) -> dict[str, Any]:
        """The fields of a spec."""
        clip = {"clip": self.found[0] if len(self.found) == 1 else tuple(self.found)} if self.found else {}
        return {**clip, **({} if self.nonfinite is None else {"nonfinite": self.nonfinite})}


# ------------------------------------------------------------------ where it stands


def find_calls(text: str, names: Collection[str]) -> list[Found]:
    """The calls of some functions wherever they stand in a script, in order; none in what is not Python.

    Args:
        text: The script.
        names: The functions, without their modules.
    """
    try:
        finder = _Finder(names)
        finder.visit(ast.parse(text))
    except SyntaxError:  # an error of its own, once it is read
        return []
    found = []
    for node, tests in finder.found:
        call = read_python(f"{text}\n_found_ = {ast.unparse(node)}")["_found_"]
        found.append(Found(call if isinstance(call, Call) else Call(_last(node.func)), node, tests))
    return found


def read_any(config: Any, where: str, functions: Mapping[str, Any]) -> list[Found]:
    """The calls that a config of one key says, in any form.

    Args:
        config: Text, a call, or a mapping with the name of the function.
        where: Its path.
        functions: The functions that are known.

    Raises:
        SolverError: It is none of them.
    """
    if isinstance(config, str) and "(" in config:
        found = find_calls(config, functions)
        if found:
            return found
    calls = read_calls(config, where)
    for call in calls:
        if call.name not in functions:
            do = f"give one of {', '.join(functions)}"
            raise SolverError(where, "is not a function that clips gradients", got=repr(call.name), do=do)
    return [Found(call, ast.Call(ast.Name(call.name), [], [])) for call in calls]


class _Finder(ast.NodeVisitor):
    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._tests: tuple[str, ...] = ()
        self.found: list[tuple[ast.Call, tuple[str, ...]]] = []

    def visit_If(self, node: ast.If) -> None:
        before, test = self._tests, ast.unparse(node.test)
        for body, condition in ((node.body, test), (node.orelse, f"not ({test})")):
            self._tests = (*before, condition)
            for statement in body:
                self.visit(statement)
        self._tests = before

    def visit_Call(self, node: ast.Call) -> None:
        if _last(node.func) in self._names:
            self.found.append((node, self._tests))
        self.generic_visit(node)


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


_STEPPED = re.compile(r"(?P<owner>[\w.]*)\.step\((?P<what>[\w.]*)\)")


def accumulated_in(text: str, notes: Notes) -> None:
    """Note a script that makes its steps every so many batches: how it scales them is not read.

    Args:
        text: The script.
        notes: Takes the note.
    """
    for found in find_calls(text, ("step",)):
        stepped = _STEPPED.fullmatch(ast.unparse(found.node))
        ours = stepped is not None and any("opt" in part.lower() for part in stepped.groups())
        every = [test for test in found.tests if "%" in test and "==" in test]
        if ours and every:
            what = "is not mapped: steps that come every so many batches; write accumulate: 4 for every four"
            notes.unmapped(every[0], what)


# ------------------------------------------------------------------ what it says


def clips_of(found: list[Found], notes: Notes, where: str = "") -> Clips:
    """The clippings of calls of torch's functions.

    Args:
        found: The calls, in order.
        notes: Takes notes.
        where: The path of the config that has them, where that is not their own name.

    Raises:
        SolverError: A limit that makes no sense.
    """
    clips = Clips()
    for one in found:
        add_clip(clips, one, where or one.call.name, notes)
    return clips


def add_clip(clips: Clips, found: Found, where: str, notes: Notes) -> None:
    """Take a call of one of torch's functions in.

    Args:
        clips: What is known so far.
        found: The call.
        where: Its path.
        notes: Takes notes.

    Raises:
        SolverError: A limit that makes no sense.
    """
    settings = arguments_of(found, FUNCTIONS, where, notes)
    if settings is None:
        return
    of = selected_by(found, settings, notes)
    by_norm = "norm" in found.call.name
    limit = number_of(settings, "max_norm" if by_norm else "clip_value", None, notes)
    if by_norm and settings.flag("error_if_nonfinite", False):
        clips.nonfinite = "error"
    kind = norm_of(settings, notes) if by_norm else 2.0
    settings.ignore("parameters", "foreach")
    settings.rest()
    if limit is None or of is None or kind is None:
        return
    note_tests(found, settings.where, notes)
    if clips_nothing(clips, limit, settings):
        return
    clips.found.append(GlobalNorm(limit, kind, **of) if by_norm else Value(limit, **of))


def clips_nothing(clips: Clips, limit: float, settings: Settings) -> bool:
    """Whether a limit is infinite, with a note.

    Args:
        clips: What is known so far.
        limit: The limit.
        settings: The arguments of the call that has it.
    """
    if not math.isinf(limit):
        return False
    clips.idle = True
    settings.notes.say(settings.where, "has an infinite limit: nothing is clipped, only the norm is measured")
    return True


def note_tests(found: Found, where: str, notes: Notes) -> None:
    """Note the conditions under which a call stands; one for every so many batches is that of the step.

    Args:
        found: The call.
        where: Its path.
        notes: Takes notes.
    """
    for test in found.tests:
        if "%" not in test:
            notes.say(where, f"stands under a condition that is taken to hold: {test}")


def arguments_of(found: Found, functions: Mapping[str, tuple[str, ...]], where: str, notes: Notes) -> Settings | None:
    """The arguments of a call; ``None`` where they cannot be told.

    Args:
        found: The call.
        functions: The arguments of the functions in order.
        where: Its path.
        notes: Takes notes.
    """
    call, names = found.call, functions[found.call.name]
    if not call.args and not call.kwargs and (found.node.args or found.node.keywords):
        notes.unmapped(where, f"is not mapped: its arguments cannot be told; got {ast.unparse(found.node)}")
        return None
    bound = call.bound(names, where)
    for key in [key for key in bound if key not in names]:
        notes.unknown(f"{where}.{key}", key, call.name, names)
        del bound[key]
    return Settings({key: _plain(value) for key, value in bound.items()}, where, notes)


def _plain(value: Any) -> Any:
    """A value as data: infinity, however it is written, as that number."""
    text = value.text if isinstance(value, Name) else value
    if isinstance(value, Call) and value.name == "float" and len(value.args) == 1:
        text = value.args[0]
    if isinstance(text, str) and text.lower().lstrip("+") in (*_INFINITE, "infinity"):
        return math.inf
    if isinstance(value, (Name, Call)):
        return Unread(value.text if isinstance(value, Name) else f"{value.name}(...)")
    return value


def told(settings: Settings, key: str, notes: Notes) -> bool:
    """Whether the value of a key is data; a note says so where it is not.

    Args:
        settings: The arguments.
        key: The key.
        notes: Takes the note.
    """
    try:
        settings.take(key)
    except SolverError as error:
        what = f"is not mapped: {error.got} is not known here; write clip: into the spec"
        notes.unmapped(settings.path(key), what)
        return False
    return True


def number_of(settings: Settings, key: str, default: float | None, notes: Notes) -> float | None:
    """A limit, which must be above 0; ``None`` where it is no data, with a note.

    Args:
        settings: The arguments.
        key: The key.
        default: What holds where it is missing; ``None`` if it must not be.
        notes: Takes notes.

    Raises:
        SolverError: It is missing, or not above 0.
    """
    if not told(settings, key, notes):
        return None
    if default is None:
        settings.needed(key)
    return positive(settings, key, default)


def positive(settings: Settings, key: str, default: float | None = None) -> float:
    """A limit, which must be above 0.

    Args:
        settings: The settings.
        key: The key.
        default: What holds where it is missing.

    Raises:
        SolverError: It is not above 0.
    """
    value = settings.number(key, default)
    if value is None or not value > 0:
        do = "correct it, or leave the clipping out"
        raise SolverError(settings.path(key), "must be above 0: nothing is learnt else", got=repr(value), do=do)
    return float(value)


def norm_of(settings: Settings, notes: Notes, default: float = 2.0) -> Any:
    """The order of a norm; ``None`` where it is no data, with a note.

    Args:
        settings: The arguments.
        notes: Takes notes.
        default: What holds where it is missing.

    Raises:
        SolverError: It is not above 0.
    """
    if not told(settings, "norm_type", notes):
        return None
    value = settings.take("norm_type", default)
    if isinstance(value, str) and value.lower() == "inf":
        return "inf"
    value = settings.number("norm_type", default)
    if not value > 0:
        do = "give a number above 0, or inf"
        raise SolverError(settings.path("norm_type"), "is not an order of a norm", got=repr(value), do=do)
    return "inf" if math.isinf(value) else float(value)


def selected_by(found: Found, settings: Settings, notes: Notes) -> dict[str, Any] | None:
    """The fields of a clipping that say for which parameters it is; ``None`` where that cannot be told.

    Args:
        found: The call.
        settings: Its arguments.
        notes: Takes notes.
    """
    node = parameters_in(found)
    if node is None:
        return {}
    return fields_of(node, settings.path("parameters"), notes)


def parameters_in(found: Found) -> ast.expr | None:
    """The argument that names parameters, as it is written; ``None`` where it is not told.

    Args:
        found: The call.
    """
    for keyword in found.node.keywords:
        if keyword.arg == "parameters":
            return keyword.value
    return found.node.args[0] if found.node.args else None


def fields_of(node: ast.expr, where: str, notes: Notes) -> dict[str, Any] | None:
    """The fields of a clipping for the parameters that an expression names; ``None`` where that cannot be told.

    Args:
        node: The expression.
        where: Its path.
        notes: Takes notes.
    """
    text = ast.unparse(node)
    if isinstance(node, ast.Name) and node.id in _ALL:
        return {}
    if "param_groups" in text and "[0]" not in text:  # of all groups of the optimiser
        return {}
    try:
        chosen = Parameters().of(node)
    except NotKnownError:
        chosen = Selection(())
    if chosen == EVERYTHING:
        return {}
    parts = list(chosen.parts())
    if len(parts) != 1:
        what = f"is not mapped: {text} are not told; write clip: with of: into the spec"
        notes.unmapped(where, what)
        return None
    fields = dict(parts[0])
    unless = fields.pop("unless", None)
    names = ", ".join(fields.get("match", [])) if isinstance(fields.get("match"), list) else fields.get("match", "")
    what = f"are those of {names}" if names else "are a part of the parameters"
    notes.say(where, f"{what}, by names of the module that the script calls {text.partition('.')[0]}")
    spared = unless if isinstance(unless, list) else [unless] if unless else []
    exceptions = tuple(Selector(**one) for one in spared)
    return {"of": Selector(**fields), **({"unless": exceptions} if exceptions else {})}


# ------------------------------------------------------------------ Lightning's Trainer


def of_trainer(trainer: Settings, clips: Clips) -> int | None:
    """Take in what the Trainer of a configuration of LightningCLI clips; its accumulation is handed back.

    Args:
        trainer: Its arguments.
        clips: What is known so far.

    Raises:
        SolverError: What Lightning refuses.
    """
    given = trainer.number("gradient_clip_val")
    limit = read_limit(trainer, "gradient_clip_val") if given is not None and given > 0 else None
    algorithm = trainer.take("gradient_clip_algorithm") or "norm"
    if str(algorithm).lower() not in ("norm", "value"):
        path = trainer.path("gradient_clip_algorithm")
        raise SolverError(path, "unknown value", got=repr(algorithm), do="give norm or value")
    out = "the specification does it: take it out of the Trainer"
    if limit is not None:
        clips.found.append(GlobalNorm(limit) if str(algorithm).lower() == "norm" else Value(limit))
        trainer.notes.say(trainer.path("gradient_clip_val"), out)
    elif given is not None and given > 0:
        clips.idle = True
    elif trainer.take("gradient_clip_algorithm") is not None:
        what = "has no effect without gradient_clip_val, as in Lightning"
        trainer.notes.say(trainer.path("gradient_clip_algorithm"), what)
    batches = trainer.number("accumulate_grad_batches", 1, low=1)
    if int(batches) != batches:
        path = trainer.path("accumulate_grad_batches")
        raise SolverError(path, "must be a whole number", got=repr(batches), do="correct it")
    if batches == 1:
        return None
    short = "a short window at the end of an epoch is divided by its own length here, by the whole number there"
    trainer.notes.say(trainer.path("accumulate_grad_batches"), f"{out}; {short}")
    return int(batches)
