"""The kind ``OneCycle``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.interop.base import absolute, simple
from lightning_solver.interop.mmengine.move import Move
from lightning_solver.interop.mmengine.point import END, START, Point
from lightning_solver.interop.mmengine.reader import Reader, as_number
from lightning_solver.schedules import Constant, Cosine, Linear, Over, PerGroup, Schedule, Shift


def one_cycle(reader: Reader) -> Move:
    """``OneCycle``: up to ``eta_max`` and down to far below the first value, all of them absolute."""
    cycle = OneCycle.read(reader)
    run, begin, tick = reader.run, reader.begin, reader.tick
    if run.sign(begin - END) in (0, 1):
        return reader.held()
    if not any(cycle.highest):
        reader.data.notes.say(reader.data.where, "eta_max is 0, which is its default: the learning rate is 0")
    stop, size = begin + cycle.size, cycle.long
    done = not reader.idle and reader.compared(stop, reader.visible, "total_steps") < 0
    beyond = done and run.ticks(reader.visible, "st" if run.ticks(stop, "ep") is None else "ep") is not None
    if beyond and run.sign(reader.visible - stop - tick) == 1:
        what = "the scheduler goes on beyond it, and MMEngine stops with an error"
        raise reader.error("total_steps", what, reader.data.take("total_steps"), "give an end, or more steps")
    last = (stop if reader.compared(stop, reader.end, "total_steps") < 0 else reader.end) - tick
    groups = range(len(cycle.highest))
    if reader.once or size == 1:
        last = begin
        every: list[list[Schedule]] = [[Constant(absolute(cycle.value(0, group)))] for group in groups]
    else:
        every = [cycle.phases(group, last) for group in groups]
    for group, own in enumerate(every) if beyond else ():
        value = cycle.value(float(size), group)
        if value < 0:
            raise reader.error("total_steps", "the step after it makes the learning rate negative", value)
        own[-1] = own[-1].ending(run.text(last if own[-1].until else stop))
        own += [Constant("previous", until=run.text(stop))] if size > 1 else []
        own.append(Constant(absolute(value)))
    phases = every[0]
    if any(own != phases for own in every):
        parts = [simple([*own[:-1], own[-1].ending(None)]) for own in every]
        phases = [PerGroup(tuple(parts), until=every[0][-1].until)]
    return reader.move(lambda _: phases, stop if beyond else last, sets=True, jumps=True, pure=False)


@dataclass(frozen=True)
class OneCycle:
    """The settings of a ``OneCycleLR``; ``knots`` are its start, its highest and its lowest value."""

    reader: Reader
    highest: tuple[float, ...]
    divide: float
    divide_last: float
    share: Fraction
    cosine: bool
    three: bool
    size: Point

    @classmethod
    def read(cls, reader: Reader) -> OneCycle:
        """The settings of a scheduler; an error for what MMEngine refuses."""
        data = reader.data
        highest = data.take("eta_max", 0.0)
        many = list(highest) if isinstance(highest, (list, tuple)) else [highest]
        groups = reader.facts.get("base_lr")
        if isinstance(highest, (list, tuple)) and isinstance(groups, (list, tuple)) and len(groups) != len(many):
            raise reader.error("eta_max", f"has not one value for each of {len(groups)} groups", highest)
        values = tuple(float(as_number(value, data.path("eta_max"))) for value in many)
        if not values or min(values) < 0:
            raise reader.error("eta_max", "must be a number >= 0, or a list of one for each group", highest)
        divide, divide_last = (float(data.number(k, v)) for k, v in (("div_factor", 25.0), ("final_div_factor", 1e4)))
        for key, value in (("div_factor", divide), ("final_div_factor", divide_last)):
            if value <= 0:
                raise reader.error(key, "must be > 0", value)
        share = data.take("pct_start", 0.3)
        if not isinstance(share, float) or not 0 <= share <= 1:
            raise reader.error("pct_start", "must be a float from 0.0 to 1.0", share)
        cosine = data.choice("anneal_strategy", ("cos", "linear"), "cos") == "cos"
        three = data.flag("three_phase", False)
        steps = data.take("total_steps")
        if steps is None:
            size = reader.end - reader.begin
        elif isinstance(steps, bool) or not isinstance(steps, int) or steps <= 0:
            raise reader.error("total_steps", "must be a whole number > 0", steps)
        else:
            size = reader.one * steps
        cycle = cls(reader, values, divide, divide_last, exact(share), cosine, three, size)
        begins = reader.begin == START if reader.idle else reader.run.sign(reader.begin - END) == -1
        if cycle.share * cycle.long == 1 and begins:
            raise reader.error("pct_start", "leaves the rise no step, and MMEngine stops with an error", share)
        return cycle

    @property
    def long(self) -> Fraction:
        """The number of steps; a large one where it is not known."""
        return self.reader.count(self.size) or Fraction(10**9)

    def knots(self, group: int) -> tuple[float, float, float]:
        """The start, the highest and the lowest value of a group."""
        high = self.highest[group]
        return (high / self.divide, high, high / self.divide / self.divide_last)

    def ends(self) -> list[tuple[Fraction, int, int]]:
        """Where each stretch ends: at this share of all steps less so many, and the index of its value."""
        rise = [(self.share, 1, 1), (2 * self.share, 2, 0)] if self.three else [(self.share, 1, 1)]
        return [*rise, (Fraction(1), 1, 2)]

    def value(self, n: float, group: int) -> float:
        """The value of a group at step ``n``, from 0 to the number of steps."""
        begin, at, size, knots = 0.0, 0, float(self.long), self.knots(group)
        ends = [(float(share) * size - less, to) for share, less, to in self.ends()]
        for stop, to in ends:
            if n <= stop or stop == ends[-1][0]:
                part = (n - begin) / (stop - begin)
                a, b = knots[at], knots[to]
                return b + (a - b) / 2 * (math.cos(math.pi * part) + 1) if self.cosine else a + (b - a) * part
            begin, at = stop, to
        raise AssertionError("the last stretch takes all")

    def phases(self, group: int, last: Point) -> list[Schedule]:
        """The phases of one group; the last ends at ``last``."""
        reader, knots, size = self.reader, self.knots(group), self.long
        text, ends = reader.run.text, self.ends()
        if not any(knots):
            return [Constant(0.0, until=reader.until(last))]
        at, earlier = 0, START
        while ends[0][0] * size - ends[0][1] < 0:  # a stretch that is over before the first step
            earlier = reader.tick * ends[0][1] - self.size * ends[0][0]
            at = ends[0][2]
            ends = ends[1:]
        phases: list[Schedule] = []
        for share, less, to in ends:
            point = reader.begin + self.size * share - reader.tick * less + earlier
            levels = {"start": absolute(knots[at]), "end": absolute(knots[to])}
            shape: Schedule = Cosine(**levels) if self.cosine else Linear(**levels)  # type: ignore[arg-type]
            at = to
            final = reader.run.sign(point - earlier - last) in (0, 1)
            whole = earlier != START and reader.endless and reader.run.sign(point - END) == 0
            if not final:
                phases.append(shape.ending(text(point)))
            elif whole:  # the shift makes it end with the last step
                phases.append(shape)
            elif earlier != START or reader.run.sign(point - last) == 1:
                phases.append(Over(shape, end=text(point)))
            else:
                phases.append(shape)
            if final:
                break
        until = text(last)
        if earlier == START:
            return [*phases[:-1], phases[-1].ending(until)]
        return [Shift(simple(phases), earlier=text(earlier), until=reader.until(last))]
