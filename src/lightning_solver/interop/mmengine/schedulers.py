"""The schedulers by name, and how those of ``param_scheduler`` are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.mmengine.curves import constant, cosine, linear, poly
from lightning_solver.interop.mmengine.drops import exponential, multi_step, step
from lightning_solver.interop.mmengine.move import Move
from lightning_solver.interop.mmengine.one_cycle import OneCycle, one_cycle
from lightning_solver.interop.mmengine.point import START, Point, point_of
from lightning_solver.interop.mmengine.reader import Reader, as_number
from lightning_solver.interop.mmengine.restart import restart
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.interop.reading import Call, Name

_FLOOR = ("eta_min", "eta_min_ratio")
_CYCLE = ("eta_max", "total_steps", "pct_start", "anneal_strategy", "div_factor", "final_div_factor", "three_phase")
_DROP = ("monitor", "rule", "factor", "patience", "threshold", "threshold_rule", "cooldown", "min_value", "eps")
KINDS: dict[str, tuple[Callable[[Reader], Move] | None, tuple[str, ...]]] = {
    "Constant": (constant, ("factor",)),
    "CosineAnnealing": (cosine, ("T_max", *_FLOOR)),
    "CosineRestart": (restart, ("periods", "restart_weights", *_FLOOR)),
    "Exponential": (exponential, ("gamma",)),
    "Linear": (linear, ("start_factor", "end_factor")),
    "MultiStep": (multi_step, ("milestones", "gamma")),
    "OneCycle": (one_cycle, _CYCLE),
    "Poly": (poly, ("power", "eta_min")),
    "ReduceOnPlateau": (None, _DROP),
    "Step": (step, ("step_size", "gamma")),
}
"""Kinds of schedulers: how one is read as a move, and its own settings."""
_SUFFIXES: dict[str, str | None] = {"LR": "lr", "Momentum": "momentum", "ParamScheduler": None}
_CLASSES: dict[str, tuple[str, str | None]] = {
    f"{kind}{suffix}": (kind, option)
    for kind in KINDS
    for suffix, option in _SUFFIXES.items()
    if (kind, suffix) != ("OneCycle", "Momentum")
}
_CLASSES["CosineAnnealingWeightDecay"] = ("CosineAnnealing", "weight_decay")
"""Classes of MMEngine and MMPretrain: their kind, and what they move (``None``: ``param_name`` says it)."""
_COMMON = (
    "type",
    "begin",
    "end",
    "by_epoch",
    "last_step",
    "verbose",
    "convert_to_iter_based",
    "epoch_length",
    "_scope_",
)


def read_schedulers(config: Any, run: Run, facts: Facts, notes: Notes) -> list[Reader]:
    """The schedulers of ``param_scheduler``, in order."""
    where = "param_scheduler"
    if isinstance(config, Mapping) and "type" not in config:
        do = "import the schedulers of each optimiser by themselves"
        names = ", ".join(map(str, config)) or "(none)"
        raise SolverError(where, "has schedulers for several optimisers, and a spec is of one", got=names, do=do)
    if isinstance(config, (Mapping, Call)):
        return [_reader(config, where, 0, run, facts, notes)]
    if config is not None and not isinstance(config, (list, tuple)):
        do = "give a mapping, or a list of them"
        raise SolverError(where, "is not a scheduler", got=repr(config)[:120], do=do)
    readers = [_reader(item, f"{where}[{i}]", i, run, facts, notes) for i, item in enumerate(config or ())]
    cycles: dict[str, OneCycle] = {}
    for i, reader in enumerate(readers):
        earlier = cycles.get(reader.option)
        if earlier is not None:
            initial = tuple(earlier.knots(group)[0] for group in range(len(earlier.highest)))
            readers[i] = dataclasses.replace(reader, initial=initial)
        if reader.kind == "OneCycle":
            cycle = OneCycle.read(reader)
            values = [(c.highest, c.divide, c.divide_last) for c in (earlier or cycle, cycle)]
            if values[0] != values[1]:
                what = "differs from the OneCycleLR before it, and MMEngine takes the values of the last for both"
                raise SolverError(reader.data.where, what, got=str(values), do="give both the same values")
            cycles[reader.option] = cycle
    return readers


def _reader(config: Any, where: str, index: int, run: Run, facts: Facts, notes: Notes) -> Reader:
    if isinstance(config, Call):
        if any(not isinstance(value, Name) for value in config.args):
            raise SolverError(where, "has arguments without a name", got=str(config.args), do="name them")
        config = {"type": config.name, **{key: value for key, value in config.kwargs.items() if key != "optimizer"}}
    data = Settings(config, where, notes)
    name = data.needed("type")
    name = (
        name.text
        if isinstance(name, Name)
        else name
        if isinstance(name, str)
        else getattr(name, "__name__", repr(name))
    )
    name = name.rpartition(".")[2]
    if name not in _CLASSES:
        do = suggestion(name, _CLASSES, "classes")
        raise SolverError(data.path("type"), "is not a scheduler of MMEngine", got=repr(name), do=do)
    kind, option = _CLASSES[name]
    known = (*_COMMON, *KINDS[kind][1], *(("param_name",) if option is None else ()))
    for key in map(str, config):
        if key not in known:
            data.ignore(key)
            data.notes.unknown(data.path(key), key, name, known)
    if option is None:
        option = data.needed("param_name")
        if not isinstance(option, str) or not option.isidentifier() or option == "betas":
            do = "give lr, momentum or weight_decay"
            raise SolverError(data.path("param_name"), "is not an option with one number", got=repr(option), do=do)
    if kind == "OneCycle" and option != "lr":
        raise SolverError(data.path("param_name"), "OneCycle moves the lr only", got=repr(option), do="give lr")
    if data.number("last_step", -1) != -1:
        do = "leave it out; a checkpoint of the trainer resumes"
        raise SolverError(data.path("last_step"), "resumes a run of MMEngine", got=repr(data.take("last_step")), do=do)
    data.ignore("verbose", "_scope_", "type")
    by_epoch, one, begin, end = _window(data, kind, run, facts)
    if run.sign(end - begin) in (0, -1):
        got = f"begin {run.text(begin)}, end {run.text(end)}"
        raise SolverError(data.path("end"), "must be larger than begin", got=got, do="correct one of them")
    reader = Reader(
        kind, option, data, run, facts, by_epoch, one, begin, end, name.endswith("WeightDecay"), (by_epoch, index)
    )
    if reader.idle and kind != "ReduceOnPlateau":
        notes.say(
            where, "moves with epochs, of which an IterBasedTrainLoop has one: it begins, and then stays as it is"
        )
    return reader


def _window(data: Settings, kind: str, run: Run, facts: Facts) -> tuple[bool, Point, Point, Point]:
    """Whether a scheduler moves with epochs, what its lengths count, where it begins and where it ends."""
    by_epoch, convert = data.flag("by_epoch", True), data.flag("convert_to_iter_based", False)
    own = data.number("epoch_length")
    unit = "ep" if by_epoch else "st"
    one = point_of(Fraction(1), unit)
    default = run.ends[unit]
    if convert and (not by_epoch or kind == "ReduceOnPlateau"):
        what = "only a scheduler by epoch can be converted" if not by_epoch else "ReduceOnPlateau cannot be converted"
        raise SolverError(data.path("convert_to_iter_based"), what, got="True", do="leave it out")
    if convert and own is not None and exact(own) != run.per_epoch:
        if own <= 0 or own != int(own):
            raise SolverError(data.path("epoch_length"), "must be a whole number > 0", got=repr(own), do="correct it")
        one = point_of(exact(own), "st")
        if "end" not in data:
            epochs = run.told(default)
            if epochs.runs:
                facts.need("epochs", data.path("end"), "is the number of epochs")
            default = one * epochs.epochs
    ends = [_begin_or_end(data, key, convert, one, run, facts) for key in ("begin", "end")]
    begin, end = START if ends[0] is None else ends[0], default if ends[1] is None else ends[1]
    return by_epoch and not convert, one, begin, run.relative(end)


def _begin_or_end(data: Settings, key: str, convert: bool, one: Point, run: Run, facts: Facts) -> Point | None:
    if key not in data:
        return None
    if data.take(key) is None:
        raise SolverError(data.path(key), "must be a number", got="None", do="leave it out")
    number = as_number(data.number(key, low=0), data.path(key))
    if number.denominator != 1 and convert:  # rounded down to a whole iteration
        if one.epochs:
            facts.need("iters_per_epoch", data.path(key), "is a part of an epoch, whose length counts")
        return point_of(Fraction(math.floor(run.ticks(one * number, "st") or 0)), "st")
    if number.denominator != 1:
        raise SolverError(data.path(key), "must be a whole number", got=repr(data.take(key)), do="correct it")
    return one * number
