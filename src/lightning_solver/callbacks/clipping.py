"""The hooks of every callback that clips gradients.

They act right before the optimiser's step, once for each step: gradients are complete, averaged over processes,
unscaled, and those of frozen parameters are gone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.callbacks.order import rest, take_places
from lightning_solver.clipping.at_work import AtWork
from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.clipper import Clipped
from lightning_solver.clipping.nonfinite import NonFinite
from lightning_solver.clipping.norms import Gradients, dense
from lightning_solver.clipping.planned import PlannedClip
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.optimizers.implementation import unscale_before
from lightning_solver.real_steps import loss_scaler


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


class Clipping(Callback, ABC):
    """Base of the callbacks that clip gradients.

    Attributes:
        at_work: Name of an optimiser -> what is done about its gradients, while training runs and after it.
    """

    role = "clip"

    @property
    def by(self) -> str:
        """What users know it by, for error messages."""
        return type(self).__name__

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

    @abstractmethod
    def plan_for(self, trainer: Trainer, module: Any, entry: Entry, optimizer: Optimizer) -> tuple[PlannedClip, ...]:
        """What is clipped of the parameters of an optimiser.

        Args:
            trainer: The Trainer.
            module: The module.
            entry: What is to be done.
            optimizer: The optimiser.
        """

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        take_places(trainer)
        if stage == "fit":
            self._restored = {}  # of a checkpoint that was tested, say; that of this run is read later
        if stage == "fit" and trainer.global_step == 0:  # another run: it does not go on from the last one
            self.at_work = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would clip beside it."""
        entries = self.entries(trainer, pl_module)
        if entries:
            _refuse(trainer, pl_module, self, clips=any(entry.clip is not None for entry in entries.values()))
        for optimizer in trainer.optimizers if entries else ():
            unscale_before(optimizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the parameters that are clipped."""
        entries = self.entries(trainer, pl_module)
        # A second fit of one Trainer goes on.
        restored = self._restored or (self._states() if trainer.global_step > 0 else {})
        self._restored, self.at_work = {}, {}
        for optimizer in trainer.optimizers:
            name = self.name_of(pl_module, optimizer)
            entry = entries.get(name)
            if entry is None:
                continue
            work = self.at_work[name] = self._set_to_work(trainer, pl_module, entry, optimizer)
            if name in restored:
                _load(work, restored[name])
            else:
                work.steps = self.steps_before(trainer, work)
        if not self.at_work:
            rest(self)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clip, once all that changes gradients has acted."""
        own: Any = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        name = self.name_of(pl_module, own)
        if name not in self.at_work:
            return
        work = self._grown(trainer, pl_module, name, own)
        work.clipped, work.norm = (), None
        if all(parameter.grad is None for parameter in work.gradients.parameters):
            return  # there is no step: no batch of the window had a loss
        if work.measure and work.before is not None:
            work.before()
        step = self.step_of(trainer, pl_module, name)
        limits = [one.limit(step) for one in work.planned]
        # One norm of all gradients is clipped by and looked at where these are the same.
        zeroes = work.nonfinite is not None and work.nonfinite.policy == "zero"
        shared = bool(work.planned) and work.planned[0].everything and work.planned[0].clip.by_joint_norm
        looked_at = work.nonfinite is not None
        if looked_at and (zeroes or not shared):
            work.norm = work.gradients.norm(work.order)
            if not self._go_on(trainer, work, work.norm, step):
                return
        found: list[Clipped] = []
        for clipper, limit in zip(work.clippers, limits):
            found.append(clipper.apply(limit=limit, measure=work.measure))
            if work.norm is None and shared:
                work.norm = found[0].norm
                if looked_at and not self._go_on(trainer, work, work.norm, step):
                    return
        work.clipped = tuple(found)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if gradients were not finite, so that a run that learnt nothing is noticed."""
        lines = [
            f"{name + ': ' if len(self.at_work) > 1 else ''}{work.found} {'step' if work.found == 1 else 'steps'}, "
            f"{_done_about(trainer, work.nonfinite)}"
            for name, work in self.at_work.items()
            if work.found and work.nonfinite is not None
        ]
        if lines:
            report("the norm of the gradients was not finite:", lines)

    def state_dict(self) -> dict[str, Any]:
        """What clippings have learnt, and what was counted."""
        return self._restored or self._states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._restored = state_dict

    def steps_before(self, trainer: Trainer, work: AtWork) -> int:
        """How many steps an optimiser has made before this run, where no checkpoint tells.

        Args:
            trainer: The Trainer.
            work: What is done about its gradients.
        """
        return trainer.global_step if len(trainer.optimizers) == 1 else 0

    # ------------------------------------------------------------------ not for users

    def _states(self) -> dict[str, Any]:
        return {name: _state(work) for name, work in self.at_work.items()}

    def _set_to_work(self, trainer: Trainer, module: LightningModule, entry: Entry, optimizer: Optimizer) -> AtWork:
        planned = self.plan_for(trainer, module, entry, optimizer)
        clippers = tuple(one.build() for one in planned)
        work = AtWork(planned, clippers, Gradients(_trained(optimizer)), entry.nonfinite, entry.where)
        if planned and planned[0].everything:
            work.order = planned[0].clip.order
        return work

    def _grown(self, trainer: Trainer, module: LightningModule, name: str, optimizer: Optimizer) -> AtWork:
        """What is done about an optimiser, also if it was given parameters in mid-run, as finetuning callbacks do."""
        work = self.at_work[name]
        if sum(len(group["params"]) for group in optimizer.param_groups) == len(work.gradients.parameters):
            return work
        grown = self._set_to_work(trainer, module, self.entries(trainer, module)[name], optimizer)
        _load(grown, _state(work))
        grown.measure, grown.before = work.measure, work.before
        self.at_work[name] = grown
        return grown

    def _go_on(self, trainer: Trainer, work: AtWork, norm: Tensor | None, step: int) -> bool:
        """Whether the step is made: do what is to be done if gradients are not finite.

        Raises:
            SolverError: They are not, and that is an error, or has gone on for too long.
        """
        how = work.nonfinite
        if how is None or norm is None:
            return True
        if math.isfinite(float(norm)):
            work.in_a_row = 0
            return True
        work.found += 1
        work.in_a_row += 1
        scaled = _is_scaled(trainer)
        where = f"{work.where.removesuffix('clip')}nonfinite"
        if how.policy == "error" and not scaled:
            do = f"look at data, loss and learning rate; or set {where}: skip"
            what = f"the norm of the gradients is not finite at step {step}"
            raise SolverError(where, what, got=f"{float(norm)}", do=do)
        if work.in_a_row >= how.in_a_row:
            times = "step" if work.in_a_row == 1 else "steps in a row"
            what = f"the norm of the gradients was not finite in {work.in_a_row} {times}"
            do = f"look at data, loss and learning rate; or raise {where}.in_a_row"
            raise SolverError(where, what, got=f"{float(norm)} at step {step}", do=do)
        if how.policy == "zero" and not scaled:
            for gradient in work.gradients.present():
                torch.nan_to_num_(dense(gradient), nan=0.0, posinf=0.0, neginf=0.0)
            return True
        for parameter in work.gradients.parameters:
            parameter.grad = None  # with which no optimiser moves it
        return False


def _trained(optimizer: Optimizer) -> list[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _is_scaled(trainer: Trainer) -> bool:
    """Whether a loss scaler skips steps by itself."""
    scaler = loss_scaler(trainer)
    return scaler is not None and bool(scaler.is_enabled())


def _done_about(trainer: Trainer, how: NonFinite) -> str:
    """What was done about gradients that were not finite, in words."""
    if _is_scaled(trainer):
        return "left out by the loss scaler"
    return "made with 0 in their place" if how.policy == "zero" else "left out"


def _state(work: AtWork) -> dict[str, Any]:
    return {
        "clippers": [[type(clipper.clip).__name__, clipper.state_dict()] for clipper in work.clippers],
        "found": work.found,
        "in_a_row": work.in_a_row,
        "steps": work.steps,
    }


def _load(work: AtWork, state: Mapping[str, Any]) -> None:
    work.found, work.in_a_row, work.steps = state["found"], state["in_a_row"], state["steps"]
    then, now = [kind for kind, _ in state["clippers"]], [type(clipper.clip).__name__ for clipper in work.clippers]
    if then == now:
        for clipper, (_, own) in zip(work.clippers, state["clippers"]):
            clipper.load_state_dict(own)
    elif any(own for _, own in state["clippers"]):
        was, is_now = ", ".join(then), ", ".join(now) or "nothing"
        changed = f"{work.where} was {was} when the checkpoint was written, and is {is_now} now"
        report(f"{changed}: what it has learnt does not go on")


def _refuse(trainer: Any, module: LightningModule, own: Clipping, *, clips: bool) -> None:
    """Whatever would clip a second time, or holds gradients in a form of its own."""
    twice = "the gradients would be clipped twice"
    if clips and (trainer.gradient_clip_val or 0.0) > 0.0:  # Lightning does nothing at 0
        do = f"leave it out: the gradients are clipped by {own.by}"
        raise SolverError("Trainer.gradient_clip_val", twice, got=str(trainer.gradient_clip_val), do=do)
    for other in trainer.callbacks:
        if isinstance(other, Clipping) and other is not own and other.entries(trainer, module):
            names = " and ".join(sorted({type(own).__name__, type(other).__name__}))
            do = "say clip and nonfinite in the solver or by one callback"
            raise SolverError("Trainer.callbacks", "two would look after the gradients", got=names, do=do)
    method = getattr(module.configure_gradient_clipping, "__func__", None)
    if clips and method is not LightningModule.configure_gradient_clipping:
        where = f"{type(module).__name__}.configure_gradient_clipping"
        do = f"drop the method: the gradients are clipped by {type(own).__name__}"
        raise SolverError(where, twice, do=do)
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
        do = "use ModelParallelStrategy (FSDP2) or DDP, or drop clip and nonfinite"
        what = "holds gradients in a form of its own, of which no right norm can be had here"
        raise SolverError("Trainer.strategy", what, got=type(trainer.strategy).__name__, do=do)
