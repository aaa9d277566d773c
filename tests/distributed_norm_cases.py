"""Statistics of norms in two processes, under DDP and FSDP2; started as the cases of distributed_cases.py are."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_solver.callbacks import EMA
from lightning_solver.callbacks.norm_statistics import SyncNormStatistics, average_statistics
from small import trainer
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

Statistics = dict[str, Tensor]
NAMES = ["norm.running_mean", "norm.running_var"]


def rank() -> int:
    return int(os.environ["RANK"])


def statistics(net: nn.Module) -> Statistics:
    return {name: buffer.detach().clone() for name, buffer in net.named_buffers() if name != "norm.num_batches_tracked"}


def each(found: Statistics) -> list[Statistics]:
    """What each process has."""
    gathered: list[Any] = [None, None]
    torch.distributed.all_gather_object(gathered, found)
    return gathered


def means(found: list[Statistics], names: list[str]) -> Statistics:
    return {name: torch.stack([one[name].double() for one in found]).mean(0).float() for name in names}


def differ(found: Statistics, names: list[str]) -> None:
    one, other = each(found)
    for name in names:
        assert not torch.equal(one[name], other[name]), name


def agree(found: Statistics, names: list[str]) -> None:
    one, other = each(found)
    for name in names:
        assert torch.equal(one[name], other[name]), name


class Net(LightningModule):
    """Each process sees numbers of its own; notes of the statistics when they are looked at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.register_buffer("center", torch.zeros(2))
        self.validated: list[Statistics] = []
        self.losses: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.norm(self.first(inputs)))  # type: ignore[no-any-return]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        out: Tensor = self(batch)
        with torch.no_grad():
            self.center.lerp_(out[0], 0.5)
        return out.square().mean()

    def on_validation_start(self) -> None:
        self.validated.append(statistics(self))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.losses.append(self(torch.ones(3, 4)).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Sharded(Net):
    def configure_model(self) -> None:
        if not type(self.first).__name__.startswith("FSDP"):
            assert self.device_mesh is not None
            mesh = self.device_mesh["data_parallel"]
            for module in (self.first, self.second, self):
                fully_shard(module, mesh=mesh)


class Before(Callback):
    """Notes what there was before the statistics were averaged: it stands in front of the callback that does it."""

    def __init__(self) -> None:
        self.found: list[Statistics] = []

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(statistics(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(statistics(pl_module))


def data(batches: int = 6) -> Any:
    generator = torch.Generator().manual_seed(rank())
    return DataLoader([*torch.randn(5 * batches, 4, generator=generator) + rank()], batch_size=5)  # type: ignore[arg-type]


def run(net: LightningModule, strategy: Any, *callbacks: Callback, **kwargs: Any) -> Any:
    options = {"max_epochs": 2, "use_distributed_sampler": False, "num_sanity_val_steps": 0, **kwargs}
    fit = trainer(strategy=strategy, devices=2, callbacks=[*callbacks], **options)
    fit.fit(net, data(), data(2))
    return fit


def apart() -> DDPStrategy:
    return DDPStrategy(broadcast_buffers=False)


def shards() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)


def averaged(net: Net, strategy: Any, folder: Path) -> None:
    """Different before, equal and the right means after; seen by validation and by the checkpoint of the epoch."""
    before, keep = Before(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    run(net, strategy, before, SyncNormStatistics(), keep, enable_checkpointing=True, val_check_interval=3)
    assert len(net.validated) == 4
    # For each epoch: two validations, and its end, where nothing has moved since.
    validations = [before.found[i] for i in (0, 1, 3, 4)]
    for found, seen in zip(validations, net.validated):
        differ(found, NAMES)
        agree(seen, NAMES)
        for name, mean in means(each(found), NAMES).items():
            assert torch.equal(seen[name], mean), name
    for i in (2, 5):
        agree(before.found[i], NAMES)
    agree(statistics(net), NAMES)
    differ(statistics(net), ["center"])
    agree({"losses": torch.stack(net.losses)}, ["losses"])
    saved = torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"]
    for name in NAMES:
        assert torch.equal(saved[name], net.validated[-1][name])


def ddp(folder: Path) -> None:
    averaged(Net(), apart(), folder)


def fsdp2(folder: Path) -> None:
    averaged(Sharded(), shards(), folder)


def ddp_without_validation(folder: Path) -> None:
    """The end of the epoch is enough, and so is a run that ends in the middle of one."""
    for kwargs in ({"limit_val_batches": 0}, {"limit_val_batches": 0, "max_steps": 8}):
        net, before = Net(), Before()
        run(net, apart(), before, SyncNormStatistics(also="center"), **kwargs)
        names = [*NAMES, "center"]
        assert len(before.found) == 2
        differ(before.found[1], names)
        for name, mean in means(each(before.found[1]), names).items():
            assert torch.equal(statistics(net)[name], mean), name


def ddp_averages(folder: Path) -> None:
    averages_too(Net, apart)


def fsdp2_averages(folder: Path) -> None:
    averages_too(Sharded, shards)


def averages_too(cls: type[Net], strategy: Any) -> None:
    """The statistics of averages of the weights are averaged too, and those of what is trained stay its own."""

    class Seen(Callback):
        def __init__(self) -> None:
            self.values: list[Statistics] = []

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            for name in ("fast", "slow"):
                held = averages[name].averaged[name]
                self.values.append(dict(zip(held.names, [value.clone() for value in held.values])))

    for dtype in ("same", "float32"):
        averages = {
            "fast": EMA(decay=0.5, name="fast", dtype=dtype, evaluated=True),
            "slow": EMA(decay=0.9, name="slow"),
        }
        net, seen, before = cls(), Seen(), Before()
        run(net, strategy(), seen, before, *averages.values(), SyncNormStatistics())  # which acts before them
        fast, slow = seen.values[-2:]
        for found in (fast, slow, before.found[-2]):
            differ(found, NAMES)
        for name, mean in means(each(fast), NAMES).items():
            assert torch.equal(net.validated[-1][name], mean), name
        for name, values in (("fast", fast), ("slow", slow)):
            now = dict(zip(averages[name].averaged[name].names, averages[name].averaged[name].values))
            for key, mean in means(each(values), NAMES).items():
                assert torch.equal(now[key], mean), (name, key)
        held = averages["fast"].averaged["fast"]  # whose values are in the module now
        live = dict(zip(held.names, held.weights))
        for key, mean in means(each(before.found[-2]), NAMES).items():
            assert torch.equal(live[key], mean), key


def ddp_tells(folder: Path) -> None:
    """What makes it useless is said; a SyncBatchNorm is left alone."""
    told: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logging.getLogger("lightning_solver").addHandler(Notes())
    run(Net(), DDPStrategy(), SyncNormStatistics(), max_epochs=1)
    run(Net(), apart(), SyncNormStatistics(), max_epochs=1)
    bare = Net()
    bare.norm = nn.LayerNorm(6)  # type: ignore[assignment]
    run(bare, apart(), SyncNormStatistics(), max_epochs=1)
    synchronised = nn.SyncBatchNorm(3)
    synchronised.running_mean.fill_(rank())  # type: ignore[union-attr]
    assert average_statistics(synchronised) == 0
    assert synchronised.running_mean.eq(rank()).all()  # type: ignore[union-attr]
    expected = [
        "before every batch DDP puts the first process's statistics into the place of the others'",
        "has nothing to do: no statistics differ between processes",
    ]
    assert [part in line for part, line in zip(expected, told)] == ([True, True] if rank() == 0 else [])
    assert len(told) == (2 if rank() == 0 else 0)


def exact(folder: Path) -> None:
    """What is the same in all processes stays as it is; types and shapes do too."""
    net = nn.ModuleList([nn.BatchNorm2d(5).to(dtype) for dtype in (torch.float32, torch.bfloat16)])
    torch.manual_seed(0)
    for layer in net:
        layer.running_mean.uniform_(-1, 1)  # type: ignore[union-attr, operator]
        layer.num_batches_tracked.fill_(3 + rank())  # type: ignore[union-attr, operator]
    before = [buffer.clone() for buffer in net.buffers()]
    assert average_statistics(net) == 4
    assert all(torch.equal(one, other) for one, other in zip(net.buffers(), before))
    net[0].running_var.fill_(1.0 + rank())  # type: ignore[union-attr, operator]
    assert average_statistics(net) == 4
    assert net[0].running_var.eq(1.5).all()  # type: ignore[union-attr, operator]


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    run_cases(globals())
