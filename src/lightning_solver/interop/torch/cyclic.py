"""``CyclicLR``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import absolute
from lightning_solver.interop.torch.arguments import Args, Leaf
from lightning_solver.interop.torch.one_cycle import momenta
from lightning_solver.interop.torch.rates import At, Phase, Rate, Ticks, constant, short
from lightning_solver.schedules import (
    Constant,
    Cycle,
    Exponential,
    Function,
    Linear,
    Over,
    Product,
    Schedule,
    Shift,
    Step,
    Sum,
)


def cyclic_lr(args: Args) -> Leaf:
    """``CyclicLR``."""
    low, top = args.rate("base_lr"), args.rate("max_lr")
    up = exact(args.number("step_size_up", 2000, low=0))
    down = up if args.take("step_size_down") is None else exact(args.number("step_size_down", low=0))
    if up == 0:
        raise SolverError(args.path("step_size_up"), "is 0, by which torch divides", got="0", do="correct it")
    wave = _Wave(up, down, *_scaling(args))
    cycles, rest, crest = momenta(args, 0.8, 0.9)
    if cycles and "momentum" in args.shared:
        args.share("momentum", (rest, crest))

    def phases(at: At) -> list[Phase]:
        return [wave.phase(low, top, at.ticks)]

    def momentum(ticks: Ticks, begin: Fraction) -> list[Phase]:
        return [wave.phase(crest, rest, ticks)]

    return Leaf(
        args.name,
        args.where,
        phases,
        closed_from=0,
        first=Rate(fixed=low),
        initial=Rate(fixed=low),
        claims=True,
        momentum=momentum if cycles else None,
        first_momentum=crest,
    )


def _scaling(args: Args) -> tuple[str, float, Any]:
    """How the height of a CyclicLR changes: what is counted, a constant factor, or a function."""
    modes = ("triangular", "triangular2", "exp_range")
    gamma = args.number("gamma", 1.0, low=0)
    if args._raw.get("scale_fn") is not None:
        scale = args.settings.choice("scale_mode", ("cycle", "iterations"), "cycle")
        args.settings.ignore("mode")
        return scale, 1.0, args.function("scale_fn")
    args.settings.ignore("scale_fn", "scale_mode")
    mode = args.settings.choice("mode", modes, "triangular")
    return {"triangular": ("cycle", 1.0), "triangular2": ("cycle", 0.5), "exp_range": ("iterations", gamma)}[mode] + (
        None,
    )


@dataclass(frozen=True)
class _Wave:
    """Up and down again, by a height that changes with every cycle or call."""

    up: Fraction
    down: Fraction
    counted: str
    gamma: float
    function: Any

    def phase(self, rest: float, crest: float, ticks: Ticks) -> Phase:
        """From ``rest`` to ``crest`` and back."""
        every = ticks.text(self.up + self.down)
        if (self.gamma == 1 and self.function is None) or rest == crest:
            return (
                Phase(self._cycle(rest, crest, ticks), jumps=not self.down)
                if rest != crest
                else constant(Rate(fixed=rest))
            )
        per = every if self.counted == "cycle" else ticks.text(1)
        scale: Schedule
        if self.function is not None:
            scale = Function(self.function, every=per)
            if self.counted == "cycle":  # which torch counts from 1
                beyond = f"100%+{per}st" if isinstance(per, int) else f"100%+{per}"
                scale = Shift(Over(scale, end=beyond), earlier=per)
        elif self.counted == "cycle" or ticks.stairs:
            scale = Step(every=per, gamma=self.gamma)
        else:
            scale = Exponential(every=per, gamma=self.gamma)
        height = Product((self._cycle(0.0, short(crest - rest), ticks), scale))
        jumps = not self.down or self.function is not None
        return Phase(Sum((Constant(absolute(rest)), height)) if rest else height, jumps=jumps)

    def _cycle(self, rest: float, crest: float, ticks: Ticks) -> Cycle:
        up, down = Linear(absolute(rest), absolute(crest)), Linear(absolute(crest), absolute(rest))
        if self.down == 0:
            return Cycle(up, every=ticks.text(self.up))
        return Cycle((up.ending(ticks.text(self.up)), down), every=ticks.text(self.up + self.down))
