"""``swa_utils.AveragedModel``: an equal average, or an exponential one by the function that it is given."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.averaging import EMA, SWA, Average, UpdateBN
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings, length
from lightning_solver.interop.reading import Call, Name, Unread, read_calls
from lightning_solver.interop.torch.updates import Calls, Update

CLASS = "AveragedModel"
_NAMES = ("model", "device", "avg_fn", "multi_avg_fn", "use_buffers")
_EXPONENTIAL = ("get_ema_avg_fn", "get_ema_multi_avg_fn")
_EQUAL = ("get_swa_avg_fn", "get_swa_multi_avg_fn")
_KEYS = ("class_path", "type", "_target_", "name")


@dataclass(frozen=True)
class Made:
    """An average as it is made.

    Args:
        call: The call that makes it.
        where: Its path, or the name that it has in a script.
    """

    call: Call
    where: str


def average_call(config: Any, where: str) -> Call | None:
    """The call that makes an average; ``None`` for any other config."""
    if hasattr(config, "n_averaged") and hasattr(config, "update_parameters"):
        return _instance(config, where)
    if isinstance(config, Call):
        return config if config.name == CLASS else None
    if isinstance(config, Mapping):
        named = any(str(config[key]).rpartition(".")[2] == CLASS for key in _KEYS if isinstance(config.get(key), str))
        return read_calls(config, where)[0] if named or [*config] == [CLASS] else None
    if isinstance(config, str) and CLASS in config:
        calls = [call for call in read_calls(config, where) if call.name == CLASS]
        return calls[0] if len(calls) == 1 else None
    return None


def _instance(model: Any, where: str) -> Call:
    if int(model.n_averaged):
        do = "hand it over as it was made"
        raise SolverError(where, "has been updated", got=f"{CLASS}, n_averaged={int(model.n_averaged)}", do=do)
    return Call(CLASS, (), {key: getattr(model, key) for key in _NAMES[2:]})


def averages_of(
    made: list[Made], calls: Calls, swa: tuple[int, str] | None, skipped: int | None, notes: Notes
) -> dict[str, Average]:
    """The averages as the field of a spec.

    Args:
        made: The averages.
        calls: What a script does with them.
        swa: ``swa_start`` and what it counts, where the config says so: updates come after it.
        skipped: Steps at the start after which no update is made, where a fact says so.
        notes: Takes notes.

    Raises:
        SolverError: What torch refuses.
    """
    found: dict[str, Average] = {}
    read: list[tuple[str, dict[str, Any]]] = []
    for one in made:
        fields = _fields(one, notes)
        if fields is not None:
            when = _when(one, calls.updates.get(one.where), swa, skipped, notes)
            at = calls.statistics.get(one.where)
            read.append((one.where, {**fields, **when, **({} if at is None else {"update_bn": _statistics(at)})}))
    for i, (where, fields) in enumerate(read):
        kind = EMA if "decay" in fields else SWA
        kept = {key: value for key, value in fields.items() if kind is EMA or key != "decay_per"}
        number = 1 + sum(name.partition("_")[0] == kind.__name__.lower() for name in found)
        name = kind.__name__.lower() + (f"_{number}" if number > 1 else "")
        found[name] = kind(**kept, evaluated=None if len(read) == 1 else i == 0)
        if len(read) > 1:
            notes.say(where, f"is called {name}; {'it is' if i == 0 else 'another one is'} evaluated and saved")
    return found


def _statistics(at: str) -> bool | UpdateBN:
    return True if at == "end" else UpdateBN(at="validation")


def _fields(made: Made, notes: Notes) -> dict[str, Any] | None:
    """The decay, the buffers and the place; ``None`` where a function is not understood."""
    where = made.where
    bound = made.call.bound(_NAMES, where)
    for key in [key for key in bound if key not in _NAMES]:
        notes.unknown(f"{where}.{key}", key, CLASS, _NAMES)
        del bound[key]
    functions = {key: bound.pop(key, None) for key in _NAMES[2:4]}
    functions = {key: function for key, function in functions.items() if function is not None}
    if len(functions) > 1:
        got, do = " and ".join(functions), "give one of them"
        raise SolverError(where, "has two functions, which torch refuses", got=got, do=do)
    settings = Settings({key: _plain(key, value) for key, value in bound.items()}, where, notes)
    settings.ignore("model")
    fields: dict[str, Any] = {**place_of(settings), "buffers": "copy"}
    if settings.flag("use_buffers", False):
        del fields["buffers"]
        what = "averages whole numbers in buffers too, and cuts them; here they are the model's own"
        notes.say(settings.path("use_buffers"), what)
    settings.rest()
    for key, function in functions.items():
        decay = _decay(function, settings.path(key))
        if isinstance(decay, str):
            notes.unmapped(settings.path(key), f"is not mapped: {decay}; write the average natively")
            return None
        if decay is not None:
            fields["decay"] = decay
    return fields


def _plain(key: str, value: Any) -> Any:
    return Unread(value.text) if isinstance(value, Name) and key not in ("model", "device") else value


def _decay(function: Any, where: str) -> float | str | None:
    """The decay that a function has; ``None`` for the equal average; a text that says what is not understood."""
    if callable(function):
        outer = getattr(function, "__qualname__", "").partition(".")[0]
        given = inspect.getclosurevars(inspect.unwrap(function)).nonlocals if outer in _EXPONENTIAL else {}
        function = Call(outer, (), given)
    if isinstance(function, str) and "(" in function and not function.lstrip().startswith("lambda"):
        function = read_calls(function, where)[0]
    if isinstance(function, Call) and function.name in _EQUAL:
        return None
    if isinstance(function, Call) and function.name in _EXPONENTIAL:
        settings = Settings(function.bound(("decay",), where), where, Notes())
        decay = float(settings.number("decay", 0.999))
        if not 0 <= decay <= 1:
            do = "correct it"
            raise SolverError(f"{where}.decay", "must be from 0 to 1, as torch asks", got=repr(decay), do=do)
        return decay
    text = function.name if isinstance(function, Call) else getattr(function, "text", str(function))
    linear = _linear(text)
    return f"{text} is a function that is never evaluated" if linear is None else linear


def _linear(text: str) -> float | None:
    """The decay of ``lambda average, weights, count: 0.9 * average + 0.1 * weights``, as torch's manual once had it."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(node, ast.Lambda) or len(node.args.args) < 2:
        return None
    average, weights = (argument.arg for argument in node.args.args[:2])
    body, shares = node.body, dict[str, Any]()
    if not isinstance(body, ast.BinOp) or not isinstance(body.op, ast.Add):
        return None
    for term in (body.left, body.right):
        if not isinstance(term, ast.BinOp) or not isinstance(term.op, ast.Mult):
            return None
        factors = {type(side): side for side in (term.left, term.right)}
        number, name = factors.get(ast.Constant), factors.get(ast.Name)
        if not isinstance(number, ast.Constant) or not isinstance(name, ast.Name):
            return None
        shares[name.id] = number.value
    if shares.keys() != {average, weights} or not all(isinstance(share, (int, float)) for share in shares.values()):
        return None
    decay = float(shares[average])
    return decay if math.isclose(decay + shares[weights], 1.0) and 0 <= decay <= 1 else None


