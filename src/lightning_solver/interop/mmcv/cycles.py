"""The policies that begin again: ``CosineRestart`` and ``Cyclic``."""

from __future__ import annotations

import math
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, length, simple
from lightning_solver.interop.mmcv.policy import Policy, is_number, note_rounding, product
from lightning_solver.schedules import Cosine, Cycle, Linear, Schedule
from lightning_solver.schedules.base import Level


def restart(policy: Policy) -> Phases:
    """Cosines one after another; each begins at its weight of the base value, plus what is left of the minimum."""
    data, end = policy.data, policy.floor()
    periods, weights = _numbers(policy, "periods", None), _numbers(policy, "restart_weights", [1])
    if len(periods) != len(weights) or not periods:
        do = "give one weight for each period"
        raise policy.error("restart_weights", "must be as long as periods", weights, do)
    pairs = [(exact(p), w) for p, w in zip(periods, weights) if p > 0]
    whole, total = sum((period for period, _ in pairs), Fraction(0)), policy.total
    if total is not None and whole < total:
        got = f"{periods}, together {float(whole):g} of {total}"
        do = "add periods up to the end of the run"
        raise SolverError(data.path("periods"), "end before the run, where MMCV stops with an error", got=got, do=do)
    least = end["absolute"] if isinstance(end, dict) else end
    assert isinstance(least, (int, float))
    if total is None:
        most = f"{float(whole):g} {'epochs' if policy.unit == 'ep' else 'iterations'}"
        policy.notes.say(data.path("periods"), f"are made for at most {most}; MMCV fails after that")
    if len(pairs) > 1 and len({p for p, _ in pairs}) == 1 and all(w == 1 for _, w in pairs):
        times = len(pairs) if total is None else None
        return policy.stairs(Cycle(Cosine(end=end), every=length(pairs[0][0], policy.unit), times=times))
    phases: list[Schedule] = []
    passed = Fraction(0)
    for period, weight in pairs:
        passed += period
        start: Level = float(weight)
        if weight != 1 and isinstance(end, dict):
            start = {"base": float(weight), "absolute": product(1 - exact(weight), least)}
        elif weight != 1:
            start = float(exact(weight) + (1 - exact(weight)) * exact(least))
        phases.append(Cosine(start, end, until=None if passed == whole == total else length(passed, policy.unit)))
    return policy.stairs(simple(phases if total is not None else [*phases, HOLD]))


def _numbers(policy: Policy, key: str, default: list[float] | None) -> list[float]:
    values = policy.data.needed(key) if default is None else policy.data.take(key, default)
    if not isinstance(values, (list, tuple)) or not all(is_number(value) and value >= 0 for value in values):
        raise policy.error(key, "must be a list of numbers >= 0", values)
    return list(values)


def cyclic(policy: Policy) -> Phases:
    """From 1 to the first ratio and on to the second, once in each of ``cyclic_times`` parts of the run."""
    data = policy.data
    top, end = _target_ratio(policy)
    times = data.number("cyclic_times", 1)
    up_share = data.number("step_ratio_up", 0.4, low=0)
    gamma = float(data.number("gamma", 1.0))
    shape = {"cos": Cosine, "linear": Linear}[data.choice("anneal_strategy", ("cos", "linear"), "cos")]
    if times < 1 or times != int(times):
        raise policy.error("cyclic_times", "must be a whole number >= 1", times)
    if up_share >= 1:
        raise policy.error("step_ratio_up", "must be below 1", up_share)
    if gamma < 0 or (policy.option == "lr" and not 0 < gamma <= 1):
        raise policy.error("gamma", "must be above 0 and at most 1", gamma)
    times, peak_at, total, cycle = int(times), exact(up_share), policy.total, None
    even = neat = True  # whether the cycles fill the run, and whether their peaks lie where step_ratio_up says
    if total is None and not policy.run.whole_share(Fraction(1, times), "st"):
        total = int(policy.facts.need("total_iters", data.path("cyclic_times"), "divides the number of iterations"))
    if total is not None:
        cycle, left = divmod(total, times)
        if cycle == 0:
            raise policy.error("cyclic_times", f"is more than the run's {total} iterations", times)
        up = int(up_share * cycle)
        even, neat, peak_at = left == 0, peak_at * cycle == up, Fraction(up, cycle)
        if left:
            what = f"does not divide {total} iterations: those left over begin another cycle"
            policy.notes.say(data.path("cyclic_times"), what)
    elif peak_at:
        note_rounding(policy, "step_ratio_up")

    def phases(scale: float, peak: int | str | None, stop: int | str | None) -> list[Schedule]:
        ratio = 1.0 - scale + top * scale
        if min(ratio, 1.0 - scale + end * scale) < 0:
            raise policy.error("gamma", "makes the value negative in a later cycle", gamma)
        if peak_at == 0:  # what MMCV makes of a cycle that does not rise
            return [shape(start=top, end=1.0 - scale + end * scale, until=stop)]
        return [shape(end=ratio, until=peak), shape(start=ratio, end=end, until=stop)]

    if gamma == 1 and times > 1:
        peak = length(peak_at * 100, "%") if neat or cycle is None else length(peak_at * cycle)
        whole = even and not policy.run.last_is_short
        every = length(Fraction(100, times), "%") if whole else length(cycle)
        return Cycle(simple(phases(1.0, peak, None)), every=every)

    def point(place: Fraction) -> int | str | None:
        """The point of the run after so many cycles."""
        if even and place == times:
            return None
        if cycle is None or (even and (neat or place.denominator == 1)):
            return policy.until(place / times)
        return length(place * cycle)

    count = times if total is None or cycle is None else math.ceil(total / cycle)
    cycles = [phases(gamma**i, point(i + peak_at), point(Fraction(i + 1))) for i in range(count)]
    return simple([phase for both in cycles for phase in both])


def _target_ratio(policy: Policy) -> tuple[float, float]:
    ratio = policy.data.take("target_ratio", (10, 1e-4) if policy.option == "lr" else (0.85 / 0.95, 1.0))
    values = [ratio] if isinstance(ratio, float) else ratio
    if isinstance(ratio, list):
        policy.notes.say(policy.data.path("target_ratio"), "is read as a tuple; MMCV takes no list")
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 2) or not all(map(is_number, values)):
        what = "must be a float, or a tuple of one or two numbers"
        raise policy.error("target_ratio", what, ratio, "write 10.0, or (10, 1e-4)")
    if min(values) < 0:
        raise policy.error("target_ratio", "must not be negative", ratio)
    return float(values[0]), float(values[1] if len(values) == 2 else values[0] / 1e5)
