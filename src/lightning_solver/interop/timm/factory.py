"""``create_scheduler_v2`` and the arguments of ``train.py``."""

from __future__ import annotations

import math
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Phases, Settings, absolute
from lightning_solver.interop.timm.arguments import (
    ARGUMENTS,
    CLASSES,
    FACTORY,
    KEYWORDS,
    NAMESPACE,
    SCHEDULERS,
    SCRIPT,
    SHARED,
)
from lightning_solver.interop.timm.averages import SCRIPT as AVERAGES
from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.cycles import KINDS, MOST, Curve, curve_parts, read_curve
from lightning_solver.interop.timm.gradients import SCRIPT as GRADIENTS
from lightning_solver.interop.timm.gradients import accumulated
from lightning_solver.interop.timm.jitter import read_jitter
from lightning_solver.interop.timm.parts import Parts
from lightning_solver.interop.timm.plateau import monitor_of, plateau_phases
from lightning_solver.interop.timm.ramp import Ramp, read_ramp
from lightning_solver.interop.timm.run import Run, base_rates
from lightning_solver.interop.timm.script import OPTIMIZER
from lightning_solver.interop.timm.source import Source
from lightning_solver.interop.timm.stairs import multistep_parts, step_parts
from lightning_solver.interop.timm.wsd import factory_stable, stable_parts
from lightning_solver.schedules import Constant, PerGroup


def of_factory(form: str, settings: Settings, facts: Facts) -> Phases | None:
    """The schedule that the factory makes of its keywords or of the arguments of the script; ``None`` if none.

    Raises:
        SolverError: What timm refuses, or what has no counterpart.
    """
    script = form != "create_scheduler_v2"
    if form in ("create_scheduler", "scheduler_kwargs"):
        settings.needed("sched")
    sched = settings.choice("sched", SCHEDULERS, "cosine")
    source, run = _factory_source(form, sched, settings, facts)
    warm, prefix = source.number("warmup_t", low=0), settings.flag("warmup_prefix", False)
    ramp = read_ramp(source, prefix or sched in ("wsd", "rsqrt"))
    epochs = source.number("t_initial")
    jitter = None if sched == "none" else read_jitter(source, epochs)
    curve = read_curve(source, sched) if sched in KINDS.values() else None

    total = exact(epochs) + (exact(warm) if prefix else 0)
    if curve is not None:
        total = _trained(curve, source, total - exact(epochs))
    if curve is not None or sched in ("wsd", "rsqrt"):
        total += exact(settings.number("cooldown_epochs", 0))
    total = total if source.clock.stairs else Fraction(math.floor(total))
    if form == "train.py" and settings.number("stop_epoch"):
        total = min(total, exact(settings.number("stop_epoch")))
    source.say("t_initial", f"timm trains for {total} epochs: Trainer(max_epochs={total})")
    if run.epochs not in (None, total):
        settings.notes.say("facts", f"the run is {float(run.epochs or 0):g} epochs long, not {total}")
    if source.clock.run is None and source.clock.unit == "ep":
        source = replace(source, clock=replace(source.clock, run=total))

    phases: Phases | None
    if sched == "none":
        phases = _unscheduled(facts, settings.notes)
    elif sched == "plateau":
        metric = str(settings.take("eval_metric", "top1")) if script else monitor_of(facts)
        phases = plateau_phases(source, metric, ramp, jitter)
    else:
        phases = _factory_parts(sched, source, ramp, curve, prefix, facts).joined(source.clock, ramp, jitter)
    settings.ignore(
        *(source.name(name) for name in source.defaults), *(ARGUMENTS.get(n, n) for n in FACTORY) if script else FACTORY
    )
    if script:
        rest_of_script(settings, form)
    return phases


def _trained(curve: Curve, source: Source, warm: Fraction) -> Fraction:
    """The epochs of all cycles and of a warm-up before them, cut to whole ``t`` where the cycles differ in length."""
    cycles = max(curve.limit, 1)
    if curve.mul == 1 or cycles > MOST:
        return curve.bound(1) * cycles / source.scale + warm
    ticks = source.clock.ticks or 1
    # In floats, as there: of 45 updates and mul 1.1 they leave 44.
    span, mul = float(curve.bound(1) * ticks), float(curve.mul)
    return Fraction(math.floor(-span * (mul**cycles - 1) / (1 - mul)), ticks * source.scale) + warm


