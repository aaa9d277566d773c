"""The averages of an MMCV 1.x config: its ``EMAHook``, those of MMDetection 2.x, and ``PreciseBNHook``."""

from __future__ import annotations

from typing import Any

from lightning_solver.averaging import EMA, Average, ExponentialWarmup, SlowStart
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Settings
from lightning_solver.interop.mmcv.run import Run
from lightning_solver.interop.openmmlab.hooks import (
    INERT,
    find_hooks,
    momentum_of,
    note_rest,
    whole,
    with_statistics,
)
from lightning_solver.interop.openmmlab.updates import Updates, updates_of

_EMA, _LINEAR, _EXPONENTIAL, _STATISTICS = "EMAHook", "LinearMomentumEMAHook", "ExpMomentumEMAHook", "PreciseBNHook"
_PRIORITIES = {
    **{"HIGHEST": 0, "VERY_HIGH": 10, "HIGH": 30, "ABOVE_NORMAL": 40, "NORMAL": 50, "BELOW_NORMAL": 60},
    **{"LOW": 70, "VERY_LOW": 90, "LOWEST": 100},
}


def read_averages(settings: Settings, run: Run, per_step: Any, facts: Facts) -> dict[str, Average]:
    """The averages that the hooks of a config make, by name.

    Args:
        settings: The whole config.
        run: The run.
        per_step: How many batches make an optimiser step.
        facts: What the config leaves open.

    Raises:
        SolverError: What MMCV refuses, and a second such hook.
    """
    averages: dict[str, Average] = {}
    statistics: list[Settings] = []
    for name, hook in find_hooks(settings, (_EMA, _LINEAR, _EXPONENTIAL, _STATISTICS)):
        if name == _STATISTICS:
            statistics.append(hook)
        elif averages:
            do = "keep one of them; a spec may have several averages, of which one is evaluated"
            raise SolverError(hook.where, "is a second average, and each takes the weights' place", got=name, do=do)
        else:
            averages = {"ema": _of_hook(name, hook, run, per_step)}
    return with_statistics(averages, statistics, "MMClassification", facts)


def _of_hook(name: str, hook: Settings, run: Run, per_step: Any) -> Average:
    momentum, interval = momentum_of(hook), whole(hook, "interval", 1, 1)
    share = momentum if name == _EXPONENTIAL else momentum**interval
    if share != momentum:
        what = f"makes the share of the present weights {momentum:g} ** {interval} = {share:g}, as {name} does"
        hook.notes.say(hook.path("interval"), what)
    # The first batch counts for the one hook, as its iterations go from 0 on; the other waits for an interval to pass.
    updates = updates_of(1 if name == _EMA else interval, interval, per_step)
    skipped = name == _EMA or hook.flag("skip_buffers", False)
    updates.say(hook, "MMCV", None if skipped else "skip_buffers")
    fields: dict[str, Any] = {"start": updates.start} if updates.start != 1 else {}
    if updates.start != 0:  # the average is what the run begins with until it takes in its share of other weights
        fields |= {"first": "blend", **({"before": "hold"} if updates.start != 1 else {})}
    if updates.every != 1:
        fields |= {"every": updates.every, "decay_per": "update"}
    fields |= _falling(hook, updates) if name == _EXPONENTIAL else _warmup(name, hook, share, updates)
    if skipped:
        fields["buffers"] = "copy"
    fields |= _shown(hook, run)
    hook.ignore(*INERT)
    if hook.take("resume_from") is not None:
        hook.notes.unmapped(
            hook.path("resume_from"), "resumes a run: give the checkpoint to Trainer.fit(ckpt_path=...)"
        )
    buffers = () if name == _EMA else ("skip_buffers",)
    own = "total_iter" if name == _EXPONENTIAL else "warm_up"
    note_rest(hook, name, ("momentum", "interval", own, "resume_from", *buffers, "priority"))
    return EMA(decay=updates.decay(share), **fields)


def _warmup(name: str, hook: Settings, share: float, updates: Updates) -> dict[str, Any]:
    """A share of at most ``(1 + i) / (warm_up + i)``, ``i`` counting all batches of the run from 0."""
    steps = hook.number("warm_up", 100)
    if steps <= 0:
        raise SolverError(hook.path("warm_up"), "must be above 0", got=repr(steps), do="correct it")
    since_first = updates.batches == 1 and (name == _EMA or updates.every == 1)
    least = 1 / steps if steps > 1 else 1.0
    if share <= least:
        if "warm_up" in hook:
            hook.notes.say(
                hook.path("warm_up"), f"never acts: the share of the present weights, {share:g}, is below it"
            )
        return {}
    if not since_first:
        what = "is not mapped exactly, as it counts batches of the run: it counts steps from the first update on"
        hook.notes.unmapped(hook.path("warm_up"), what)
    return {"warmup": SlowStart(float(steps / updates.batches))}


def _falling(hook: Settings, updates: Updates) -> dict[str, Any]:
    """A share that falls to its value as ``exp(-(1 + i) / total_iter)``, ``i`` counting the batches from 0."""
    steps = hook.number("total_iter", 2000)
    if steps <= 0:
        raise SolverError(hook.path("total_iter"), "must be above 0", got=repr(steps), do="correct it")
    if updates.times != 1:
        what = "is not mapped exactly, as it moves with every batch: it moves with every step"
        hook.notes.unmapped(hook.path("total_iter"), what)
    assert updates.first is not None, "an average of MMCV begins with the run"
    return {"warmup": ExponentialWarmup(float(steps / updates.batches), ahead=float(updates.first))}


def _shown(hook: Settings, run: Run) -> dict[str, Any]:
    """Which weights are validated: those that are in place when MMCV's ``EvalHook`` runs."""
    given = hook.take("priority", "NORMAL")
    level = given if isinstance(given, int) else _PRIORITIES.get(str(given).upper(), -1)
    if not 0 <= level <= 100:
        do = suggestion(str(given), _PRIORITIES, "priorities")
        raise SolverError(hook.path("priority"), "is not a priority", got=repr(given), do=do)
    if not run.by_epochs:
        what = "an IterBasedRunner never puts the average in the weights' place: the trained weights are validated"
    elif level > _PRIORITIES["LOW"]:
        what = "comes after the EvalHook, so that the trained weights are validated"
    else:
        if level >= _PRIORITIES["NORMAL"]:  # those of the same level go in the order in which they are added
            what = "MMCV saves the trained weights, as its CheckpointHook comes first; here what is validated is saved"
            hook.notes.say(hook.path("priority"), what)
        return {}
    hook.notes.say(hook.where, f"{what}; say evaluated: true in the spec for the averaged ones")
    return {"evaluated": False}
