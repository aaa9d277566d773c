"""Values that timm writes to every group."""

from __future__ import annotations

from lightning_solver.schedules.base import Level


def scaled(value: float) -> Level:
    """A value that timm writes to every group, times the group's ``lr_scale``; 0 is simply 0."""
    return {"scaled": float(value)} if value else 0.0


def between(base: float, floor: float, left: float) -> Level:
    """``floor + (base - floor) * left``, where ``base`` is a factor of the group's base value."""
    level = {"base": base * left, "scaled": floor * (1.0 - left)}
    return level if level["base"] and level["scaled"] else level["base"] or scaled(level["scaled"])