def _factory_parts(sched: str, source: Source, ramp: Ramp, curve: Curve | None, prefix: bool, facts: Facts) -> Parts:
    if curve is not None:
        return curve_parts(curve, source, ramp)
    if sched == "constant":
        return Parts([Constant()], even=True)
    if sched in ("step", "multistep"):
        return (step_parts if sched == "step" else multistep_parts)(source, ramp)
    bases = base_rates(facts)
    if bases is None and "lr" in source.settings and source.settings.number("lr"):
        bases = [float(source.settings.number("lr"))]
    return stable_parts(factory_stable(source, sched, prefix, facts), source, ramp, bases)


def _factory_source(form: str, sched: str, settings: Settings, facts: Facts) -> tuple[Source, Run]:
    """The keywords as arguments of the class, and the run that the facts tell of."""
    script = form != "create_scheduler_v2"
    differ = SCRIPT if form == "train.py" else NAMESPACE if script else {}
    keywords = {**FACTORY, **differ}
    if keywords["decay_epochs"] is None:
        keywords["decay_epochs"] = 0.2 if sched in ("wsd", "rsqrt") else 90
    renamed = {**KEYWORDS, "decay_t": "decay_milestones" if sched == "multistep" else "decay_epochs"}
    names = {name: renamed.get(name, name) for name in (*CLASSES.get(SCHEDULERS[sched], {}), *renamed)}
    of_class = CLASSES.get(SCHEDULERS[sched], {})
    defaults = {name: keywords.get(keyword, of_class.get(name)) for name, keyword in names.items()}
    if script:
        names = {name: ARGUMENTS.get(keyword, keyword) for name, keyword in names.items()}
        metric = str(settings.take("eval_metric", "top1"))
        falling = metric == "loss" if form == "train.py" else "loss" in metric
        names, defaults = {**names, "mode": "plateau_mode"}, {**defaults, "mode": "min" if falling else "max"}

    run = Run.of(facts, accumulated(settings) if form == "train.py" else None)
    on_updates = settings.flag("sched_on_updates", False) if script else not settings.flag("step_on_epochs", True)
    updates = None if script else settings.number("updates_per_epoch")
    clock, scale = Clock("ep", True, run=run.epochs), 1
    if on_updates:
        if sched == "plateau":
            do = "step it by epochs"
            raise SolverError(settings.path("sched"), "a plateau cannot be stepped by updates", got="plateau", do=do)
        if updates is not None and (updates <= 0 or updates != int(updates)):
            do = "give the number of updates of an epoch, or leave it out"
            raise SolverError(
                settings.path("updates_per_epoch"), "must be a whole number > 0", got=repr(updates), do=do
            )
        clock = Clock("ep", False, run.per_epoch or updates, run.epochs)
        if updates and run.per_epoch not in (None, updates):
            what = f"is not the length of the run's epochs, {run.per_epoch}: the lengths are written in steps"
            settings.notes.say(settings.path("updates_per_epoch"), what)
            clock, scale = Clock("st", False, 1, run.steps), int(updates)
    return Source(settings, clock, names, defaults, scale), run


def _unscheduled(facts: Facts, notes: Notes) -> Phases | None:
    """No schedule: timm does not touch the groups then, so that their ``lr_scale`` has no effect."""
    scales, bases = facts.get("lr_scale"), base_rates(facts)
    if scales is None or bases is None or set(scales) == {1.0}:
        what = "is none: timm leaves lr_scale of the groups without effect then; here the rates of groups contain it"
        notes.say("sched", what)
        return None
    notes.say("sched", "is none: lr_scale of the groups has no effect, as in timm")
    return PerGroup(tuple(Constant(absolute(base)) for base in bases))


def rest_of_script(settings: Settings, form: str) -> None:
    """Note what is not mapped: most arguments of the script have nothing to do with optimiser and schedule."""
    names = [*SHARED, "sched_on_updates", *OPTIMIZER, *AVERAGES, *GRADIENTS]

    def why(key: str) -> str:
        close = get_close_matches(key, names, 1, cutoff=0.8)
        return f"is not part of the schedules{f'; did you mean {close[0]}?' if close else ''}"

    if form != "train.py":  # where these are no part of it, but may have been read
        for key, nothing in (("lr", None), ("grad_accum_steps", 1)):
            if settings.take(key) not in (None, nothing):
                settings.notes.unmapped(settings.path(key), why(key))
    settings.rest(why)
