"""How many optimiser steps a Trainer will make, and where its epochs end.

The Trainer's own ``estimated_stepping_batches`` does not account for accumulation that changes with the epoch, and
gives -1 for a loader without a length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lightning_solver.accumulation import Accumulates, Windows
from lightning_solver.durations import RunLength

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_WAYS_OUT = "give the Trainer max_steps, or limit_train_batches as a number of batches beside max_epochs"
_NOTHING = "max_steps or max_epochs is 0, so that there is nothing to train"
_NO_BATCHES = "there are no train batches: set limit_train_batches above 0"
_NO_LENGTH = f"the train loader has no length and max_steps is not set: {_WAYS_OUT}"
_NO_END = f"neither max_epochs nor max_steps ends the run (max_time counts no steps): {_WAYS_OUT}"


def trainer_run_length(trainer: Trainer) -> RunLength:
    """The length of the run that ``trainer.fit`` is about to make, in optimiser steps.

    Called in ``configure_optimizers``, when the Trainer knows its module and data. Right under ``max_epochs``,
    ``max_steps``, constant and epoch-wise accumulation, a short last window, limits, ``fast_dev_run`` and distributed
    samplers. ``total_steps`` is ``None``, with the reason in ``unknown``, where nothing says when the run ends.
    """
    max_steps = trainer.max_steps if trainer.max_steps != -1 else None
    max_epochs = trainer.max_epochs if trainer.max_epochs not in (-1, None) else None
    batches, samples = _look_at_batches(trainer)
    windows = accumulation_windows(trainer, samples)
    if 0 in (max_steps, max_epochs):
        return RunLength(unknown=_NOTHING)
    if batches == 0:
        return RunLength(unknown=_NO_BATCHES)
    if batches is None:
        unknown = None if max_steps else _NO_LENGTH
        return RunLength(
            total_steps=max_steps,
            unknown=unknown,
            batches_per_step=windows.constant,
            samples_per_step=_samples_per_step(windows, samples),
        )
    ends = _epoch_ends(trainer, windows, batches, max_epochs, max_steps)
    whole_only = trainer.strategy.handles_gradient_accumulation
    limits = [limit for limit in (max_steps, None if max_epochs is None else ends[max_epochs - 1]) if limit is not None]
    return RunLength(
        total_steps=min(limits) if limits else None,
        epoch_ends=ends,
        batches_per_step=windows.constant,
        samples_per_step=_samples_per_step(windows, samples),
        batches_per_epoch=batches if windows.constant and batches % windows.constant and not whole_only else None,
        unknown=None if limits else _NO_END,
    )


def manual_run_lengths(trainer: Trainer, batches_per_step: Mapping[str, Fraction]) -> dict[str, RunLength]:
    """The length of the run under manual optimisation, for each optimiser in its own steps.

    ``max_steps`` counts the steps of all optimisers together there, and ends the run after the batch that reaches it.
    An optimiser's steps are the batches by ``batches_per_step``, a begun step counted as a whole one: so a phase that
    lasts all epochs ends within the run.

    Args:
        trainer: The Trainer that is about to fit.
        batches_per_step: Name of an optimiser -> how many batches one of its steps takes.
    """
    max_steps = trainer.max_steps if trainer.max_steps != -1 else None
    max_epochs = trainer.max_epochs if trainer.max_epochs not in (-1, None) else None
    per_epoch, samples = _look_at_batches(trainer)
    unknown = None
    if 0 in (max_steps, max_epochs):
        unknown = _NOTHING
    elif per_epoch == 0:
        unknown = _NO_BATCHES
    elif per_epoch is None and not max_steps:
        unknown = _NO_LENGTH
    elif max_steps is None and max_epochs is None:
        unknown = _NO_END
    batches = None
    if unknown is None:
        limits = [] if max_steps is None else [_batches_of(max_steps, batches_per_step)]
        limits += [] if max_epochs is None or per_epoch is None else [max_epochs * per_epoch]
        batches = min(limits)
    return {
        name: RunLength(
            total_steps=None if batches is None else math.ceil(batches / each),
            steps_per_epoch=per_epoch / each if per_epoch else None,
            batches_per_step=each,
            # Whether a step of several batches is made of all of them or of the last one only, nobody can tell here.
            samples_per_step=samples if each == 1 else None,
            unknown=unknown,
        )
        for name, each in batches_per_step.items()
    }


def _batches_of(steps: int, batches_per_step: Mapping[str, Fraction]) -> int:
    """After how many batches all optimisers together have made so many steps."""
    each = batches_per_step.values()
    batches = max(math.floor((steps - len(each)) / sum(1 / one for one in each)), 1)
    while sum(math.ceil(batches / one) for one in each) < steps:
        batches += 1
    return batches


def _look_at_batches(trainer: Trainer) -> tuple[int | None, int | None]:
    """Train batches of an epoch on this device, and samples of a batch over all; ``None`` where the loader is silent.

    Both at once: a loader that was set up to be looked at may have to be forgotten.
    """
    if trainer.limit_train_batches == 0:
        return 0, None
    early = trainer.train_dataloader is None
    if early:
        trainer.fit_loop.setup_data()
    batches, samples = trainer.num_training_batches, samples_per_batch(trainer)
    if early and trainer.ckpt_path is not None:
        forget_loader(trainer)
    return None if batches == math.inf else int(batches), samples


def forget_loader(trainer: Trainer) -> None:
    """Let the Trainer set up its train loader anew, as its learning-rate finder does.

    To count batches, a loader has to be set up before a checkpoint is restored; but the position of a stateful loader
    is restored only into one that is not set up yet.
    """
    trainer.fit_loop._combined_loader = None


def _epoch_ends(
    trainer: Trainer, windows: Windows, batches: int, max_epochs: int | None, max_steps: int | None
) -> list[int]:
    """Steps taken when each epoch ends, the last one in full even if max_steps cuts it short.

    Without ``max_epochs``, as many epochs as ``max_steps`` takes, and as many as accumulation needs to settle.
    """
    ends: list[int] = []
    settled = math.floor(windows.starts[-1]) + 1 if windows.unit == "ep" else 1
    settles_at = windows.starts[-1] if windows.unit == "st" else 0
    # The last window of an epoch steps even if it is short, unless the strategy itself accumulates.
    whole_only = trainer.strategy.handles_gradient_accumulation
    while (
        len(ends) < max_epochs
        if max_epochs is not None
        else len(ends) < settled or ends[-1] < max(max_steps or 0, settles_at)
    ):
        begin = ends[-1] if ends else 0
        ends.append(begin + windows.steps_in_epoch(begin, len(ends), batches, whole_only=whole_only))
    return ends


def accumulation_windows(trainer: Trainer, samples: int | None = None) -> Windows:
    """How many batches make a step in a run: what a callback says, or the Trainer's own setting.

    Args:
        trainer: The Trainer.
        samples: Samples of a batch over all devices, for a target in samples.

    Raises:
        SolverError: A target in samples that no whole number of batches makes.
    """
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Accumulates):
            own = callback.accumulation(trainer.lightning_module)
            if own is not None:
                return own.windows(samples, callback.where)
    for callback in callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            pairs = sorted(callback.scheduling.items())
            return Windows("ep", tuple(Fraction(epoch) for epoch, _ in pairs), tuple(size for _, size in pairs))
    return Windows("st", (Fraction(0),), (trainer.accumulate_grad_batches,))


def samples_per_batch(trainer: Trainer) -> int | None:
    """Samples of a batch over all devices that have batches of their own; ``None`` where the loader does not say."""
    if trainer.train_dataloader is None:
        return None
    loader: Any = trainer.train_dataloader
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        return None
    return size * replicas(trainer)


def replicas(trainer: Trainer) -> int:
    """How many processes have batches of their own."""
    sampling: Any = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return int(sampling.get("num_replicas", trainer.world_size))


def _samples_per_step(windows: Windows, batch: int | None) -> int | None:
    """Samples of an optimiser step, where every step has as many batches."""
    return None if batch is None or windows.constant is None else batch * windows.constant
