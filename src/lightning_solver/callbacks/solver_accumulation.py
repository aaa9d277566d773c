"""The accumulation that a specification asks for."""

from __future__ import annotations

from typing import Any

from lightning_solver.accumulation import Accumulation
from lightning_solver.callbacks.accumulating import Accumulating
from lightning_solver.spec import SolverSpec


class SolverAccumulation(Accumulating):
    """Added by :class:`SolverMixin`; it accumulates only where the specification has ``accumulate``.

    Under manual optimisation the turns of the optimisers do it.
    """

    def accumulation(self, module: Any) -> Accumulation | None:
        solver = getattr(module, "solver", None)
        if not isinstance(solver, SolverSpec) or not module.automatic_optimization:
            return None
        return solver.accumulation()
