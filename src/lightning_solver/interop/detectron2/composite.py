"""fvcore's schedulers of schedulers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.interop.base import simple
from lightning_solver.interop.detectron2.curves import ConstantParam, LinearParam
from lightning_solver.interop.detectron2.scheduler import EARLY, ParamScheduler
from lightning_solver.interop.detectron2.view import View
from lightning_solver.schedules import Linear, Schedule, Warmup


@dataclass(frozen=True)
class CompositeParam(ParamScheduler):
    """Schedulers one after another, each over a share of training."""

    parts: tuple[ParamScheduler, ...]
    lengths: tuple[float, ...]
    rescaled: tuple[bool, ...]

    def _totals(self) -> list[float]:
        """Where each part ends, added up as fvcore does."""
        totals = [self.lengths[0]]
        for part in self.lengths[1:]:
            totals.append(totals[-1] + part)
        return totals

    def _own(self, i: int, share: float) -> float:
        """The share that part ``i`` is given."""
        if not self.rescaled[i]:
            return share
        if self.lengths[i] == 0:
            raise self.fails(f"part {i} has no length, by which fvcore divides")
        return (share - (self._totals()[i] - self.lengths[i])) / self.lengths[i]

    def value(self, share: float) -> float:
        ends = self._totals()[:-1]
        i = next((i for i, end in enumerate(ends) if not share + EARLY > end), len(ends))
        return self.parts[i].value(self._own(i, share))

    def phases(self, view: View) -> list[Schedule]:
        views = [(i, seen) for i, seen in enumerate(self._seen(view)) if not view.measure.same(seen.first, seen.last)]
        found: list[Schedule] = []
        for i, seen in views:
            if seen.end <= seen.begin:  # or as good as none, but for rounding
                raise self.fails(f"part {i} has no length, by which fvcore divides")
        for (i, seen), (_, after) in itertools.pairwise(views):
            part = self.parts[i].phases(dataclasses.replace(seen, last=after.first))
            found += [*part[:-1], part[-1].ending(view.measure.text(after.first))]
        i, seen = views[-1]
        return found + self.parts[i].phases(dataclasses.replace(seen, last=view.last))

    def _seen(self, view: View) -> list[View]:
        """What is seen of each part."""
        views: list[View] = []
        first, begin, reached = view.first, Fraction(0), -math.inf
        for i, total in enumerate(self._totals()):
            final = i == len(self.parts) - 1
            end = Fraction(1) if final else view.measure.share(total)
            reached = max(reached, total)
            last = view.last if final else max(first, view.when(end, functools.partial(_passed, reached)))
            own = (view.point(begin), view.point(end)) if self.rescaled[i] else (view.begin, view.end)
            views.append(View(*own, first, last, functools.partial(self._at, i, view), view.measure))
            first, begin = last, end
        return views

    def _at(self, i: int, view: View, step: int) -> float:
        return self._own(i, view.at(step))

    def beyond(self, view: View, run: int) -> list[Schedule]:
        return self.parts[-1].beyond(self._seen(view)[-1], run)


def _passed(total: float, share: float) -> bool:
    return share + EARLY > total


@dataclass(frozen=True)
class WarmupParam(CompositeParam):
    """A warm-up to the value that its scheduler will have reached, or from where it starts if that is rescaled."""

    @classmethod
    def around(
        cls, scheduler: ParamScheduler, factor: float, share: float, method: str, rescale: bool, where: str
    ) -> WarmupParam:
        """detectron2's ``WarmupParamScheduler``."""
        first = scheduler.value(0.0)
        end = first if rescale else scheduler.value(share)
        start = float(exact(factor) * exact(first))
        ramp = ConstantParam(where, start) if method == "constant" else LinearParam(where, start, end)
        return cls(where, (ramp, scheduler), (share, 1 - share), (True, rescale))

    def phases(self, view: View) -> list[Schedule]:
        ramp, after = self._seen(view)
        if self.rescaled[1] or view.first != view.begin or not ramp.first < ramp.last < view.last:
            return super().phases(view)
        curve = self.parts[1].phases(dataclasses.replace(view, at=after.at))
        rest = self.parts[1].phases(after)
        (warm,) = self.parts[0].phases(ramp)
        warm = warm.ending(view.measure.text(ramp.last))
        if curve == rest:  # still flat where the warm-up ends
            return [warm, *rest]
        total = view.measure.total
        whole = total is not None and (ramp.end * total).denominator == 1 and ramp.end == ramp.last
        if isinstance(warm, Linear) and whole:
            warm = Linear(warm.start, until=warm.until)
        meets = "interpolate" if whole and isinstance(warm, Linear) else "beneath"
        return [Warmup(warm, simple(curve), meets)]  # type: ignore[arg-type]
