"""Arguments and values of a config, as every form of it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Call

NOT_HERE = "is not part of the schedules"
"""Why a key is not read."""


def not_here(_: str) -> str:
    """Why any key is not read."""
    return NOT_HERE


def only(calls: Sequence[Call], where: str) -> Call:
    """The one call that there is.

    Raises:
        SolverError: There are several, or none.
    """
    if len(calls) != 1:
        got = ", ".join(call.name for call in calls) or "none"
        raise SolverError(where, "must be one scheduler", got=got, do="give the one that sets the learning rate")
    return calls[0]


def arguments_of(call: Call, where: str, notes: Notes, names: Sequence[str]) -> Settings:
    """The arguments of a constructor call.

    Raises:
        SolverError: Too many of them.
    """
    bound = call.bound(names, where)
    for name in bound:
        if name not in names:
            notes.unknown(f"{where}.{name}", name, call.name, names)
    return Settings({name: value for name, value in bound.items() if name in names}, where, notes)


def from_the_start(settings: Settings, key: str) -> None:
    """Note a step to resume from, which is no part of a schedule."""
    if settings.take(key, -1) != -1:
        settings.notes.unmapped(settings.path(key), "resumes a run: read as if it were -1")


def whole_number(settings: Settings, key: str, default: int | None, low: int) -> int:
    """A whole number; it must be given where it has no default.

    Raises:
        SolverError: It is missing, too low, or not whole.
    """
    if default is None:
        settings.needed(key)
    value = settings.number(key, default, low=low)
    if value != int(value):
        raise SolverError(settings.path(key), "must be a whole number", got=repr(value), do="correct it")
    return int(value)


def numbers(settings: Settings, key: str, default: Sequence[float]) -> list[Any]:
    """A list of numbers.

    Raises:
        SolverError: It is something else.
    """
    values = settings.take(key, default)
    if not isinstance(values, (list, tuple)) or not all(_is_number(value) for value in values):
        raise SolverError(settings.path(key), "must be a list of numbers", got=repr(values), do="correct it")
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
