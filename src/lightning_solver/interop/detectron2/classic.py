"""The old classes of detectron2, which multiply their warm-up onto the curve."""

from __future__ import annotations

from bisect import bisect_right

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Settings, length, simple
from lightning_solver.interop.detectron2.arguments import from_the_start, numbers, whole_number
from lightning_solver.interop.detectron2.levels import not_negative, stairs
from lightning_solver.interop.detectron2.run import mirrored, say_length, until
from lightning_solver.schedules import Clip, Constant, Cosine, Linear, Over, Polynomial, Schedule, Warmup

OLD = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")
"""The old classes."""

_OLD_WARMUP = ("warmup_factor", "warmup_iters", "warmup_method", "last_epoch")

OLD_ARGUMENTS = {
    "WarmupMultiStepLR": ("optimizer", "milestones", "gamma", *_OLD_WARMUP),
    "WarmupCosineLR": ("optimizer", "max_iters", *_OLD_WARMUP),
    "WarmupPolyLR": ("optimizer", "max_iters", *_OLD_WARMUP, "power", "constant_ending"),
}
"""Their arguments in order."""


def read_class(name: str, settings: Settings, run: int | None) -> list[Schedule]:
    """A class that multiplies its warm-up, of ``factor * (1 - t / iters) + t / iters``, onto its curve.

    Raises:
        SolverError: Arguments that it refuses, or with which it fails before the end of the run.
    """
    settings.ignore("optimizer")
    from_the_start(settings, "last_epoch")
    factor = settings.number("warmup_factor", 0.001, low=0)
    iters = settings.number("warmup_iters", 1000)
    ramp: Schedule | None = None
    if iters > 0:
        method = settings.choice("warmup_method", ("linear", "constant"), "linear")
        ramp_class = Linear if method == "linear" else Constant
        ramp = ramp_class(float(factor), until=length(iters)) if factor != 1 else None
    settings.ignore("warmup_method")
    if name == "WarmupMultiStepLR":
        return _multi_step(settings, ramp, iters)
    total = whole_number(settings, "max_iters", None, 1)
    say_length(settings.notes, settings.path("max_iters"), total, run)
    if name == "WarmupCosineLR":
        curve = until([Cosine()], total, run)
        if run is not None and run > total:
            curve += mirrored(1.0, 0.0, total, total, run)
            settings.notes.say(settings.path("max_iters"), "the cosine rises again after its end, as the class has it")
        return [Warmup(ramp, tuple(curve) if len(curve) > 1 else curve[0], "multiply")] if ramp else curve
    return _polynomial(settings, ramp, iters, total, run)


def _multi_step(settings: Settings, ramp: Schedule | None, iters: float) -> list[Schedule]:
    settings.needed("milestones")
    points = numbers(settings, "milestones", ())
    gamma = settings.number("gamma", 0.1)
    if points != sorted(points):
        do = "sort the list"
        raise SolverError(settings.path("milestones"), "is not in increasing order", got=repr(points), do=do)
    start = gamma ** sum(point <= 0 for point in points)
    drops = {point: gamma ** bisect_right(points, point) for point in points if point > 0}
    where = settings.path("gamma")
    curve = stairs(start, [(length(point), value) for point, value in drops.items()], where)
    if ramp is None:
        return curve
    if all(point >= iters for point in drops):
        level = not_negative(float(getattr(ramp, "start", getattr(ramp, "value", 1.0))) * start, where)
        first = Constant(level) if isinstance(ramp, Constant) else Linear(level, not_negative(start, where))
        return [first.ending(ramp.until), *curve]
    what = "a drop comes before the warm-up ends: it lowers the warm-up, as the class multiplies the two"
    settings.notes.say(settings.path("milestones"), what)
    return [Warmup(ramp, simple(curve), "multiply")]


def _polynomial(settings: Settings, ramp: Schedule | None, iters: float, total: int, run: int | None) -> list[Schedule]:
    power = settings.number("power", 0.9, low=0)
    floor = settings.number("constant_ending", 0.0)
    if run is not None and run > total + 1:
        what = f"(1 - t / {total}) ** {power:g} has no value beyond step {total}"
        raise SolverError(settings.path("max_iters"), what, got=f"a run of {run}", do="make the run shorter")
    curve: Schedule = Polynomial(float(power)) if power else Constant()
    low: Schedule | None = None
    if floor > 0 and (power or floor > 1):
        # The class looks at the floor only once the warm-up is over.
        if ramp is None or (power and floor < 1 and total * (1 - floor ** (1 / power)) >= iters):
            curve = Clip(curve, min=float(floor)) if floor < 1 else Constant(float(floor))
        else:
            low = Constant(float(floor))
    if ramp is not None and low is not None:
        curve = Over(curve, end=total) if isinstance(curve, Polynomial) else curve
        return [Warmup(ramp, curve, "multiply", until=ramp.until), low]
    phases = until([curve], total, run)
    if run is not None and run > total:
        phases.append(HOLD)
    return [Warmup(ramp, simple(phases), "multiply")] if ramp else phases
