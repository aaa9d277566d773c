"""The classes by name, and ``ReduceLROnPlateau``."""

from __future__ import annotations

from collections.abc import Callable

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import absolute
from lightning_solver.interop.torch.arguments import Args, Leaf
from lightning_solver.interop.torch.cyclic import cyclic_lr
from lightning_solver.interop.torch.functions import lambda_lr, multiplicative_lr
from lightning_solver.interop.torch.one_cycle import one_cycle_lr
from lightning_solver.interop.torch.slopes import cosine_lr, linear_lr, polynomial_lr, warm_restarts
from lightning_solver.interop.torch.stairs import constant_lr, exponential_lr, multi_step_lr, step_lr
from lightning_solver.interop.torch.swa import swalr
from lightning_solver.schedules import Plateau

KINDS: dict[str, Callable[[Args], Leaf] | None] = {
    "StepLR": step_lr,
    "MultiStepLR": multi_step_lr,
    "ConstantLR": constant_lr,
    "LinearLR": linear_lr,
    "ExponentialLR": exponential_lr,
    "PolynomialLR": polynomial_lr,
    "CosineAnnealingLR": cosine_lr,
    "CosineAnnealingWarmRestarts": warm_restarts,
    "LambdaLR": lambda_lr,
    "MultiplicativeLR": multiplicative_lr,
    "OneCycleLR": one_cycle_lr,
    "CyclicLR": cyclic_lr,
    "SWALR": swalr,
    "ReduceLROnPlateau": None,
}


def read_plateau(args: Args, monitor: str) -> Plateau:
    """``ReduceLROnPlateau``."""
    settings = args.settings
    factor, least = args.number("factor", 0.1), args.rate("min_lr", 0)
    if not 0 < factor < 1:
        raise SolverError(args.path("factor"), "must lie between 0 and 1", got=repr(factor), do="correct it")
    mode = settings.choice("mode", ("min", "max"), "min")
    kind = settings.choice("threshold_mode", ("rel", "abs"), "rel")
    threshold = args.number("threshold", 1e-4, low=0)
    if threshold >= 1 and (mode, kind) == ("min", "rel"):
        what = "must be below 1: nothing would ever count as an improvement"
        raise SolverError(args.path("threshold"), what, got=repr(threshold), do="correct it")
    return Plateau(
        monitor,
        mode=mode,  # type: ignore[arg-type]
        factor=factor,
        patience=args.whole("patience", 10),
        threshold=threshold,
        threshold_mode=kind,  # type: ignore[arg-type]
        cooldown=args.whole("cooldown", 0),
        min=absolute(least),
        eps=args.number("eps", 1e-8, low=0),
    )
