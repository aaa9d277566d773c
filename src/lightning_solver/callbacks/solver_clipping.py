"""The clipping that a specification asks for."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.callbacks.clipping import Clipping, Entry
from lightning_solver.clipping.planned import PlannedClip
from lightning_solver.several import ALONE, by_name


class SolverClipping(Clipping):
    """Added by :class:`SolverMixin`; it clips only where a specification has ``clip`` or ``nonfinite``."""

    @property
    def by(self) -> str:
        return "clip of the solver"

    def entries(self, trainer: Trainer, module: LightningModule) -> dict[str, Entry]:
        solver = getattr(module, "solver", None)
        found = {}
        for part, spec in by_name(solver).items() if solver is not None else ():
            if spec.clip is not None or spec.nonfinite is not None:
                where = "clip" if part == ALONE else f"{part}.clip"
                found[part] = Entry(spec.clip, spec.policy(), where)
        return found

    def name_of(self, module: Any, optimizer: Optimizer) -> str:
        return next((name for name, part in module.solver_parts.items() if part.optimizer is optimizer), "")

    def step_of(self, trainer: Trainer, module: Any, name: str) -> int:
        return int(module.solver_parts[name].scheduler.last_epoch)

    def plan_for(self, trainer: Trainer, module: Any, entry: Entry, optimizer: Optimizer) -> tuple[PlannedClip, ...]:
        clips: tuple[PlannedClip, ...] = module.solver_parts[self.name_of(module, optimizer)].plan.clips
        return clips
