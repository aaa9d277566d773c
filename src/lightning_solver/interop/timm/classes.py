"""A class of ``timm.scheduler`` with its arguments."""

from __future__ import annotations

from lightning_solver.interop.base import Facts, Phases, Settings
from lightning_solver.interop.timm.arguments import CLASSES
from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.cycles import KINDS, curve_parts, read_curve
from lightning_solver.interop.timm.jitter import read_jitter
from lightning_solver.interop.timm.plateau import monitor_of, plateau_phases
from lightning_solver.interop.timm.ramp import read_ramp
from lightning_solver.interop.timm.run import Run, base_rates
from lightning_solver.interop.timm.source import Source
from lightning_solver.interop.timm.stairs import multistep_parts, step_parts
from lightning_solver.interop.timm.wsd import class_stable, stable_parts


def of_class(name: str, settings: Settings, facts: Facts) -> Phases:
    """The schedule of a class.

    Raises:
        SolverError: What timm refuses, or what has no counterpart.
    """
    settings.ignore("initialize")
    by_epoch, run = settings.flag("t_in_epochs", True), Run.of(facts)
    clock = Clock("ep" if by_epoch else "st", by_epoch, run=run.epochs if by_epoch else run.steps)
    source = Source(settings, clock, {}, CLASSES[name])
    ramp = read_ramp(source, None if "warmup_prefix" in CLASSES[name] else True)
    jitter = read_jitter(source)
    if name == "PlateauLRScheduler":
        return plateau_phases(source, monitor_of(facts), ramp, jitter)
    if name == "WSDLRScheduler":
        parts = stable_parts(class_stable(source), source, ramp, base_rates(facts))
    elif name in KINDS:
        parts = curve_parts(read_curve(source, KINDS[name]), source, ramp)
    else:
        settings.needed("decay_t")
        parts = (step_parts if name == "StepLRScheduler" else multistep_parts)(source, ramp)
    return parts.joined(clock, ramp, jitter)
