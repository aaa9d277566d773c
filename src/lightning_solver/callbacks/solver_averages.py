"""The averages that a specification asks for."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from lightning_solver.averaging.weight_sets import Entry
from lightning_solver.callbacks.averaging import Averaging
from lightning_solver.several import ALONE, by_name


class SolverAverages(Averaging):
    """Added by :class:`SolverMixin`; it averages only where a specification has ``averages``.

    Without any it still takes care of a checkpoint that was written with averages: training goes on from the live
    weights that it holds.
    """

    def entries(self, module: LightningModule) -> dict[str, Entry]:
        solver = getattr(module, "solver", None)
        if solver is None:
            return {}
        found = {}
        for part, spec in by_name(solver).items():
            prefix = "" if part == ALONE else f"{part}."
            for name, average in spec.averages.items():
                found[prefix + name] = Entry(average, part, f"{prefix}averages.{name}")
        return found
