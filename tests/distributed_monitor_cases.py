"""Monitoring in two processes; started as the cases of distributed_cases.py are."""

from __future__ import annotations

import csv
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils.data import DataLoader, DistributedSampler

from lightning_solver.callbacks.monitor import SolverMonitor
from lightning_solver.clipping import GlobalNorm
from small import Net, Numbers, spec, trainer
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

SERIES = ("grad_norm", "grad_norm_clipped", "update_ratio", "lr/backbone", "steps", "clip_share", "samples_per_step")


class Sharded(Net):
    def configure_model(self) -> None:
        if not type(self.head).__name__.startswith("FSDP"):
            assert self.device_mesh is not None
            mesh = self.device_mesh["data_parallel"]
            for module in (self.backbone, self.head, self):
                fully_shard(module, mesh=mesh)


def fit(cls: type[Net], solver: Any, batch_size: int, folder: Path, *others: Callback, **kwargs: Any) -> Any:
    """Two processes take every other sample each: two batches of theirs are one of a single process."""
    torch.manual_seed(0)
    numbers, sampler = Numbers(48), None
    if kwargs:
        sampler = DistributedSampler(numbers, num_replicas=2, rank=int(os.environ["RANK"]), shuffle=False)
    monitor = SolverMonitor(every=3, update_ratio=True, per_group=True)
    logger = CSVLogger(folder, name="", version="")
    run = trainer(callbacks=[monitor, *others], logger=logger, max_epochs=2, **kwargs)
    run.fit(cls(solver), DataLoader(numbers, batch_size=batch_size, sampler=sampler))
    return monitor


def alike(one: Any, other: Any) -> None:
    for name in (*SERIES, *(f"{head}/{group}" for head in ("grad_norm", "update_ratio") for group in GROUPS)):
        a, b = one.history(name).values, other.history(name).values
        assert [step for step, _ in a] == [step for step, _ in b] == [0, 2, 5, 8, 11], name
        torch.testing.assert_close([v for _, v in a], [v for _, v in b], rtol=1e-4, atol=1e-7, msg=f"{name} {a} {b}")


GROUPS = ("backbone", "default")


def compare(cls: type[Net], folder: Path, strategy: Any) -> None:
    """What two processes log is what one logs with batches twice as large, and the first process alone writes it."""
    clip = spec(clip=GlobalNorm(0.5))
    rank = os.environ["RANK"]
    alone = fit(Net, clip, 8, folder / f"alone{rank}")
    together = fit(cls, clip, 4, folder / "together", strategy=strategy, devices=2)
    alike(alone, together)
    torch.distributed.barrier()
    with (folder / "together" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["steps"]]
    assert [int(row["step"]) for row in rows] == [0, 2, 5, 8, 11]
    assert [float(row["grad_norm"]) for row in rows] == [value for _, value in alone_or(together, "grad_norm")]


def alone_or(monitor: Any, name: str) -> list[tuple[int, float]]:
    """The values of the first process, which are the same in the others up to the last digit."""
    values = torch.tensor([value for _, value in monitor.history(name).values], dtype=torch.float64)
    torch.distributed.broadcast(values, 0)
    return [(step, value) for (step, _), value in zip(monitor.history(name).values, values.tolist())]


def ddp(folder: Path) -> None:
    compare(Net, folder, DDPStrategy())


def fsdp2(folder: Path) -> None:
    compare(Sharded, folder, ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1))


def fsdp2_silent(folder: Path) -> None:
    """Nothing is sent between processes in a step that is not logged, and one that ends early waits for nobody."""

    class Count(Callback):
        def __init__(self) -> None:
            self.calls: list[int] = []

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.mode = CommDebugMode()
            self.mode.__enter__()

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.mode.__exit__(None, None, None)
            self.calls.append(self.mode.get_total_counts())
            if trainer.global_step == 5:
                trainer.should_stop = True

    count = Count()
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    torch.manual_seed(0)
    monitor = SolverMonitor(every=3)
    run = trainer(callbacks=[count, monitor], max_epochs=2, strategy=strategy, devices=2)
    run.fit(Sharded(spec()), DataLoader(Numbers(48), batch_size=4))
    assert [calls > 0 for calls in count.calls] == [True, False, True, False, False], count.calls
    assert [step for step, _ in monitor.history("steps").values] == [0, 2, 4]


if __name__ == "__main__":
    run_cases(globals())
