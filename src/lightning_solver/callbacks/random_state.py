"""Random-number state in checkpoints, which Lightning leaves out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from lightning_solver.callbacks.order import take_places
from lightning_solver.errors import SolverError

_KEY = "lightning_solver_random_state"


class RandomState(Callback):
    """Saves the state of every random-number generator, of every process, and restores it on resume.

    With it a run that was stopped and resumed draws the numbers that the straight run would have drawn: shuffling,
    augmentation and dropout go on as if nothing had happened. Between epochs that holds for any loader. In mid-epoch
    the loader must be stateful (``state_dict`` and ``load_state_dict``), as torchdata's ``StatefulDataLoader`` is: a
    plain one starts the epoch anew, and Lightning says so. With several processes give a stateful loader its
    ``DistributedSampler`` yourself; its order comes from its own seed, which must not change.

    Covers Python's ``random``, numpy's legacy generator, torch on the CPU and on every CUDA device of the process. What
    it saves loads with ``weights_only=True``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RandomState()], logger=False, enable_checkpointing=False)
    """

    role = "random"

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._loader_states: list[dict[str, Any]] = []
        self._in_epoch = False

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        take_places(trainer)

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
        """Keep the state until training starts."""
        self._restored = checkpoint.get(_KEY)
        if self._restored is None:
            return
        if len(self._restored["states"]) != trainer.world_size:
            got = f"states of {len(self._restored['states'])} processes, {trainer.world_size} now"
            do = "resume with as many processes, or without the RandomState callback"
            what = "the checkpoint was written by another number of processes"
            raise SolverError("RandomState", what, got=got, do=do)
        loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._loader_states = loop.get("combined_loader", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state now that the loader's iterator has been made, for making one may draw random numbers."""
        restored, self._restored = self._restored, None
        if restored is None:
            return
        # Lightning restores a stateful loader before it tells the sampler the epoch, and only in mid-epoch, though the
        # sampler may have a generator of its own. It has no public way to ask for an iterator.
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        for loader in loaders:
            _set_epoch(loader, trainer.current_epoch)
        stateful = [loader for loader in loaders if _is_stateful(loader)]
        for loader, state in zip(stateful, self._loader_states):
            loader.load_state_dict(state)
        if stateful:
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        set_random_state(restored["states"][trainer.global_rank])
        if not restored["in_epoch"]:
            # the straight run made the iterator of its next epoch with the saved state
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]


def _is_stateful(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of a loader which epoch it is; distributed ones shuffle by it."""
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        sampler: Any = getattr(holder, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


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