def _when(
    made: Made, update: Update | None, swa: tuple[int, str] | None, skipped: int | None, notes: Notes
) -> dict[str, Any]:
    """Start and interval: the weights with which it is made are kept up to the first update, which copies."""
    if update is not None and update.odd is not None:
        what = f"is not mapped: {update.odd}; write start and every, as it is taken to be called every time"
        notes.unmapped(f"{made.where}.update_parameters", what)
    if update is None and swa is None and skipped is None:
        notes.say(made.where, "update_parameters() is taken to be called after every step, from the first one on")
    unit = update.unit if update is not None else "ep" if swa is not None and swa[1] == "ep" else "st"
    if update is not None:
        start = _start(update)
    elif swa is not None:
        start = length(swa[0] + 2, swa[1])
    else:
        start = length((skipped or 0) + 1)
    if unit == "st":
        return {"start": start, "every": 1, **({} if start == 1 else {"before": "hold"})}
    return {"start": start, "every": "1ep", "decay_per": "update", "before": "hold"}


def _start(update: Update) -> int | str:
    if not update.skipped or update.skipped_unit == update.unit:
        return length(update.skipped + 1, update.unit)
    return f"{update.skipped}ep+1st"


def place_of(settings: Settings) -> dict[str, Any]:
    """The field ``device`` of an average, by the argument of that name."""
    value = settings.take("device")
    if isinstance(value, Call) and value.name == "device" and value.args:
        value = value.args[0]
    if value is None or value == "":
        return {}
    written = value.text if isinstance(value, Name) else str(value)
    if written.startswith("cpu"):
        return {"device": "cpu"}
    settings.notes.say(settings.path("device"), f"is {written}; here the average lies beside the weights")
    return {}
