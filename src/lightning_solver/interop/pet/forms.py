"""The schedule in its two forms: ``SOLVER.SCHEDULER``, and the flat names of earlier releases."""

from __future__ import annotations

from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Phases, Settings, length
from lightning_solver.interop.pet.curve import read_curve
from lightning_solver.schedules import Constant, Linear, Schedule

POLICIES = ("STEP", "COSINE", "STEP_COSINE", "POLY")

_COMMON = ("STEPS", "GAMMA", "LR_POW", "WARM_UP_FACTOR", "WARM_UP_METHOD", "WARM_UP_ITERS", "LOG_LR_CHANGE_THRESHOLD")
NESTED = (*_COMMON, "POLICY", "TOTAL_EPOCHS", "TOTAL_ITERS", "WARM_UP_EPOCHS")
"""The keys of ``SCHEDULER``."""
FLAT = (*_COMMON, "LR_POLICY", "MAX_EPOCHS", "MAX_ITER", "WARM_UP_EPOCH")
"""The keys of earlier releases."""


def read_nested(settings: Settings, facts: Facts, notes: Notes) -> Phases:
    """``SCHEDULER``; epochs or iterations for the run and for the warm-up, each by itself."""
    policy = settings.choice("POLICY", POLICIES, "COSINE")
    by_epoch = settings.take("TOTAL_EPOCHS") is not None
    key = "TOTAL_EPOCHS" if by_epoch else "TOTAL_ITERS"
    total = _length(settings, key)
    if by_epoch and settings.take("TOTAL_ITERS") is not None:
        notes.say(settings.path("TOTAL_ITERS"), "is not read by Pet beside TOTAL_EPOCHS")
    warm_by_epoch = settings.take("WARM_UP_EPOCHS") is not None
    if warm_by_epoch and settings.take("WARM_UP_ITERS") is not None:
        notes.say(settings.path("WARM_UP_ITERS"), "is not read by Pet beside WARM_UP_EPOCHS")
    warm = "WARM_UP_EPOCHS" if warm_by_epoch else "WARM_UP_ITERS"
    warmup = _warmup(settings, warm, warm_by_epoch, 0.1, notes)
    return read_curve(settings, policy, "ep" if by_epoch else "st", total, key, warmup, facts, notes)


def read_flat(settings: Settings, facts: Facts, notes: Notes) -> Phases:
    """The names of earlier releases: all in iterations where there is ``MAX_ITER``, else all in epochs."""
    by_epoch = "MAX_ITER" not in settings
    settings.needed("LR_POLICY")
    policy = settings.choice("LR_POLICY", POLICIES)
    key, other = ("MAX_EPOCHS", "MAX_ITER") if by_epoch else ("MAX_ITER", "MAX_EPOCHS")
    warm, other_warm = ("WARM_UP_EPOCH", "WARM_UP_ITERS") if by_epoch else ("WARM_UP_ITERS", "WARM_UP_EPOCH")
    settings.needed(key)
    for name in (other, other_warm):
        if settings.take(name) is not None:
            which = "without MAX_ITER" if by_epoch else "beside MAX_ITER"
            notes.say(settings.path(name), f"is not read by Pet {which}")
    warmup = _warmup(settings, warm, by_epoch, None, notes)
    return read_curve(settings, policy, "ep" if by_epoch else "st", _length(settings, key), key, warmup, facts, notes)


def _length(settings: Settings, key: str) -> Any:
    total = settings.number(key)
    if total is not None and total <= 0:
        raise SolverError(settings.path(key), "must be > 0", got=repr(total), do="correct it, or leave it out")
    return total


def _warmup(settings: Settings, key: str, by_epoch: bool, default: float | None, notes: Notes) -> Schedule | None:
    method = settings.choice("WARM_UP_METHOD", ("CONSTANT", "LINEAR"), "LINEAR")
    if settings.take(key) is None:
        do = f"add {key}: 0 for no warm-up"
        raise SolverError(settings.path(key), "is missing, and what Pet takes then differs between its releases", do=do)
    count = settings.number(key, low=0)
    factor = settings.number("WARM_UP_FACTOR", default, low=0)
    if count == 0:
        return None
    if factor is None:
        do = "add it: the default was 1/3 in some releases, 0.1 in others"
        raise SolverError(settings.path("WARM_UP_FACTOR"), "is missing", do=do)
    if factor == 1:
        notes.say(settings.path("WARM_UP_FACTOR"), "a warm-up by the factor 1 is left out")
        return None
    until = length(count, "ep" if by_epoch else "st")
    return Constant(float(factor), until=until) if method == "CONSTANT" else Linear(start=float(factor), until=until)
