"""The warm-up that MMCV puts in front of any policy."""

from __future__ import annotations

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Phases, length
from lightning_solver.interop.mmcv.policy import Policy
from lightning_solver.schedules import Constant, Exponential, Inverse, Linear, Schedule, Warmup


def with_warmup(curve: Phases, policy: Policy) -> Phases:
    """The curve multiplied by the warm-up; the momentum is divided by it."""
    data, inverse = policy.data, policy.option == "momentum"
    kind, count = data.take("warmup"), data.number("warmup_iters", 0)
    ratio = data.number("warmup_ratio", 0.9 if inverse else 0.1)
    by_epoch = not inverse and data.flag("warmup_by_epoch", False)
    if by_epoch and not policy.run.by_epochs:
        what = "an IterBasedRunner does not know how long an epoch is"
        raise SolverError(data.path("warmup_by_epoch"), what, got="True", do="give warmup_iters in iterations")
    if count != int(count) or not (inverse or isinstance(count, int)):
        raise policy.error("warmup_iters", "must be a whole number", count)
    if kind is None:
        for key in ("warmup_iters", "warmup_ratio"):
            if key in data:
                policy.notes.say(data.path(key), "does nothing, as there is no warmup")
        return curve
    kind = data.choice("warmup", ("constant", "linear", "exp"))
    if count <= 0:
        raise policy.error("warmup_iters", "must be > 0, as there is a warmup", count, "give it, or leave warmup out")
    if not 0 < ratio <= 1:
        raise policy.error("warmup_ratio", "must be above 0 and at most 1", ratio)
    if ratio == 1:
        policy.notes.say(data.path("warmup_ratio"), "a warm-up by the factor 1 is left out")
        return curve
    until = length(count, "ep" if by_epoch else "st")
    ramp: Schedule
    if inverse:
        what = f"MMCV divides the momentum by its warm-up: it begins at 1/{ratio:g} of its value"
        policy.notes.say(data.path("warmup"), what)
    start = float(1 / exact(ratio) if inverse else ratio)
    if kind == "constant":
        ramp = Constant(start, until=until)
    elif kind == "exp":
        ramp = Exponential(start=start, end=1.0, until=until)
    elif inverse:  # 1 / (r + (1 - r) t / W)
        ramp = Inverse(every=length(exact(count) * exact(ratio) / (1 - exact(ratio))), start=start, until=until)
    else:
        ramp = Linear(start=start, until=until)
    return Warmup(ramp=ramp, of=curve, meets="multiply")
