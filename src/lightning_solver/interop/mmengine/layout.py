"""Moves one after another as a list of phases, and those at the same time as several lists."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_solver.interop.base import HOLD, simple
from lightning_solver.interop.mmengine.move import Found, Move
from lightning_solver.interop.mmengine.point import END, START, Point
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.schedules import Constant, MultiStep, Schedule, Staircase
from lightning_solver.schedules.base import Level


def as_tracks(moves: Sequence[Move], run: Run, bare: bool) -> list[list[Schedule]] | None:
    """The schedulers as lists of phases that are multiplied; ``None`` where that does not do."""
    tracks: list[list[Move]] = []
    for move in moves:
        for track in tracks:
            if sequence([*track, move], run, bare) is not None:
                track.append(move)
                break
        else:
            tracks.append([move])
    first = tracks[0]
    if len(tracks) > 1:
        if any(not move.pure for track in tracks[1:] for move in track):
            return None
        floors = [move for move in first if not move.pure]
        later = [move for track in tracks[1:] for move in track]
        if floors and not all(_follows(move, first[-1], move.begin, run) for move in later):
            return None
    lists = [sequence(track, run, bare) for track in tracks]
    assert all(phases is not None for phases in lists)
    return [phases for phases in lists if phases is not None]


def sequence(moves: Sequence[Move], run: Run, bare: bool) -> list[Schedule] | None:
    """Schedulers one after another as a list of phases; ``None`` where they overlap."""
    out: list[Schedule] = []
    at, opened, held = START, START, True
    factor: float | None = 1.0
    before: Move | None = None
    for move in moves:
        sign = run.sign(move.latest - at)
        flexible = move.latest != move.begin
        waits = bool(out) and out[-1].until is None  # the phase before lasts until something else begins
        # Iterations are taken to be over before an epoch begins: where they are not, laying the phases fails.
        if sign == -1 or (sign is None and (flexible or waits or (move.latest - at).epochs < 0)):
            return None
        if sign == 0 and before is not None and not _follows(move, before, move.latest, run):
            return None
        start: Level = "previous"
        if waits and sign == 0 and isinstance(out[-1], Constant):  # a value that would last no step
            start = out[-1].value
            out.pop()
            factor, held = start if isinstance(start, float) else None, False
        elif waits and not (isinstance(out[-1], (Constant, MultiStep)) and run.sign(at - opened) != 0):
            return None
        elif factor == 1.0 or not (held and out):
            if factor is None:
                return None
            start = factor
        if move.needs_level and factor is None:
            return None
        phases = move.phases(Found(factor, start))
        if phases:
            opened = move.latest if waits else at if flexible else move.begin
            if out and out[-1].until is None:
                out[-1] = out[-1].ending(run.text(move.latest))
            elif sign != 0 and not flexible:
                out.append(Constant(start, until=run.text(move.begin)))
            if move.stairs and not bare:
                of = [*phases[:-1], phases[-1].ending(None)]
                phases = [Staircase(simple(of), until=phases[-1].until)]
            out += phases
        elif move.jumps and out:
            if out[-1].until is None:
                out[-1] = out[-1].ending(run.text(move.begin))
            elif sign != 0:
                out.append(Constant(start, until=run.text(move.begin)))
        elif move.jumps and move.begin != START:
            out.append(Constant(start, until=run.text(move.begin)))
        held = not move.returns if phases else held and not move.jumps
        at = move.last if phases or move.jumps else at
        factor, before = move.after(factor), move
    if not out:
        return None if factor is None else [Constant(factor)]
    if out[-1].until is not None and run.sign(at - END) not in (0, 1):
        assert held or factor is not None
        out.append(Constant(factor) if factor is not None and (factor == 1 or not held) else HOLD)
    return out


def _follows(move: Move, before: Move, begin: Point, run: Run) -> bool:
    """Whether a scheduler that begins at ``begin`` surely does so once another one is done."""
    sign = run.sign(begin - before.last)
    quiet = not move.jumps and move.latest == move.begin  # changes nothing with its first step
    return sign == 1 or (sign == 0 and ((before.pure and move.pure) or quiet or move.order > before.order))
