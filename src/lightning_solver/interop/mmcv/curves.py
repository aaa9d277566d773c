"""The policies that fall once over the run."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.interop.base import Phases, absolute, drops, length
from lightning_solver.interop.mmcv.policy import Policy, note_rounding, product
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Exponential,
    Inverse,
    Linear,
    Over,
    Polynomial,
    Schedule,
    Step,
)
from lightning_solver.schedules.base import Level


def step(policy: Policy) -> Phases:
    """``gamma`` to the number of steps done, not below ``min_lr``."""
    data, unit, step = policy.data, policy.unit, policy.data.needed("step")
    gamma = float(data.number("gamma", 0.1 if policy.option == "lr" else 0.5, low=0))
    least = data.number(f"min_{policy.option}", low=0)
    for s in step if isinstance(step, list) else [step]:
        if isinstance(s, bool) or not isinstance(s, int) or s < 1:
            raise policy.error("step", "must be a whole number >= 1, or a list of them", step)
    curve: Phases
    if isinstance(step, list):
        reached = [max(step[: i + 1]) for i in range(len(step))]
        if reached != step:
            policy.notes.say(data.path("step"), "is not sorted: MMCV takes a step once all before it are passed, too")
        curve = drops(reached, gamma, unit)
    elif gamma > 0:
        curve = Step(every=length(step, unit), gamma=gamma)
    else:
        curve = drops([step], gamma, unit)
    if not least:
        return curve
    what = "is the same for all groups, and raises those that begin below it"
    policy.notes.say(data.path(f"min_{policy.option}"), what)
    return Clip(curve, min=absolute(least))


def exp(policy: Policy) -> Phases:
    """``gamma ** t``."""
    gamma = float(_required(policy, "gamma", low=0))
    if gamma == 0:
        return drops([1], 0.0, policy.unit)
    return Step(every="1ep", gamma=gamma) if policy.unit == "ep" else Exponential(gamma=gamma, every=1)


def poly(policy: Policy) -> Phases:
    """``(1 - t / T) ** power`` of the way down to ``min_lr``."""
    power = float(policy.data.number("power", 1.0, low=0))
    end = absolute(policy.data.number("min_lr", 0.0, low=0))
    if power == 0:
        return Constant()
    return policy.stairs(Linear(end=end) if power == 1 else Polynomial(power=power, end=end))


def inv(policy: Policy) -> Phases:
    """``(1 + gamma t) ** -power``."""
    gamma, power = _required(policy, "gamma", low=0), float(policy.data.number("power", 1.0, low=0))
    if gamma == 0 or power == 0:
        return Constant()
    return policy.stairs(Inverse(every=length(1 / exact(gamma), policy.unit), power=power))


def _required(policy: Policy, key: str, low: float) -> Any:
    policy.data.needed(key)
    return policy.data.number(key, low=low)


def cosine(policy: Policy) -> Phases:
    """Half a cosine over the run."""
    return policy.stairs(Cosine(end=policy.floor()))


def linear(policy: Policy) -> Phases:
    """A straight line over the run."""
    return policy.stairs(Linear(end=policy.floor()))


def cooldown(policy: Policy) -> Phases:
    """MMClassification's: the cosine is done ``cool_down_time`` early; from the one after that on it is lower still."""
    end, time = policy.floor(), exact(policy.data.number("cool_down_time", 10))
    ratio = float(policy.data.number("cool_down_ratio", 0.1, low=0))
    low = _times(end, ratio)
    total = policy.total
    if total is not None and time == total:
        do = "make it shorter than the run"
        raise policy.error("cool_down_time", "leaves no time for the cosine", float(time), do)
    if total is not None and time > total:
        return Constant(low)
    if time <= 0:
        curve: Schedule = Cosine(end=end)
        return policy.stairs(Over(curve, end=policy.until(Fraction(1), time)) if time else curve)
    phases: list[Schedule] = [Cosine(end=end, until=policy.until(Fraction(1), time))]
    if time.denominator == 1:
        phases.append(Constant("previous", until=policy.until(Fraction(1), time - 1) if time > 1 else None))
    if time != 1:
        phases.append(Constant(low))
    return policy.stairs(phases)


def _times(level: Level, factor: float) -> Level:
    assert not isinstance(level, str)
    if isinstance(level, dict):
        return {kind: product(value, factor) for kind, value in level.items()}
    return product(level, factor)


def flat_cosine(policy: Policy) -> Phases:
    """The base value for a share of the run, then half a cosine."""
    share = policy.data.take("start_percent", 0.75)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise policy.error("start_percent", "must be a float from 0.0 to 1.0", share)
    part, cosine, until = exact(share), Cosine(end=policy.floor()), None
    if policy.run.whole_share(part, policy.unit):
        until = policy.until(part) if 0 < part < 1 else None
    elif policy.total is None and (policy.unit == "st" or not policy.run.by_epochs):
        note_rounding(policy, "start_percent")
        until = policy.until(part)
    else:
        path = policy.data.path("start_percent")
        total = policy.total or int(policy.facts.need("epochs", path, "is rounded to whole epochs"))
        start = round(total * share)
        part, until = Fraction(start, total), length(start, policy.unit)
        policy.notes.say(path, f"MMCV rounds it: the cosine begins after {start} of {total}")
    if part == 1:
        return Constant()
    return policy.stairs(cosine if part == 0 else (Constant(until=until), cosine))
