"""Configs of other systems, read as specs that give the same numbers.

Every importer is called as ``from_x(config, *, facts=None, strict=False)`` and returns an :class:`Imported`.
"""

from lightning_solver.interop.base import Imported

__all__ = ["Imported"]
