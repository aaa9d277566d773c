"""Pet: ``SOLVER.OPTIMIZER`` and ``SOLVER.SCHEDULER``, and the flat names of its earlier releases."""

from lightning_solver.interop.pet.entry import from_pet

__all__ = ["from_pet"]
