"""``LambdaLR`` and ``MultiplicativeLR``."""

from __future__ import annotations

import math
from fractions import Fraction

from lightning_solver.errors import SolverError
from lightning_solver.interop.torch.arguments import Args, Leaf, callable_of
from lightning_solver.interop.torch.rates import OWN, At, Phase, Rate, Ticks, constant
from lightning_solver.schedules import Function, Over


def lambda_lr(args: Args) -> Leaf:
    """``LambdaLR``."""
    function = args.function("lr_lambda")

    def phases(at: At) -> list[Phase]:
        if at.ticks.smooth:
            what = "is called with fractions of an epoch, and schedules call functions with whole numbers"
            raise SolverError(args.where, what, got=args.name, do="step it once per step or epoch")
        return [Phase(Function(function, every=at.ticks.text(1), start=at.base.level()), jumps=True, stairs=True)]

    return Leaf(args.name, args.where, phases, closed_from=0)


def multiplicative_lr(args: Args) -> Leaf:
    """``MultiplicativeLR``."""
    function = args.function("lr_lambda")

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        if entry in ("made", "initial"):
            return rate
        return rate.times(float(callable_of(function, args.path("lr_lambda"))(0)))

    def phases(at: At) -> list[Phase]:
        product = Function(function, every=at.ticks.text(1), cumulative=True, start=at.rate.level())
        return [Phase(product, jumps=True, stairs=True)]

    def moves(ticks: Ticks) -> list[Phase]:
        return [
            constant(OWN, Fraction(1)),
            Phase(Over(Function(function, every=ticks.text(1)), begin=0), stairs=True),
        ]

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: 1.0 if k == 0 else math.nan,
        opened=opened,
        multiplier=function,
        moves=moves,
    )
