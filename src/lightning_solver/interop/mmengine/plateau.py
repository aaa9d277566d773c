"""The kind ``ReduceOnPlateau``, and what may stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import absolute
from lightning_solver.interop.mmengine.move import Move
from lightning_solver.interop.mmengine.point import START, point_of
from lightning_solver.interop.mmengine.reader import Reader, as_number
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.schedules import Constant, Over, PerGroup, Plateau, Schedule


def read_plateau(reader: Reader) -> Schedule:
    """``ReduceOnPlateau`` as a schedule."""
    data = reader.data
    if not reader.by_epoch:
        raise reader.error("by_epoch", "ReduceOnPlateau moves with epochs only", False, "leave it out")
    lowest = data.take("min_value", 0.0)
    groups = reader.facts.get("base_lr")
    if isinstance(lowest, (list, tuple)) and isinstance(groups, (list, tuple)) and len(groups) != len(lowest):
        raise reader.error("min_value", f"has not one value for each of {len(groups)} groups", lowest)
    many = list(lowest) if isinstance(lowest, (list, tuple)) else [lowest]
    numbers = [float(as_number(value, data.path("min_value"))) for value in many]
    factor = float(data.number("factor", 0.1))
    if not 0 < factor < 1:
        raise reader.error("factor", "must be > 0 and < 1", factor)
    each = [
        Plateau(
            monitor=str(data.take("monitor", "loss")),
            mode="min" if data.choice("rule", ("less", "greater"), "less") == "less" else "max",
            factor=factor,
            patience=_natural(reader, "patience", 10),
            threshold=float(data.number("threshold", 1e-4, low=0)),
            threshold_mode="rel" if data.choice("threshold_rule", ("rel", "abs"), "rel") == "rel" else "abs",
            cooldown=_natural(reader, "cooldown", 0),
            min=absolute(max(number, 0.0)),
            eps=float(data.number("eps", 1e-8, low=0)),
        )
        for number in numbers
    ]
    plateau: Schedule = each[0] if len(set(each)) == 1 else PerGroup(tuple(each))
    if reader.idle:
        return plateau if reader.begin == START else Constant()
    if reader.run.sign(reader.end - reader.tick) == 0:
        return Constant()  # it ends before the first validation
    # A validation after n epochs counts where begin <= n < end; a tracker counts those after its begin.
    begin = None if reader.begin == START else reader.text(reader.begin - point_of(Fraction(1), "st"))
    end = None if reader.endless else reader.text(reader.end - reader.tick)
    return plateau if begin is None and end is None else Over(plateau, begin=begin, end=end)


def check_plateaus(plateaus: Sequence[Reader], moves: Sequence[Move], run: Run) -> None:
    """Refuse what a drop would not commute with."""
    where = plateaus[0].data.where
    if any(not move.pure for move in moves):
        what = "stands beside a scheduler with a floor, or one that sets the value, and is no factor of it"
        raise SolverError(where, what, do="give eta_min: 0, or take one of them out")
    for reader in plateaus:
        lowest = reader.data.take("min_value", 0.0)
        first = reader.begin + reader.tick * (int(reader.data.number("patience", 10)) + 1)
        busy = len(plateaus) > 1 or any(
            move.after(1.0) != 1 or run.sign(move.last - first) in (1, None) for move in moves
        )
        if busy and any(lowest if isinstance(lowest, (list, tuple)) else [lowest]):
            what = "limits a value that another scheduler moves at the same time"
            do = "let the other end before the first drop, or give min_value: 0"
            raise SolverError(reader.data.path("min_value"), what, got=repr(lowest), do=do)
        if busy:
            reader.data.notes.say(reader.data.path("eps"), "is measured without the other schedulers")


def _natural(reader: Reader, key: str, default: int) -> int:
    value = reader.data.number(key, default, low=0)
    if value != int(value):
        raise reader.error(key, "must be a whole number", value)
    return int(value)
