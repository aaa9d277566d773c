"""The schedulers of one option as one schedule."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Notes, Phases, batches_to_steps, simple, single
from lightning_solver.interop.mmengine.layout import as_tracks, sequence
from lightning_solver.interop.mmengine.move import Move
from lightning_solver.interop.mmengine.plateau import check_plateaus, read_plateau
from lightning_solver.interop.mmengine.point import END, START
from lightning_solver.interop.mmengine.reader import Reader
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.interop.mmengine.schedulers import KINDS
from lightning_solver.schedules import Chain, Constant, KeepZero, Linear, Over, Product, Schedule, Staircase, Warmup


def schedule_of(readers: Sequence[Reader], per_step: Any) -> Phases:
    """The schedule of one option."""
    run, notes = readers[0].run, readers[0].data.notes
    plateaus = [reader for reader in readers if reader.kind == "ReduceOnPlateau"]
    others = [reader for reader in readers if reader.kind != "ReduceOnPlateau"]
    moves = [_moved(reader) for reader in others]
    tracks = _together(moves, run, others, alone=not plateaus) if others else []
    keep = [reader for reader in others if reader.keep_zero and reader.eta_min() != 0]
    if keep and any(not move.pure and not r.keep_zero for r, move in zip(others, moves)):
        what = "keeps groups at 0 that another scheduler moves away from it"
        raise SolverError(keep[0].data.where, what, do="take one of them out")
    if keep and not all(isinstance(r.eta_min(), float) for r in keep):
        tracks = [KeepZero(track) for track in tracks]
    tracks = [_in_steps(track, run, per_step, notes) for track in tracks]
    if not plateaus:
        return tracks[0]
    lowering = [read_plateau(reader) for reader in plateaus]
    check_plateaus(plateaus, moves, run)
    if not tracks and len(lowering) == 1:
        return lowering[0]
    return Product((*lowering, *tracks))


def _moved(reader: Reader) -> Move:
    read, run = KINDS[reader.kind][0], reader.run
    assert read is not None
    if reader.idle and reader.begin != START:
        return reader.held()
    move = read(reader)
    return reader.held() if run.sign(reader.begin - END) in (0, 1) else move


def _in_steps(phases: Phases, run: Run, per_step: Any, notes: Notes) -> Phases:
    """A schedule of iterations as one of optimiser steps."""
    if run.last_is_short and run.batches is not None:  # the last step is made by the value of the last batch
        last = int(run.batches)
        phases = (Over(single(phases), end=last, until=last - 1), HOLD)
    return batches_to_steps({"": phases}, per_step, notes, "optim_wrapper.accumulative_counts")[""]


def _together(moves: Sequence[Move], run: Run, readers: Sequence[Reader], alone: bool) -> list[Phases]:
    """The schedulers of one option: one schedule, or, not ``alone``, factors."""

    def order(one: Move, other: Move) -> int:
        return run.sign(one.latest - other.latest) or 0

    ordered = sorted(moves, key=functools.cmp_to_key(order))
    bare = alone and all(move.by_epoch for move in moves) and any(move.stairs for move in moves)
    tracks = as_tracks(ordered, run, bare)
    if tracks is None:
        return [_chain(moves, run, readers)]
    if not alone:
        return [simple(track) for track in tracks]
    if len(tracks) == 1 and any(
        run.sign(later.latest - move.last) is None for move, later in itertools.pairwise(ordered)
    ):
        what = "the epochs are taken to be long enough that no scheduler begins before the one before it is done"
        readers[0].data.notes.say("param_scheduler", what)
    schedule = simple(tracks[0]) if len(tracks) == 1 else _product(tracks)
    return [Staircase(schedule) if bare else schedule]


def _product(tracks: Sequence[list[Schedule]]) -> Schedule:
    """Lists of phases multiplied; as a warm-up, where one is a ramp up to 1."""
    if len(tracks) == 2:
        for ramp, other in (tracks, tracks[::-1]):
            if len(ramp) == 2 and ramp[1] == Constant() and _rises(ramp[0]):
                return Warmup(ramp=ramp[0], of=simple(other), meets="multiply")
    return Product(tuple(simple(track) for track in tracks))


def _rises(phase: Schedule) -> bool:
    inner = phase.of if isinstance(phase, Staircase) else phase
    return isinstance(inner, Constant) or (isinstance(inner, Linear) and inner.end == 1)


def _chain(moves: Sequence[Move], run: Run, readers: Sequence[Reader]) -> Schedule:
    """Schedulers that each work on what the others leave, where one of them has a floor."""
    for move, reader in zip(moves, readers):
        if move.sets:
            what = "sets the value whatever the others made of it, at the same time"
            do = "let one begin where the other ends"
            raise SolverError(reader.data.where, what, got=reader.kind, do=do)
    ordered = sorted(moves, key=lambda move: move.order)
    links = [(sequence([move], run, bare=False), move.floor) for move in ordered]
    kept = [(simple(link), floor) for link, floor in links if link is not None]
    return Chain(tuple(link for link, _ in kept), floors=tuple(floor for _, floor in kept))
