"""Random-number state in checkpoints, which Lightning leaves out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_solver.errors import SolverError

_KEY = "lightning_solver_random_state"


class RandomState(Callback):
    """Saves the state of every random-number generator, of every process, and restores it on resume.

    With it a run that was stopped and resumed draws the numbers that the straight run would have drawn: shuffling,
    augmentation and dropout go on as if nothing had happened. Between epochs that holds for any loader without workers
    of its own. In mid-epoch the loader must be stateful (``state_dict`` and ``load_state_dict``), as torchdata's
    ``StatefulDataLoader`` is: a plain one starts the epoch anew, and Lightning says so.

    Covers Python's ``random``, numpy's legacy generator, torch on the CPU and on every CUDA device of the process. What
    it saves loads with ``weights_only=True``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RandomState()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._in_epoch = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch has begun, none of its batches has been fetched."""
        self._in_epoch = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember whether more batches of this epoch follow."""
        self._in_epoch = not trainer.is_last_batch

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Collect the state of every process; a collective call, as saving a checkpoint is."""
        own = random_state()
        states: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, own)
        checkpoint[_KEY] = {"states": states, "in_epoch": self._in_epoch}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the state until the loader is about to be iterated."""
        self._restored = checkpoint.get(_KEY)
        if self._restored is not None and len(self._restored["states"]) != trainer.world_size:
            got = f"states of {len(self._restored['states'])} processes, {trainer.world_size} now"
            do = "resume with as many processes, or without the RandomState callback"
            raise SolverError(
                "RandomState", "the checkpoint was written by another number of processes", got=got, do=do
            )
        self._apply(trainer)  # strategies that restore late do so after on_fit_start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The iterator of the first epoch is made next: between epochs it must find the saved state."""
        self._apply(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The iterator has been made, and may have drawn: in mid-epoch the saved state is that of the next batch."""
        if self._restored is not None and self._restored["in_epoch"]:
            self._apply(trainer)
        self._restored = None

    def _apply(self, trainer: Trainer) -> None:
        if self._restored is not None:
            set_random_state(self._restored["states"][trainer.global_rank])


def random_state() -> dict[str, Any]:
    """The state of this process's generators, as data that loads with ``weights_only=True``."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
