"""Arguments of torch's ``clip_grad_norm_`` and ``clip_grad_value_``, where a config hands them over as they are."""

from __future__ import annotations

import math
from typing import Any

from lightning_solver.clipping import Clip, GlobalNorm, Value
from lightning_solver.clipping.kinds import Order
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Settings
from lightning_solver.interop.reading import Call, Name

OF_NORM = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")
OF_VALUE = ("clip_value", "foreach")
"""The arguments of each but the parameters."""


def read_norm(data: Settings) -> dict[str, Any]:
    """The fields of a spec that do what ``clip_grad_norm_`` does with these arguments.

    Args:
        data: The arguments. Those that the function does not have are noted.

    Raises:
        SolverError: No ``max_norm``, or a value that makes no sense.
    """
    data.needed("max_norm")
    limit, order = read_limit(data, "max_norm"), read_order(data, "norm_type")
    fields: dict[str, Any] = {} if limit is None else {"clip": GlobalNorm(limit, order)}
    if data.flag("error_if_nonfinite", False):
        fields["nonfinite"] = "error"
    _rest(data, "clip_grad_norm_", OF_NORM)
    return fields


def read_value(data: Settings) -> dict[str, Any]:
    """The fields of a spec that do what ``clip_grad_value_`` does with these arguments.

    Args:
        data: The arguments. Those that the function does not have are noted.

    Raises:
        SolverError: No ``clip_value``, or a value that makes no sense.
    """
    data.needed("clip_value")
    limit = read_limit(data, "clip_value")
    clip: Clip | None = None if limit is None else Value(limit)
    _rest(data, "clip_grad_value_", OF_VALUE)
    return {} if clip is None else {"clip": clip}


def read_limit(data: Settings, key: str, default: float | None = None) -> float | None:
    """A limit; ``None``, and a note, where it is infinite and so clips nothing.

    Args:
        data: The settings.
        key: Its key.
        default: What it is where the key is missing.

    Raises:
        SolverError: It is not above 0: then nothing would be learnt.
    """
    if _is_infinite(data.take(key, default)):
        data.notes.say(data.path(key), "is infinite: nothing is clipped")
        return None
    number = data.number(key, default)
    if number is None or not number > 0:
        do = "correct it, or leave the clipping out"
        raise SolverError(data.path(key), "must be above 0: nothing is learnt else", got=repr(number), do=do)
    return float(number)


def read_order(data: Settings, key: str) -> Order:
    """The order of a norm, 2 where it is not given.

    Args:
        data: The settings.
        key: Its key.

    Raises:
        SolverError: It is not above 0.
    """
    given = data.take(key, 2.0)
    if _is_infinite(given):
        return "inf"
    number = None if given is None else data.number(key, 2.0)
    if number is None or not number > 0:
        do = "give the order of a norm, or inf"
        raise SolverError(data.path(key), "must be above 0", got=repr(given), do=do)
    return float(number)


def _is_infinite(value: Any) -> bool:
    """Whether a value is infinity, as a number or however it is written: ``inf``, ``float("inf")``, ``torch.inf``."""
    if isinstance(value, Call) and value.name == "float" and len(value.args) == 1 and not value.kwargs:
        (value,) = value.args
    if isinstance(value, Name):
        value = value.text.rpartition(".")[2]
    if isinstance(value, str):
        return value.strip().lower() in ("inf", "+inf", "infinity")
    return isinstance(value, float) and value == math.inf


def _rest(data: Settings, owner: str, known: tuple[str, ...]) -> None:
    """Note what the function does not have; how it goes over the tensors changes no figure."""
    data.ignore("foreach", "_delete_", "_scope_")
    data.rest(lambda key: f"is not mapped: {owner} has no such argument; {suggestion(key, known, 'arguments')}")
