"""Clipping of gradients: how is plain data; the tensors come in when training starts."""

from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.kinds import AGC, AutoClip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.clipping.nonfinite import NonFinite

__all__ = [
    "AGC",
    "AutoClip",
    "Clip",
    "GlobalNorm",
    "GroupNorm",
    "NonFinite",
    "ParameterNorm",
    "Value",
    "ZClip",
]
