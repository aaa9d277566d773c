"""The policy ``OneCycle``, for the learning rate and for the momentum."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import suggestion
from lightning_solver.interop.base import HOLD, Phases, absolute, length, simple
from lightning_solver.interop.mmcv.policy import Policy, is_number, product
from lightning_solver.schedules import Constant, Cosine, Linear, PerGroup, Schedule, Shift


def one_cycle_lr(policy: Policy) -> Phases:
    """Up to ``max_lr`` and down to far below the first value, all of them absolute."""
    data = policy.data
    total = data.take("total_steps")
    if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 1):
        raise policy.error("total_steps", "must be a whole number >= 1", total)
    if total is not None and policy.total is not None and total < policy.total:
        do = f"give at least {policy.total}, or leave it out"
        raise policy.error("total_steps", f"is less than the run's {policy.total} iterations", total, do)
    divisor, last = (data.number(key, default) for key, default in (("div_factor", 25), ("final_div_factor", 1e4)))
    if min(divisor, last) <= 0:
        raise policy.error("div_factor", "factors must be > 0", (divisor, last))
    data.needed("max_lr")
    peaks = _of_groups(policy, "max_lr", (int, float))
    policy.notes.say(data.path("max_lr"), "sets the learning rate of every group, whatever the optimiser's own is")
    first, least = 1 / exact(divisor), 1 / exact(divisor) / exact(last)
    return _one_cycle(policy, [(product(peak, first), peak, product(peak, least)) for peak in peaks], total)


def one_cycle_momentum(policy: Policy) -> Phases:
    """Down to ``base_momentum`` and back to ``max_momentum``."""
    lows = _of_groups(policy, "base_momentum", (float,), 0.85)
    highs = _of_groups(policy, "max_momentum", (float,), 0.95)
    count = max(len(lows), len(highs))
    lows, highs = (values * count if len(values) == 1 else values for values in (lows, highs))
    if len(lows) != len(highs):
        got = (len(lows), len(highs))
        raise policy.error("base_momentum", "must have as many values as max_momentum", got)
    return _one_cycle(policy, [(high, low, high) for low, high in zip(lows, highs)], None)


def _of_groups(policy: Policy, key: str, numbers: tuple[type, ...], default: float | None = None) -> list[float]:
    """One value for all groups, or a list with one for each; a mapping has such lists by the optimiser's name."""
    value = policy.data.take(key, default)
    if isinstance(value, Mapping):
        why = "has values by the optimiser's class"
        name = policy.run.optimizer or policy.facts.need("optimizer", policy.data.path(key), why)
        if name not in value:
            raise policy.error(key, f"has no values for {name}", dict(value), suggestion(str(name), value))
        value = value[name]
        numbers = ()
    many = isinstance(value, list)
    good = value and all(map(is_number, value)) if many else is_number(value) and isinstance(value, numbers)
    if not good:
        raise policy.error(key, "must be a number, or a list of one for each group", value)
    groups = policy.facts.get("base_lr")
    if many and isinstance(groups, (list, tuple)) and len(groups) != len(value):
        raise policy.error(key, f"has not one value for each of {len(groups)} groups", value)
    values = [float(item) for item in (value if many else [value])]
    if min(values) < 0:
        raise policy.error(key, "must not be negative", value)
    return values


def _one_cycle(policy: Policy, values: list[tuple[float, float, float]], steps: int | None) -> Phases:
    """From the first value to the second and on to the third; with three phases back to the first in between."""
    data = policy.data
    share = data.take("pct_start", 0.3)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise policy.error("pct_start", "must be a float from 0.0 to 1.0", share)
    part = exact(share)
    shape = {"cos": Cosine, "linear": Linear}[data.choice("anneal_strategy", ("cos", "linear"), "cos")]
    three = data.flag("three_phase", False)
    total = policy.total if steps is None else steps
    explicit = steps is not None and steps != policy.total
    size = total or 10**9  # a long run, where its length does not matter
    # Where each phase ends: this share of all iterations less so many, and the index of its value.
    ends = [(part, 1, 1), (2 * part, 2, 0), (Fraction(1), 1, 2)] if three else [(part, 1, 1), (Fraction(1), 1, 2)]
    begin, at = (Fraction(0), Fraction(0)), 0
    if part * size == 1:
        raise policy.error("pct_start", "leaves the first phase no iteration, and MMCV stops with an error", share)
    while ends[0][0] * size - ends[0][1] < 0:  # a phase that is over before the run
        begin, at = (ends[0][0], Fraction(ends[0][1])), ends[0][2]
        ends = ends[1:]
    explicit = explicit or begin[0] > 0
    used = [i for i, (f, minus, _) in enumerate(ends) if f * size - minus >= size - 1]
    ends = ends[: used[0] + 1]

    def until(f: Fraction, minus: Fraction) -> int | str | None:
        point = f * size - minus
        if point == size and steps is None:
            return None
        return length(point) if explicit else policy.until(f, minus)

    def phases(knots: tuple[float, float, float]) -> list[Schedule]:
        result: list[Schedule] = []
        start = at
        for f, minus, end in ends:
            if f == 1 and knots[start] == knots[end]:
                return [*result, Constant(absolute(knots[end]))]
            point = until(f - begin[0], minus - begin[1])
            result.append(shape(start=absolute(knots[start]), end=absolute(knots[end]), until=point))
            start = end
        return result if result[-1].until is None else [*result, HOLD]

    groups = [simple(phases(knots)) for knots in values]
    curve: Phases = groups[0] if all(group == groups[0] for group in groups) else PerGroup(groups)
    earlier = begin[1] - begin[0] * size
    return Shift(curve, earlier=length(earlier)) if earlier > 0 else curve
