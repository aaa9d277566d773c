"""Gradient accumulation for any LightningModule."""

from __future__ import annotations

from typing import Any

from lightning_solver.accumulation import Accumulation, Amount
from lightning_solver.callbacks.accumulating import Accumulating
from lightning_solver.errors import SolverError


class GradientAccumulation(Accumulating):
    """Makes an optimiser step of several batches, each window scaled by what it really holds.

    In place of the Trainer's ``accumulate_grad_batches``, which divides a short window at the end of an epoch by the
    full number of batches, and of Lightning's ``GradientAccumulationScheduler``, with which the Trainer counts the
    steps of a run wrongly. Checkpoints in mid-window, validation in mid-window and changes of the number in mid-epoch
    lose nothing.

    ``trainer.estimated_stepping_batches`` is right where the number never changes; where it does, or with ``samples``,
    ``lightning_solver.run_length.trainer_run_length(trainer).total_steps`` is.

    Args:
        batches: The number of batches, or a mapping of points of the run to numbers: ``{0: 1, "5ep": 4}``.
        samples: In place of ``batches``: the samples of a step over all devices.
        weigh_by: What batches count by, where it is not equally: an attribute or a method of the module.
        keep_gradients: Whether a checkpoint in mid-window holds the gradients gathered so far.

    Raises:
        SolverError: A setting that makes no sense, or another one for accumulation beside it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientAccumulation(4)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        batches: Amount | None = None,
        *,
        samples: Amount | None = None,
        weigh_by: str | None = None,
        keep_gradients: bool = False,
    ) -> None:
        super().__init__()
        if batches is None and samples is None:
            do = "give one of them, as in GradientAccumulation(4)"
            raise SolverError(self.where, "is given neither batches nor samples", do=do)
        try:
            self._given = Accumulation(batches, samples, weigh_by, keep_gradients)
        except SolverError as error:
            raise error.moved("Accumulation", self.where) from None

    @property
    def where(self) -> str:
        return "GradientAccumulation"

    def accumulation(self, module: Any) -> Accumulation:
        return self._given
