"""``SWALR``."""

from __future__ import annotations

import math

from lightning_solver.interop.torch.arguments import Args, Leaf
from lightning_solver.interop.torch.one_cycle import SHAPES
from lightning_solver.interop.torch.rates import At, Phase, Rate, constant
from lightning_solver.schedules import Linear


def swalr(args: Args) -> Leaf:
    """``SWALR``."""
    target, count = args.rate("swa_lr"), args.integer("anneal_epochs", 10)
    shape = SHAPES[args.settings.choice("anneal_strategy", SHAPES, "cos")]
    end = Rate(fixed=target)
    args.share("swa_lr", target)

    def left(k: int) -> float:
        x = min(k / max(count, 1), 1.0)
        return 1.0 - (x if shape is Linear else (1.0 - math.cos(math.pi * x)) / 2.0)

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        return rate.toward(target, left(1)) if entry == "stepped" else rate

    def phases(at: At) -> list[Phase]:
        return [Phase(shape(at.rate.level(), end.level()), at.begin + count, shaped=True), constant(end)]

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=left,
        opened=opened,
        floor=target,
        closed_from=count,
        first=end,
        counts=True,
    )
