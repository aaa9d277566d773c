"""The averages of an MMEngine config: ``EMAHook``, its classes of averages and MMDetection's, and ``PreciseBNHook``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_solver.averaging import EMA, SWA, Average, DecayWarmup, ExponentialWarmup, PowerWarmup
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.interop.openmmlab.hooks import (
    INERT,
    class_name,
    find_hooks,
    momentum_of,
    note_rest,
    whole,
    with_statistics,
)
from lightning_solver.interop.openmmlab.updates import Updates, updates_of
from lightning_solver.interop.reading import Call, read_calls

_COMMON = ("interval", "device", "update_buffers")
CLASSES: Mapping[str, tuple[str, ...]] = {
    "ExponentialMovingAverage": ("momentum", *_COMMON),
    "MomentumAnnealingEMA": ("momentum", "gamma", *_COMMON),
    "ExpMomentumEMA": ("momentum", "gamma", *_COMMON),
    "StochasticWeightAverage": _COMMON,
}
"""The classes of averages, and their arguments but ``model``, in order."""

_HOOK = ("ema_type", "strict_load", "begin_iter", "begin_epoch", "priority")
_SHOWN = ("evaluate_on_ema", "evaluate_on_origin")
_MEANT = {"start_iter": "begin_iter", "start_iters": "begin_iter", "start_epoch": "begin_epoch"}
"""What users write, and what it is called."""


def read_averages(settings: Settings, run: Run, per_step: Any, facts: Facts) -> dict[str, Average]:
    """The averages that the hooks of a config make, by name.

    Args:
        settings: The whole config.
        run: The run.
        per_step: How many batches make an optimiser step.
        facts: What the config leaves open.

    Raises:
        SolverError: What MMEngine refuses, and a second ``EMAHook``.
    """
    averages: dict[str, Average] = {}
    text, where = settings.take("average"), "average"
    for call in read_calls(text, where) if text is not None else ():
        if averages:
            raise SolverError(where, "must be one average", got=call.name, do="keep one of them")
        averages = _of_call(call, where, run, settings.notes)
    statistics: list[Settings] = []
    for name, hook in find_hooks(settings, ("EMAHook", "PreciseBNHook")):
        if name == "PreciseBNHook":
            statistics.append(hook)
        elif averages:
            do = "keep one of them; a spec may have several averages, of which one is evaluated"
            raise SolverError(hook.where, "is a second average, and each takes the weights' place", got=name, do=do)
        else:
            averages = _of_hook(hook, run, per_step)
    return with_statistics(averages, statistics, "MMPretrain", facts)


def _of_call(call: Call, where: str, run: Run, notes: Notes) -> dict[str, Average]:
    """The average of a constructor call, whose ``update_parameters`` is called after every step."""
    if call.name not in CLASSES:
        do = suggestion(call.name, CLASSES, "classes")
        raise SolverError(where, "is not a class of averages that is read", got=call.name, do=do)
    data = Settings(call.bound(("model", *CLASSES[call.name]), where), where, notes)
    data.ignore("model")
    name, average = _average(call.name, data, updates_of(1, whole(data, "interval", 1, 1), 1), run, {})
    note_rest(data, call.name, CLASSES[call.name])
    return {name: average}


def _of_hook(hook: Settings, run: Run, per_step: Any) -> dict[str, Average]:
    given = hook.take("ema_type", "ExponentialMovingAverage")
    kind = class_name(given)
    hook.ignore("type", "priority", *INERT)
    if kind not in CLASSES:
        why = f"is not mapped: {kind or given!r} is not known; {suggestion(kind, CLASSES)}"
        hook.notes.unmapped(hook.path("ema_type"), why)
        hook.rest(lambda _: f"is not mapped, as {kind} reads it")
        return {}
    if hook.take("strict_load") is False:
        hook.notes.say(hook.path("strict_load"), "an average that is resumed always has to fit here")
    interval = whole(hook, "interval", 1, 1)
    epochs, batch = _begin(hook, run)
    updates = updates_of(batch, interval, per_step, epochs=epochs, per_epoch=run.per_epoch)
    updates.say(hook, "MMEngine", "update_buffers" if hook.flag("update_buffers", False) else None)
    name, average = _average(kind, hook, updates, run, _shown(hook))
    note_rest(hook, "EMAHook", (*_HOOK, *_SHOWN, *CLASSES[kind]), _MEANT)
    return {name: average}


def _begin(hook: Settings, run: Run) -> tuple[int, int]:
    """The first batch that the average takes in: whole epochs before it, and the batch after these from 1 on."""
    batch, epoch = whole(hook, "begin_iter", 0, 0), whole(hook, "begin_epoch", 0, 0)
    if batch and epoch:
        got = f"begin_iter {batch}, begin_epoch {epoch}"
        raise SolverError(hook.path("begin_epoch"), "cannot stand beside begin_iter", got=got, do="give one of them")
    key, said, longest = ("begin_epoch", epoch, run.epochs) if epoch else ("begin_iter", batch, run.batches)
    if epoch and not run.by_epochs:
        longest = None
        if epoch > 1:
            do = "give begin_iter"
            raise SolverError(hook.path(key), "an IterBasedTrainLoop has one epoch only", got=str(epoch), do=do)
    if longest is not None and said > longest:
        do = f"give at most {float(longest):g}"
        raise SolverError(hook.path(key), "lies beyond the end of the run", got=str(said), do=do)
    return (epoch - 1, 1) if epoch else (0, max(batch, 1))


def _shown(hook: Settings) -> dict[str, Any]:
    """Which weights are validated, as MMPretrain's hook can say it: fields of the average."""
    if not any(key in hook for key in _SHOWN):
        return {}
    average, live = hook.flag(_SHOWN[0], True), hook.flag(_SHOWN[1], False)
    if not average:
        what = "MMPretrain still saves the averaged weights as the state_dict; here it is what is validated"
        hook.notes.say(hook.path(_SHOWN[0]), what)
        return {"evaluated": False}
    if live:
        what = "the metrics of the trained weights end in _live here, in MMPretrain in _origin"
        hook.notes.say(hook.path(_SHOWN[1]), what)
    return {"evaluate_live": True} if live else {}


