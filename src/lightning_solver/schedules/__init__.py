"""Pure schedules: shapes, and the ways in which they combine. No torch, no optimiser, no trainer."""

from lightning_solver.schedules.base import Curve, Level, Schedule, Window
from lightning_solver.schedules.chain import Chain
from lightning_solver.schedules.combine import Clip, KeepZero, PerGroup, Product, Sum, Warmup
from lightning_solver.schedules.functions import Function, Noise
from lightning_solver.schedules.join import Join
from lightning_solver.schedules.plateau import Plateau
from lightning_solver.schedules.positions import Cycle, Over, Scale, Shift, Staircase
from lightning_solver.schedules.shapes import Constant, Cosine, Exponential, Inverse, Linear, Polynomial, Rex, Tanh
from lightning_solver.schedules.steps import MultiStep, Step

__all__ = [
    "Chain",
    "Clip",
    "Constant",
    "Cosine",
    "Curve",
    "Cycle",
    "Exponential",
    "Function",
    "Inverse",
    "Join",
    "KeepZero",
    "Level",
    "Linear",
    "MultiStep",
    "Noise",
    "Over",
    "PerGroup",
    "Plateau",
    "Polynomial",
    "Product",
    "Rex",
    "Scale",
    "Schedule",
    "Shift",
    "Staircase",
    "Step",
    "Sum",
    "Tanh",
    "Warmup",
    "Window",
]
