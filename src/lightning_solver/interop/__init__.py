"""Configs of other systems, read as specs."""

from lightning_solver.interop.base import Imported

__all__ = ["Imported"]
