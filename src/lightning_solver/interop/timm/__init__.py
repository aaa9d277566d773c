"""Recipes of timm: keywords of its factories, arguments of its ``train.py``, classes, groups of parameters, clipping.

timm's schedules are functions of ``t``, the number of epochs that are over, or of optimiser steps ("updates"). The
group holds the value of ``t`` from then on, so that a schedule by epochs is a staircase.
"""

from lightning_solver.interop.timm.entry import from_timm

__all__ = ["from_timm"]
