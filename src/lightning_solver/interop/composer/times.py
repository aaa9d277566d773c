"""Times as Composer writes them: ``10ep``, ``500ba``, ``4096sp``, ``0.5dur``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from lightning_solver.errors import SolverError
from lightning_solver.interop.reading import Call, Name

Unit = Literal["ep", "ba", "sp", "dur"]
_TIME = re.compile(r"(?P<value>.+?)(?P<unit>iter|ep|ba|sp|tok|dur|sec)", re.IGNORECASE)


@dataclass(frozen=True)
class Time:
    """A time as it is written: a share of the run for ``dur``, a whole number for the others."""

    value: int | float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}" if self.unit == "dur" else f"{self.value}{self.unit}"

    @classmethod
    def parse(cls, given: Any, where: str, *, whole: Unit | None = None) -> Time:
        """Read ``10ep``, ``3e4ba``, ``4096sp`` or ``0.5dur``; a bare number where ``whole`` says what it counts."""
        forms = "write a text such as 10ep, 500ba, 4096sp or 0.5dur"
        if isinstance(given, Call):
            given = _text_of(given)
        if whole is not None and isinstance(given, int) and not isinstance(given, bool):
            given = f"{given}{whole}"
        found = _TIME.fullmatch(given.strip()) if isinstance(given, str) else None
        try:
            value = float(found["value"]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or math.isnan(value) or math.isinf(value):
            raise SolverError(where, "is not a time of Composer", got=repr(given), do=forms)
        unit = found["unit"].lower()
        if unit in ("tok", "sec", "iter"):
            what = {"tok": "tokens", "sec": "seconds", "iter": "iterations"}[unit]
            do = "convert it to batches: the length of a batch is not always the same"
            raise SolverError(where, f"is in {what}, which the steps of a run do not tell", got=repr(given), do=do)
        if value < 0 or (unit != "dur" and int(value) != value):
            what = "must not be negative" if value < 0 else f"must be a whole number of {unit}"
            raise SolverError(where, what, got=repr(given), do="correct it")
        return cls(value if unit == "dur" else int(value), unit)  # type: ignore[arg-type]


def _text_of(call: Call) -> Any:
    """``Time(5, "ep")``, ``Time.from_epoch(5)`` and ``Time.from_timestring("5ep")`` as text."""
    if call.name == "from_timestring" and len(call.args) == 1:
        return call.args[0]
    units = {"epoch": "ep", "batch": "ba", "sample": "sp", "token": "tok", "duration": "dur", "iteration": "iter"}
    if call.name == "Time":
        arguments = call.bound(("value", "unit"), "Time")
        unit = arguments.get("unit")
        unit = units.get(unit.text.rpartition(".")[2].lower()) if isinstance(unit, Name) else unit
        return f"{arguments.get('value')}{unit}"
    unit = units.get(call.name.removeprefix("from_"))
    return f"{call.args[0]}{unit}" if unit and call.args else call.name
