"""Clipping of gradients for any LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Union

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.callbacks.clipping import Clipping, Entry
from lightning_solver.clipping.at_work import AtWork
from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.nonfinite import NonFinite, Policy
from lightning_solver.clipping.planned import PlannedClip, plan_clips
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.plain import conform
from lightning_solver.real_steps import RealSteps
from lightning_solver.rules.inventory import own_name
from lightning_solver.run_length import manual_run_lengths, trainer_run_length


class GradientClipping(Clipping):
    """Clips gradients right before each optimiser step, under any precision, accumulation and strategy.

    Several optimisers, under manual optimisation, are clipped each by itself, before each ``step`` of those that
    ``self.optimizers()`` gives. A schedule of the limit counts the real steps of each, for which one a batch is
    reckoned with.

    Args:
        clip: How: ``GlobalNorm``, ``GroupNorm``, ``ParameterNorm``, ``Value``, ``AGC``, ``AutoClip`` or ``ZClip`` of
            :mod:`lightning_solver.clipping`; several act one after another.
        nonfinite: What is done when the norm of the gradients is not finite: ``error``, ``skip``, ``zero``, or
            :class:`~lightning_solver.clipping.NonFinite`. By default nothing is looked at.

    Raises:
        SolverError: A setting that makes no sense, or something else that clips beside it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_solver.clipping import GlobalNorm
        >>> clipping = GradientClipping(GlobalNorm(max_norm=1.0), nonfinite="skip")
        >>> trainer = Trainer(callbacks=[clipping], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, clip: Clip | Sequence[Clip] | None = None, *, nonfinite: NonFinite | Policy | None = None
    ) -> None:
        super().__init__()
        if clip is None and nonfinite is None:
            do = "give one of them, as in GradientClipping(GlobalNorm(max_norm=1.0))"
            raise SolverError("GradientClipping", "is given neither clip nor nonfinite", do=do)
        clip = conform(clip, Union[Clip, Sequence[Clip], None], "GradientClipping.clip")
        if clip == ():
            raise SolverError("GradientClipping.clip", "is empty", got="[]", do="give at least one, or leave it out")
        nonfinite = conform(nonfinite, Union[NonFinite, Policy, None], "GradientClipping.nonfinite")
        policy = NonFinite(nonfinite) if isinstance(nonfinite, str) else nonfinite
        self._entry = Entry(clip, policy, "GradientClipping.clip")
        self._real_steps: dict[str, RealSteps] = {}

    def entries(self, trainer: Trainer, module: LightningModule) -> dict[str, Entry]:
        return {str(index): self._entry for index in range(max(len(trainer.optimizers), 1))}

    def name_of(self, module: LightningModule, optimizer: Optimizer) -> str:
        return next((str(i) for i, one in enumerate(module.trainer.optimizers) if one is optimizer), "")

    def step_of(self, trainer: Trainer, module: LightningModule, name: str) -> int:
        self._count()
        return self.at_work[name].steps

    def plan_for(self, trainer: Trainer, module: Any, entry: Entry, optimizer: Optimizer) -> tuple[PlannedClip, ...]:
        notes: list[str] = []
        names = {id(tensor): own_name(name) for name, tensor in module.named_parameters()}
        groups = [group["params"] for group in optimizer.param_groups]
        planned = plan_clips(
            entry.clip,
            module,
            groups,
            _run_length(trainer, module),
            names=names,
            where=entry.where,
            beyond="allow" if getattr(trainer, "fast_dev_run", False) else "error",  # of a few batches only
            notes=notes,
        )
        if notes:
            report("notes on the clipping:", notes)
        return planned

    def steps_before(self, trainer: Trainer, work: AtWork) -> int:
        if len(trainer.optimizers) > 1 and trainer.global_step > 0 and any(one.curve for one in work.planned):
            what = "the checkpoint knows nothing of GradientClipping, nor how many steps each optimiser has made"
            report(f"{what}: the schedules of its limits begin anew")
        return super().steps_before(trainer, work)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the parameters that are clipped, and count steps."""
        self._count()
        self._real_steps = {}
        super().on_train_start(trainer, pl_module)
        self._real_steps = {self.name_of(pl_module, one): RealSteps(one) for one in trainer.optimizers}

    def state_dict(self) -> dict[str, Any]:
        """What clippings have learnt, and what was counted."""
        self._count()
        return super().state_dict()

    def _count(self) -> None:
        for name, work in self.at_work.items():
            if name in self._real_steps:
                work.steps += self._real_steps[name].take()


def _run_length(trainer: Trainer, module: LightningModule) -> RunLength:
    """The length of the run in steps of one optimiser, over which schedules of limits are laid."""
    if module.automatic_optimization:
        return trainer_run_length(trainer)
    names = [str(index) for index, _ in enumerate(trainer.optimizers)]
    return manual_run_lengths(trainer, dict.fromkeys(names, Fraction(1)))[names[0]]
