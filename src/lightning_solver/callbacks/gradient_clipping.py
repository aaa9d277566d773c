"""Clipping of gradients for any LightningModule."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.callbacks.clipping import Clipping, Entry
from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.nonfinite import NonFinite, Policy
from lightning_solver.errors import SolverError


class GradientClipping(Clipping):
    """Clips gradients right before each optimiser step, under any precision, accumulation and strategy.

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
        policy = NonFinite(nonfinite) if isinstance(nonfinite, str) else nonfinite
        self._entry = Entry(clip, policy, "GradientClipping.clip")

    def entries(self, trainer: Trainer, module: LightningModule) -> dict[str, Entry]:
        return {str(index): self._entry for index in range(max(len(trainer.optimizers), 1))}

    def name_of(self, module: LightningModule, optimizer: Optimizer) -> str:
        found = [i for i, one in enumerate(module.trainer.optimizers) if one is optimizer]
        return str(found[0]) if found else ""

    def step_of(self, trainer: Trainer, module: LightningModule, name: str) -> int:
        return self.at_work[name].steps - 1
