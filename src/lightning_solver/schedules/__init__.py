"""Pure schedules: shapes, and the ways in which they combine. No torch, no optimiser, no trainer."""

from lightning_solver.schedules.base import Curve, Level, Schedule, Window
from lightning_solver.schedules.compose import Join, Product, Scale, Shift, Staircase
from lightning_solver.schedules.shapes import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Step

__all__ = [
    "Constant",
    "Cosine",
    "Curve",
    "Exponential",
    "Join",
    "Level",
    "Linear",
    "MultiStep",
    "Polynomial",
    "Product",
    "Scale",
    "Schedule",
    "Shift",
    "Staircase",
    "Step",
    "Window",
]
