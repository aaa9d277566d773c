"""Running statistics of normalisation layers, averaged over the processes of a run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from lightning_solver.averaging.batch_norm import norm_layers
from lightning_solver.averaging.weight_sets import WeightSets
from lightning_solver.callbacks.order import take_places
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.logs import report
from lightning_solver.rules.inventory import own_name
from lightning_solver.sharding import local

_WHERE = "SyncNormStatistics"


class SyncNormStatistics(Callback):
    """Gives all processes the same running statistics of batch norms: the mean of those that each has gathered.

    It acts at the end of each training epoch and before each validation within ``fit``, so that what is validated is
    what is saved, whichever process saves it. MMEngine calls this ``SyncBuffersHook``. It is for processes that keep
    statistics of their own: FSDP2, and DDP with ``DDPStrategy(broadcast_buffers=False)``; by default DDP gives all
    processes those of the first one before every batch. Averages of the weights have their own statistics, which are
    averaged too. With ``sync_batchnorm=True`` there is nothing to do, nor is there with one process.

    A running variance is the mean of the variances, as within one process it is that of the variances of batches.

    Args:
        also: Globs of the names of further floating-point buffers; ``"*"`` is all of them.

    Raises:
        SolverError: A glob that matches no floating-point buffer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SyncNormStatistics()], logger=False, enable_checkpointing=False)
    """

    role = "norms"

    def __init__(self, also: str | Sequence[str] = ()) -> None:
        self._also = (also,) if isinstance(also, str) else tuple(also)
        self._moved = False

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        self._moved = False
        take_places(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what would make it useless."""
        found = statistics_of(pl_module, self._also)
        if trainer.world_size == 1:
            return
        wrapper = trainer.strategy.model
        if not found:
            report(f"{_WHERE} has nothing to do: no statistics differ between processes")
        elif isinstance(wrapper, DistributedDataParallel) and wrapper.broadcast_buffers:
            lost = "before every batch DDP puts the first process's statistics into the place of the others'"
            report(f"{_WHERE}: {lost}: use DDPStrategy(broadcast_buffers=False)")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Statistics may have moved."""
        self._moved = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is validated is the same in all processes; a collective call."""
        self._average(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where no validation came before; a collective call."""
        self._average(trainer, pl_module)

    def _average(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._moved or trainer.world_size == 1 or trainer.state.fn != "fit":
            return
        self._moved = False
        mesh: Any = module.device_mesh
        # Processes that share a layer between them (tensor parallelism) have different parts of it.
        names = getattr(mesh, "mesh_dim_names", None) or ()
        group = mesh["data_parallel"].get_group() if "data_parallel" in names else None
        average_statistics(module, also=self._also, group=group, device=trainer.strategy.root_device)


def average_statistics(
    module: nn.Module,
    *,
    also: Sequence[str] = (),
    group: Any = None,
    device: torch.device | None = None,
) -> int:
    """Average the running statistics of a module over processes, in place; a collective call.

    Statistics that are the same everywhere stay as they are, bit for bit.

    Args:
        module: The module. If callbacks keep averages of its weights, the statistics of these are averaged too.
        also: Globs of the names of further floating-point buffers.
        group: The processes; all of them by default.
        device: Where the processes can exchange tensors; that of the first statistic by default.

    Returns:
        The number of tensors that were averaged; 0 without several processes.

    Raises:
        SolverError: A glob that matches no floating-point buffer.
    """
    found = statistics_of(module, also)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    if not found or torch.distributed.get_world_size(group) == 1:
        return 0
    tensors = _with_averages(module, [*found.values()])
    _average_over_processes(tensors, group, tensors[0].device if device is None else device)
    return len(tensors)


def statistics_of(module: nn.Module, also: Sequence[str] = ()) -> dict[str, Tensor]:
    """The statistics of a module that may differ between processes, by name.

    Those are the running means and variances of batch norms and of instance norms that track them, but for a
    ``SyncBatchNorm`` over all processes.

    Args:
        module: The module.
        also: Globs of the names of further floating-point buffers.

    Raises:
        SolverError: A glob that matches no floating-point buffer.

    Example:
        >>> [*statistics_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))]
        ['1.running_mean', '1.running_var']
    """
    buffers = {own_name(name): buffer for name, buffer in module.named_buffers()}
    known = {name: one for name, one in buffers.items() if not is_lazy(one) and one.is_floating_point()}
    ours = {id(one) for layer in norm_layers(module) if not _synchronised(layer) for one in layer.buffers()}
    chosen = {name for name, buffer in known.items() if id(buffer) in ours}
    for pattern in also:
        matches = re.compile(fnmatch.translate(pattern)).match
        hits = {name for name in known if matches(name)}
        if not hits:
            do = suggestion(pattern, known, "floating-point buffers") if known else "leave it out"
            raise SolverError(f"{_WHERE}.also", "matches no floating-point buffer", got=repr(pattern), do=do)
        chosen |= hits
    return {name: buffer for name, buffer in known.items() if name in chosen}


def _synchronised(layer: nn.Module) -> bool:
    """Whether a layer gathers the same statistics in all processes."""
    if not isinstance(layer, SyncBatchNorm):
        return False
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if layer.process_group is None or not several:
        return True
    return torch.distributed.get_world_size(layer.process_group) == torch.distributed.get_world_size()


def _with_averages(module: nn.Module, statistics: Iterable[Tensor]) -> list[Tensor]:
    """Statistics and those that averages of the weights have in their place, each memory once."""
    with torch.no_grad():
        found = [local(one) for one in statistics]
        known = {id(one) for one in statistics}
        sets = WeightSets.of(module)
        for averaged in () if sets is None else sets.averaged.values():
            for tensor, value, weight in zip(averaged.tensors, averaged.values, averaged.weights):
                found += [value, weight] if id(tensor) in known else []
    return [*{one.data_ptr(): one for one in found if one.numel()}.values()]


@torch.no_grad()
def _average_over_processes(tensors: Sequence[Tensor], group: Any, device: torch.device) -> None:
    """One sum for all, in float64: the mean of equal numbers of any narrower type is that number again."""
    joined = torch.cat([one.reshape(-1).to(device, torch.float64) for one in tensors])
    torch.distributed.all_reduce(joined, group=group)
    joined /= torch.distributed.get_world_size(group)
    for one, mean in zip(tensors, torch.split(joined, [one.numel() for one in tensors])):
        one.copy_(mean.reshape(one.shape))
