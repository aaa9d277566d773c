"""``lr_factor_func``: a factor of the learning rate by the name of the parameter."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.factors import ByName
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Call, Name, Unread, read_calls

_VIT = "get_vit_lr_decay_rate"
_ARGUMENTS = ("name", "lr_decay_rate", "num_layers")


@dataclass(frozen=True)
class VitDecay:
    """detectron2's layer-wise decay for a ViT: ``rate ** (layers + 1 - depth)``.

    Args:
        rate: ``lr_decay_rate``.
        layers: ``num_layers``; blocks ``i`` have the depth ``i + 1``, patches and positions 0, all else the top.
    """

    rate: float
    layers: int


def read_factor(value: Any, where: str, functions: Mapping[str, Any] | None, notes: Notes) -> ByName | VitDecay | None:
    """What ``lr_factor_func`` is.

    Args:
        value: A function, its dotted path, the text of a function that is in ``functions``, or a partial of
            ``get_vit_lr_decay_rate`` as a call or a mapping.
        where: Its path.
        functions: Text of a function -> the function or its dotted path.
        notes: Takes arguments that are not known.

    Raises:
        SolverError: The text of a function that is not given, or something else than a function.
    """
    if value is None:
        return None
    if isinstance(value, functools.partial) and _is_detectron2s(value.func):
        return _vit(Call(_VIT, value.args, value.keywords), where, notes)
    if callable(value):
        return _vit(Call(_VIT), where, notes) if _is_detectron2s(value) else ByName(value, root=".")
    if isinstance(value, Mapping):
        value = next(iter(read_calls(value, where)))
    text = value.text if isinstance(value, (Name, Unread)) else value
    if isinstance(text, str):
        for given, function in (functions or {}).items():
            if _normal(given) == _normal(text):
                return ByName(function, root=".")
        if text.rpartition(".")[2] == _VIT:
            return _vit(Call(_VIT), where, notes)
        if "." in text and all(part.isidentifier() for part in text.split(".")):
            return ByName(text, root=".")
        value = _as_call(text, where)
    if isinstance(value, Call) and value.name == "partial" and value.args:
        first = value.args[0]
        name = first.text if isinstance(first, Name) else first if isinstance(first, str) else ""
        value = Call(name.rpartition(".")[2], value.args[1:], value.kwargs)
    if isinstance(value, Call) and value.name == _VIT:
        return _vit(value, where, notes)
    do = "hand over the function itself or its dotted path, or give facts={'functions': {TEXT: function}}"
    raise SolverError(where, "is no function, and the text of one is never evaluated", got=repr(text)[:120], do=do)


def _vit(call: Call, where: str, notes: Notes) -> VitDecay:
    bound = call.bound(_ARGUMENTS[1:], where)
    settings = Settings(bound, where, notes)
    for name in bound:
        if name not in _ARGUMENTS[1:]:
            settings.ignore(name)
            notes.unknown(f"{where}.{name}", name, _VIT, _ARGUMENTS[1:])
    rate, layers = settings.number("lr_decay_rate", 1.0, low=0), settings.number("num_layers", 12, low=1)
    if layers != int(layers):
        raise SolverError(settings.path("num_layers"), "must be a whole number", got=repr(layers), do="correct it")
    if rate == 1:
        notes.say(where, "a decay by the rate 1 changes nothing and is left out")
    return VitDecay(float(rate), int(layers))


def _is_detectron2s(function: Any) -> bool:
    module = str(getattr(function, "__module__", ""))
    return getattr(function, "__name__", "") == _VIT and module.split(".")[0] == "detectron2"


def _as_call(text: str, where: str) -> Any:
    if "(" not in text or text.lstrip().startswith("lambda"):
        return text
    try:
        calls = read_calls(text, where)
    except SolverError:
        return text
    return calls[0] if len(calls) == 1 else text


def _normal(text: str) -> str:
    try:
        return ast.unparse(ast.parse(text.strip(), mode="eval"))
    except SyntaxError:
        return text
