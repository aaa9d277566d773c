"""The hooks of every callback that clips gradients.

They act right before the optimiser's step, once for each step: gradients are complete, averaged over processes,
unscaled, and those of frozen parameters are gone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.callbacks.order import arrange
from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.clipper import Clipped, Clipper
from lightning_solver.clipping.nonfinite import NonFinite
from lightning_solver.clipping.norms import Gradients, dense
from lightning_solver.clipping.planned import PlannedClip, plan_clips
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.optimizers.implementation import unscale_before
from lightning_solver.rules.inventory import own_name
from lightning_solver.run_length import trainer_run_length


@dataclass(frozen=True)
class Entry:
    """What is done about the gradients of one optimiser.

    Args:
        clip: How they are clipped.
        nonfinite: What is done when they are not finite.
        where: The path of the clipping, for error messages.
    """

    clip: Clip | Sequence[Clip] | None
    nonfinite: NonFinite | None
    where: str = "clip"


@dataclass
class AtWork:
    """What is done about the gradients of one optimiser in a run.

    Attributes:
        planned: What is clipped.
        clippers: The same at work.
        gradients: All gradients of the optimiser.
        nonfinite: What is done when they are not finite.
        where: The path, for error messages.
        clipped: What the latest step measured, one for each clipping.
        norm: The norm of all gradients before, where it was a by-product of the latest step.
        found: How many steps have had gradients that were not finite.
        in_a_row: How many of them were the latest ones.
        steps: How often the optimiser was about to step.
    """

    planned: tuple[PlannedClip, ...]
    clippers: tuple[Clipper, ...]
    gradients: Gradients
    nonfinite: NonFinite | None
    where: str
    clipped: tuple[Clipped, ...] = ()
    norm: Tensor | None = None
    found: int = 0
    in_a_row: int = 0
    steps: int = 0
    measure: bool = field(default=False, repr=False)


class Clipping(Callback, ABC):
    """Base of the callbacks that clip gradients.

    Attributes:
        at_work: Name of an optimiser -> what is done about its gradients, while training runs and after it.
    """

    role = "clip"

    def __init__(self) -> None:
        self.at_work: dict[str, AtWork] = {}
        self._restored: dict[str, Any] = {}

    @abstractmethod
    def entries(self, trainer: Trainer, module: LightningModule) -> dict[str, Entry]:
        """What is done, by the name of the optimiser.

        Args:
            trainer: The Trainer.
            module: The module.
        """

    @abstractmethod
    def name_of(self, module: LightningModule, optimizer: Optimizer) -> str:
        """The name of an optimiser, as :meth:`entries` has it.

        Args:
            module: The module.
            optimizer: One of the Trainer's.
        """

    @abstractmethod
    def step_of(self, trainer: Trainer, module: LightningModule, name: str) -> int:
        """The number of the step (0-based) that an optimiser is about to make.

        Args:
            trainer: The Trainer.
            module: The module.
            name: The name of the optimiser.
        """

    def plan_for(self, trainer: Trainer, module: Any, entry: Entry, optimizer: Optimizer) -> tuple[PlannedClip, ...]:
        """What is clipped of the parameters of an optimiser.

        Args:
            trainer: The Trainer.
            module: The module.
            entry: What is to be done.
            optimizer: The optimiser.
        """
        notes: list[str] = []
        names = {id(tensor): own_name(name) for name, tensor in module.named_parameters()}
        groups = [group["params"] for group in optimizer.param_groups]
        run = trainer_run_length(trainer)
        planned = plan_clips(entry.clip, module, groups, run, names=names, where=entry.where, notes=notes)
        if notes:
            report("notes on the clipping:", notes)
        return planned

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        trainer.callbacks = arrange(trainer.callbacks)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would clip beside it."""
        entries = self.entries(trainer, pl_module)
        if entries:
            _refuse(trainer, pl_module, self)
        for optimizer in trainer.optimizers if entries else ():
            unscale_before(optimizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the parameters that are clipped."""
        entries = self.entries(trainer, pl_module)
        self.at_work = {}
        for optimizer in trainer.optimizers:
            name = self.name_of(pl_module, optimizer)
            entry = entries.get(name)
            if entry is None:
                continue
            planned = self.plan_for(trainer, pl_module, entry, optimizer)
            tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
            clippers = tuple(one.build() for one in planned)
            self.at_work[name] = AtWork(planned, clippers, Gradients(tensors), entry.nonfinite, entry.where)
        restored, self._restored = self._restored, {}
        for name, state in restored.items():
            if name in self.at_work:
                _load(self.at_work[name], state)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clip, once all that changes gradients has acted."""
        name = self.name_of(pl_module, getattr(optimizer, "optimizer", optimizer))
        work = self.at_work.get(name)
        if work is None:
            return
        work.steps += 1
        step = self.step_of(trainer, pl_module, name)
        limits = [one.limit(step) for one in work.planned]
        work.clipped, work.norm = (), None
        # One norm of all gradients is clipped by and looked at where these are the same.
        zeroes = work.nonfinite is not None and work.nonfinite.policy == "zero"
        shared = bool(work.planned) and work.planned[0].everything and _by_joint_norm(work.clippers[0])
        looked_at = work.nonfinite is not None
        if looked_at and (zeroes or not shared):
            work.norm = work.gradients.norm()
            if not self._go_on(trainer, work, work.norm):
                return
        found: list[Clipped] = []
        for clipper, limit in zip(work.clippers, limits):
            found.append(clipper.apply(limit=limit, measure=work.measure))
            if work.norm is None and shared:
                work.norm = found[0].norm
                if looked_at and not self._go_on(trainer, work, work.norm):
                    break
        work.clipped = tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """What clippings have learnt, and what was counted."""
        return {
            name: {
                "clippers": [clipper.state_dict() for clipper in work.clippers],
                "found": work.found,
                "in_a_row": work.in_a_row,
                "steps": work.steps,
            }
            for name, work in self.at_work.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._restored = state_dict

    def _go_on(self, trainer: Trainer, work: AtWork, norm: Tensor | None) -> bool:
        """Whether the step is made: do what is to be done if gradients are not finite.

        Raises:
            SolverError: They are not, and that is an error, or has gone on for too long.
        """
        how = work.nonfinite
        if how is None or norm is None or math.isfinite(float(norm)):
            work.in_a_row = 0
            return True
        work.found += 1
        work.in_a_row += 1
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if how.policy == "error" and not scaled:
            do = "look at data, loss and learning rate; or set nonfinite: skip"
            what = f"the norm of the gradients is not finite at step {trainer.global_step}"
            raise SolverError("nonfinite", what, got=f"{float(norm)}", do=do)
        if work.in_a_row >= how.in_a_row:
            what = f"the norm of the gradients was not finite in {work.in_a_row} steps in a row"
            do = "look at data, loss and learning rate; or raise nonfinite.in_a_row"
            raise SolverError("nonfinite", what, got=f"{float(norm)} at step {trainer.global_step}", do=do)
        if how.policy == "zero" and not scaled:
            for gradient in work.gradients.present():
                torch.nan_to_num_(dense(gradient), nan=0.0, posinf=0.0, neginf=0.0)
            return True
        for parameter in work.gradients.parameters:
            parameter.grad = None  # with which no optimiser moves it
        return False


def _by_joint_norm(clipper: Clipper) -> bool:
    """Whether a clipping measures the norm of all its gradients anyway."""
    return type(clipper.clip).__name__ in ("GlobalNorm", "AutoClip", "ZClip")


def _load(work: AtWork, state: Mapping[str, Any]) -> None:
    for clipper, own in zip(work.clippers, state["clippers"]):
        clipper.load_state_dict(own)
    work.found, work.in_a_row, work.steps = state["found"], state["in_a_row"], state["steps"]


def _refuse(trainer: Any, module: LightningModule, own: Clipping) -> None:
    """Whatever would clip a second time, or holds gradients in a form of its own."""
    if trainer.gradient_clip_val is not None:
        do = f"leave it out: the gradients are clipped by {type(own).__name__}"
        got = str(trainer.gradient_clip_val)
        raise SolverError("Trainer.gradient_clip_val", "the gradients would be clipped twice", got=got, do=do)
    for other in trainer.callbacks:
        if isinstance(other, Clipping) and other is not own and other.entries(trainer, module):
            names = " and ".join(sorted({type(own).__name__, type(other).__name__}))
            do = "say it in the solver or by one callback"
            raise SolverError("Trainer.callbacks", "the gradients would be clipped twice", got=names, do=do)
    if type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping:
        do = "drop the method"
        where = f"{type(module).__name__}.configure_gradient_clipping"
        raise SolverError(where, "the gradients would be clipped twice", do=do)
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
        do = "use ModelParallelStrategy (FSDP2) or DDP, or drop the clipping"
        what = "holds gradients in a form of its own, of which no right norm can be had here"
        raise SolverError("Trainer.strategy", what, got=type(trainer.strategy).__name__, do=do)
