"""``OneCycleLR``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, absolute
from lightning_solver.interop.torch.arguments import Args, Leaf
from lightning_solver.interop.torch.rates import At, Phase, Rate, Ticks, constant, cut, short
from lightning_solver.schedules import Constant, Cosine, Linear, Shift


def one_cycle_lr(args: Args) -> Leaf:
    """``OneCycleLR``."""
    total = _cycle_steps(args)
    share = args.take("pct_start", 0.3)
    if not isinstance(share, float) or not 0 <= share <= 1:
        what = "must be a float between 0 and 1 (torch takes no int)"
        raise SolverError(args.path("pct_start"), what, got=repr(share), do="write 0.3")
    shape = SHAPES[args.settings.choice("anneal_strategy", SHAPES, "cos")]
    three = bool(args.take("three_phase", False))
    top, div, last_div = args.rate("max_lr"), args.number("div_factor", 25.0), args.number("final_div_factor", 1e4)
    for key, value in (("div_factor", div), ("final_div_factor", last_div)):
        if value <= 0:
            raise SolverError(args.path(key), "must be > 0", got=repr(value), do="correct it")
    low = short(top / div)
    least = short(low / last_div)
    peak = exact(share) * total - 1
    if peak == 0:
        what = "makes the first phase 0 steps long, by which torch divides"
        raise SolverError(args.path("pct_start"), what, got=f"{share} of {total}", do="correct it")
    ends = [peak, 2 * peak, Fraction(total - 1)] if three else [peak, Fraction(total - 1)]
    rates = [low, top, low, least] if three else [low, top, least]
    texts = [f"{_percent(share)}-1", f"{_percent(2 * exact(share))}-2"] if three else [f"{_percent(share)}-1"]
    curve = _Anneal(shape, ends, [*texts, "100%-1"], total)
    cycles, rest, crest = momenta(args, 0.85, 0.95)

    after = curve.value(rates, total)
    args.share("rates", (low, top, least))
    if cycles:
        args.share("momentum", (rest, crest))

    def phases(at: At) -> list[Phase]:
        if after < 0 and at.end is not None and at.end > at.begin + total:
            what = "is below the run, whose last rate torch makes negative"
            raise SolverError(args.path("total_steps"), what, got=str(total), do="give it the length of the run")
        return curve.phases(rates, at.ticks, at.begin)

    def momentum(ticks: Ticks, begin: Fraction) -> list[Phase]:
        return curve.phases([crest, rest, crest, crest] if three else [crest, rest, crest], ticks, begin)

    return Leaf(
        args.name,
        args.where,
        phases,
        closed_from=0,
        first=Rate(fixed=curve.value(rates, 0)),
        initial=Rate(fixed=low),
        momentum=momentum if cycles else None,
        first_momentum=curve.value([crest, rest, crest, crest] if three else [crest, rest, crest], 0),
        horizon=Fraction(total),
        horizon_name="total_steps",
        limit=total - (1 if math.isnan(after) else 0),
    )


def _cycle_steps(args: Args) -> int:
    if args.take("total_steps") is not None:
        args.settings.ignore("epochs", "steps_per_epoch")
        return args.integer("total_steps", low=1)
    if args.take("epochs") is None or args.take("steps_per_epoch") is None:
        do = "give total_steps, or epochs and steps_per_epoch"
        raise SolverError(args.path("total_steps"), "is missing", got=f"keys {', '.join(args._raw)}", do=do)
    return args.integer("epochs", low=1) * args.integer("steps_per_epoch", low=1)


def _percent(share: float | Fraction) -> str:
    return str(Duration(((exact(share) * 100, "%"),)))


SHAPES: dict[str, type[Cosine] | type[Linear]] = {"cos": Cosine, "linear": Linear}


@dataclass(frozen=True)
class _Anneal:
    """The phases of a OneCycleLR: from one value to the next, each by the same shape.

    A step belongs to the first phase whose end is not before it, and to the last phase otherwise; a phase begins where
    the one before it ends, which may be before the first step.
    """

    shape: type[Cosine] | type[Linear]
    ends: Sequence[Fraction]
    texts: Sequence[str]
    total: int

    def value(self, values: Sequence[float], k: int) -> float:
        """The value after ``k`` calls, also past the end; nan where torch divides by 0."""
        i = next((i for i, end in enumerate(self.ends) if k <= end), len(self.ends) - 1)
        begin = self.ends[i - 1] if i else Fraction(0)
        if self.ends[i] == begin:
            return math.nan
        x = float((k - begin) / (self.ends[i] - begin))
        a, b = values[i], values[i + 1]
        return short((b - a) * x + a if self.shape is Linear else b + (a - b) / 2.0 * (math.cos(math.pi * x) + 1.0))

    def phases(self, values: Sequence[float], ticks: Ticks, begin: Fraction) -> list[Phase]:
        """The phases for the values between which they lead, from a call of ``step()`` on."""
        over, written = begin + self.total, list[Phase]()
        relative = begin == 0 and ticks.every == 1 and ticks.total == self.total
        for i, end in enumerate(self.ends):
            start = self.ends[i - 1] if i else Fraction(0)
            a, b = absolute(values[i]), absolute(values[i + 1])
            if end < 0:
                continue
            if start < 0:  # the phase begins before the first step
                line, last = self.shape(a, b), begin + end - start
                of: Phases = line
                if last != over:
                    of = (line.ending(ticks.text(last)), Constant(b))
                written.append(Phase(Shift(of, earlier=ticks.text(-start)), over, shaped=last == over))
                break
            final = end >= self.total - 1
            if a == b:
                written.append(Phase(Constant(a), over if final else begin + end, stairs=True))
            else:
                text = f"{self.texts[i]}{ticks.unit}" if relative and end <= self.total else None
                written.append(Phase(self.shape(a, b), begin + end, shaped=True, text=text))
            if final:
                break
        if written[-1].end == begin + self.total - 1:
            written.append(Phase(HOLD, over, stairs=True))
        after = self.value(values, self.total)
        return [*cut(written, over, ticks), constant(Rate(fixed=after if after > 0 else 0.0))]


def momenta(args: Args, base: float, top: float) -> tuple[bool, float, float]:
    """Whether the momentum is cycled, and between which values."""
    cycles = bool(args.take("cycle_momentum", True))
    rest, crest = args.rate("base_momentum", base), args.rate("max_momentum", top)
    optimizer = args.given.class_of_optimizer()
    if cycles and optimizer in _WITHOUT_MOMENTUM:
        do = "set cycle_momentum=False"
        raise SolverError(args.path("cycle_momentum"), "the optimiser has no momentum", got=str(optimizer), do=do)
    return cycles, rest, crest


_WITHOUT_MOMENTUM = ("Adadelta", "Adafactor", "Adagrad", "ASGD", "LBFGS", "Rprop")