def _average(kind: str, data: Settings, updates: Updates, run: Run, fields: dict[str, Any]) -> tuple[str, Average]:
    """The name of an average and the average itself."""
    fields |= _where(data)
    if updates.start != 1:
        fields["start"] = updates.start
    if kind == "StochasticWeightAverage":
        return "swa", SWA(**{"start": 1, "every": updates.every, **fields, **_until(data, updates, run)})
    if updates.every != 1:
        fields |= {"every": updates.every, "decay_per": "update"}
    momentum = momentum_of(data)
    if "gamma" in CLASSES[kind]:
        fields["warmup"] = _warmup(kind, data, updates)
    return "ema", EMA(decay=updates.decay(momentum), **fields)


def _where(data: Settings) -> dict[str, Any]:
    """Where an average lies, and what is done with buffers."""
    fields: dict[str, Any] = {} if data.flag("update_buffers", False) else {"buffers": "copy"}
    device = data.take("device")
    if device is not None and str(device) != "cpu":
        data.notes.say(data.path("device"), "an average lies beside the weights, or on the cpu")
    elif device is not None:
        fields["device"] = "cpu"
    return fields


def _warmup(kind: str, data: Settings, updates: Updates) -> DecayWarmup:
    """How the share falls to its value, ``t`` counting batches since the average began.

    As ``gamma / (gamma + t)``, or as ``exp(-(1 + t) / gamma)`` in the class of MMDetection.
    """
    gamma = data.number("gamma", 100 if kind == "MomentumAnnealingEMA" else 2000)
    if gamma <= 0:
        raise SolverError(data.path("gamma"), "must be above 0", got=repr(gamma), do="correct it")
    if updates.times != 1:
        what = "is not mapped exactly, as it moves with every batch: it moves with every step"
        data.notes.unmapped(data.path("gamma"), what)
    if kind == "ExpMomentumEMA":
        return ExponentialWarmup(float(gamma / updates.batches), ahead=float(1 / updates.batches))
    return PowerWarmup(gamma=float(gamma * updates.times / updates.batches), power=1.0)


def _until(data: Settings, updates: Updates, run: Run) -> dict[str, Any]:
    """For an equal average of every few steps: its last update, as the weights at the end count here in any case."""
    if updates.times != 1 and updates.exact and not updates.even:
        what = "is not mapped exactly: the weights with which the average begins count as the others do"
        data.notes.unmapped(data.where, what)
    if updates.every == 1:
        return {}
    if run.batches is None or updates.first is None:
        do = "give facts of the length of the run (total_iters, iters_per_epoch, epochs)"
        what = f"is not mapped exactly: the weights at the end of the run are taken in too; {do}"
        data.notes.unmapped(data.path("interval"), what)
        return {}
    total = math.ceil(run.batches / updates.batches)
    last = updates.first + (total - updates.first) // updates.every * updates.every
    return {} if last == total else {"until": last}
