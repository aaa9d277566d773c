"""Phases one after another, and how a schedule is laid over a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import Duration
from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Schedule, Window
from lightning_solver.schedules.curves import Hold, Joined, Moved
from lightning_solver.schedules.plateau import Plateau

Phases = Schedule | Sequence[Schedule]


@dataclass(frozen=True)
class Join(Schedule):
    """Phases one after another. A list of schedules is a join; this class is needed only inside another schedule.

    Args:
        phases: The phases in order. Each but the last says with ``until`` where it ends, a point of the run.
        until: Where the join itself ends as a phase.
    """

    phases: Sequence[Schedule]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not self.phases:
            raise self._error("phases", "is empty", got=[], do="give at least one schedule")

    def lay(self, window: Window) -> Curve:
        return lay_phases(self.phases, window, numbered(f"{window.where}.phases", len(self.phases)))


def lay(schedule: Phases, window: Window) -> Curve:
    """The curve of a schedule, or of a list of phases, over all of ``window``.

    Raises:
        SolverError: Phases that do not cover the window, or what the schedules themselves refuse.
    """
    phases = (schedule,) if isinstance(schedule, Schedule) else schedule
    curve = lay_phases(phases, window.inside(whole=False), numbered(window.where, len(phases)))
    if not window.whole or window.end is None:
        return curve
    return Moved(curve, Hold(math.ceil(window.end * window.denominator)))


def lay_phases(phases: Sequence[Schedule], window: Window, names: Sequence[str]) -> Curve:
    """The curve of phases one after another; ``names`` are their paths for messages."""
    return _Phases(phases, window, tuple(names)).joined()


def numbered(where: str, count: int) -> list[str]:
    """The paths of the phases of a list; that of the list itself where there is only one."""
    return [where] if count == 1 else [f"{where}[{i}]" for i in range(count)]


def contains(schedule: object, kinds: type[Schedule] | tuple[type[Schedule], ...]) -> bool:
    """Whether a schedule or one inside of it is of one of some classes."""
    if isinstance(schedule, kinds):
        return True
    if isinstance(schedule, Schedule):
        return any(contains(inner, kinds) for inner in vars(schedule).values())
    return isinstance(schedule, (tuple, list)) and any(contains(inner, kinds) for inner in schedule)


@dataclass(frozen=True)
class _Phases:
    """Phases over a window, each from where the one before it ends; the last to the window's end."""

    phases: Sequence[Schedule]
    window: Window
    names: tuple[str, ...]

    def joined(self) -> Curve:
        window = self.window
        starts: list[int] = []
        curves: list[Curve] = []
        begin, before = window.begin, window.before
        for i, phase in enumerate(self.phases):
            name = self.names[i]
            if curves and window.end is not None and begin >= window.end:
                window.notes.append(f"{name}: never begins, as the run ends before step {float(begin):g}")
                break
            end = self._end(i, begin)
            if end is not None and _empty(begin, end, window.denominator):
                if end == begin:
                    window.notes.append(f"{name}.until ({phase.until}): the phase is empty and is left out")
                    continue
                window.notes.append(f"{name}: no step falls into the phase")
            curve = self._laid(i, begin, end, before)
            position = math.ceil(begin * window.denominator)
            if curves:
                _note_jump(curves[-1], curve, begin, window, name)
            starts.append(position)
            curves.append(curve)
            if end is not None and i < len(self.phases) - 1:
                moving = contains(phase, Plateau)  # what it leaves is not known before the run
                before = None if moving else tuple(curve.at(math.ceil(end * window.denominator)))
                begin = end
        if not curves:
            raise SolverError(self.names[0], "all phases are empty", do="give one of them a length")
        return curves[0] if len(curves) == 1 else Joined(tuple(starts), tuple(curves))

    def _laid(self, i: int, begin: Fraction, end: Fraction | None, before: tuple[float, ...] | None) -> Curve:
        window = self.window

        def opening() -> tuple[float, ...] | None:
            """The values with which the next phase that has a length begins."""
            assert end is not None
            for j in range(i + 1, len(self.phases)):
                its_end = self._end(j, end)
                if its_end is None or its_end > end:
                    curve = self._laid(j, end, its_end, None)
                    return tuple(curve.at(math.floor(end * window.denominator)))
            return None if window.after is None else window.after()

        last = i == len(self.phases) - 1
        after = window.after if last or end is None else opening
        return self.phases[i].lay(window.inside(begin=begin, end=end, before=before, after=after, where=self.names[i]))

    def _end(self, i: int, begin: Fraction) -> Fraction | None:
        window, phase, where = self.window, self.phases[i], self.names[i]
        last = i == len(self.phases) - 1
        if phase.until is None:
            if not last:
                do = "say with until where it ends and the next one begins"
                raise SolverError(f"{where}.until", "a phase that is not the last has no end", do=do)
            return window.end
        end = Duration.parse(phase.until, f"{where}.until").resolve(window.run, f"{where}.until")
        got = f"{phase.until!r}, which is step {float(end):g}"
        if end < begin:
            what = f"ends before it begins, at step {float(begin):g}"
            do = "until is a point of the run, not a length: let them grow"
            raise SolverError(f"{where}.until", what, got=got, do=do)
        if window.end is not None and end > window.end:
            what = f"reaches beyond the run, which ends at step {float(window.end):g}"
            if window.beyond == "error":
                do = "shorten it, train longer, or set beyond_run: allow"
                raise SolverError(f"{where}.until", what, got=got, do=do)
            _note(window, f"{where}.until ({phase.until}) {what}")
        elif last and end != window.end:
            to = "the end of the run" if window.end is None else f"step {float(window.end):g}"
            do = "leave out until of the last phase, or add a phase (Constant holds a value)"
            raise SolverError(f"{where}.until", f"leaves the run undefined from there to {to}", got=got, do=do)
        return end


def _note(window: Window, note: str) -> None:
    if note not in window.notes:
        window.notes.append(note)


def _empty(begin: Fraction, end: Fraction, denominator: int) -> bool:
    return math.ceil(end * denominator) == math.ceil(begin * denominator)


def _note_jump(left: Curve, right: Curve, at: Fraction, window: Window, where: str) -> None:
    """Note a jump at a join: curves are clamped, so that the positions around a join give the values at it."""
    exactly = at * window.denominator
    for base, a, b in zip(window.bases, left.at(math.ceil(exactly)), right.at(math.floor(exactly))):
        if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15):
            window.notes.append(f"{where}: jumps from {a:.4g} to {b:.4g} at step {float(at):g} (base value {base:g})")
            return
