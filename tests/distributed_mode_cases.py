"""Cases of test_optimizer_mode.py that need two processes, as those of distributed_cases.py do."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_solver import SolverError
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from small import Numbers, trainer

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


def full(tensor: Any) -> Tensor:
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return value.detach().clone()


def weights(net: nn.Module) -> list[Tensor]:
    return [full(p) for p in net.parameters()]


class Net(LightningModule):
    foreach = True
    sharded = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.root = nn.Parameter(torch.ones(8))  # FSDP2 keeps it gathered after a forward
        self.trained: list[list[Tensor]] = []
        self.seen: list[list[Tensor]] = []
        self.losses: list[Tensor] = []

    def configure_model(self) -> None:
        if self.sharded and not type(self.first).__name__.startswith("FSDP"):
            assert self.device_mesh is not None
            mesh = self.device_mesh["data_parallel"]
            for module in (self.first, self.second, self):
                fully_shard(module, mesh=mesh)

    def forward(self, batch: Tensor) -> Tensor:
        return self.root * self.second(self.first(batch).tanh())

    def on_train_batch_start(self, *args: Any) -> None:
        self.trained.append(weights(self))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self(batch) - batch).square().mean()
        self.losses.append(loss.detach().clone())
        return loss

    def on_validation_start(self) -> None:
        self.seen.append(weights(self))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.losses.append((self(batch) - batch).square().mean().detach().clone())

    def configure_optimizers(self) -> Any:
        return schedulefree.AdamWScheduleFree(self.parameters(), lr=0.05, weight_decay=0.1, foreach=self.foreach)


class Sharded(Net):
    sharded = True


def data(batches: int = 6) -> Any:
    """The same batch for every process and step."""
    return DataLoader([*Numbers(4)] * batches, batch_size=4, shuffle=False)  # type: ignore[arg-type]


def run(
    cls: type[Net], strategy: Any, *callbacks: Callback, ckpt: Any = None, devices: int = 2, **kwargs: Any
) -> tuple[Net, Any]:
    net = cls()
    options = {
        "max_epochs": 2,
        "val_check_interval": 2,
        "limit_val_batches": 1,
        "use_distributed_sampler": False,
        **kwargs,
    }
    fit = trainer(strategy=strategy, devices=devices, callbacks=[OptimizerMode(), *callbacks], **options)
    fit.fit(net, data(), data(2), ckpt_path=ckpt, weights_only=True)
    return net, fit


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b):
        for x, y in zip(one, other):
            assert torch.equal(x, y)


def close(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def alone() -> Net:
    """The same run in this process alone; every process has the same batches, so that nothing else changes."""
    net = Net()
    optimizer = net.configure_optimizers()
    batch = next(iter(data()))
    for _ in range(2):
        for step in range(6):
            optimizer.train()
            net.trained.append(weights(net))
            loss = net.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 2:
                optimizer.eval()
                net.seen.append(weights(net))
                with torch.no_grad():
                    net.validation_step(batch, 0)
    return net


def resumes(cls: type[Net], strategy: Any, folder: Path) -> None:
    straight, _ = run(cls, strategy(), num_sanity_val_steps=0)
    plain = alone()
    close([t for step in straight.trained for t in step], [t for step in plain.trained for t in step])
    close([t for step in straight.seen for t in step], [t for step in plain.seen for t in step])
    close(straight.losses, plain.losses)
    for step in (3, 6):
        keep = ModelCheckpoint(folder / str(step), every_n_train_steps=step, save_top_k=-1, filename="{step}")
        saving, _ = run(cls, strategy(), keep, enable_checkpointing=True, num_sanity_val_steps=0)
        same(straight.trained, saving.trained)
        path = folder / str(step) / f"step={step}.ckpt"
        resumed, _ = run(cls, strategy(), ckpt=path)
        same(straight.trained[step:], resumed.trained)
        same([weights(straight)], [weights(resumed)])
        if path.is_file():
            kept = torch.load(path, weights_only=True)["state_dict"]
            if step == 6:
                same([straight.seen[2]], [[*(kept[name] for name, _ in straight.named_parameters())]])


def ddp(folder: Path) -> None:
    resumes(Net, DDPStrategy, folder)


def two_shards(**kwargs: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, **kwargs)


def fsdp2_full(folder: Path) -> None:
    resumes(Sharded, partial(two_shards, save_distributed_checkpoint=False), folder)


def fsdp2_sharded(folder: Path) -> None:
    resumes(Sharded, partial(two_shards, save_distributed_checkpoint=True), folder)


def fsdp2_without(folder: Path) -> None:
    """Checkpoints that were written without the callback: a full one is resumed, a sharded one refused."""

    class ByHand(Sharded):
        def on_train_start(self) -> None:
            self.trainer.optimizers[0].train()  # type: ignore[attr-defined]

    straight, _ = run(Sharded, two_shards(), num_sanity_val_steps=0)
    for kind in ("full", "sharded"):
        net = ByHand()
        strategy = partial(two_shards, save_distributed_checkpoint=kind == "sharded")
        fit = trainer(strategy=strategy(), devices=2, max_epochs=1, use_distributed_sampler=False, limit_val_batches=0)
        fit.fit(net, data())
        fit.save_checkpoint(folder / kind)
    resumed, _ = run(Sharded, two_shards(), ckpt=folder / "full")
    close([t for step in straight.trained[6:] for t in step], [t for step in resumed.trained for t in step])
    with pytest.raises(SolverError, match="ckpt_path: the sharded checkpoint was written without OptimizerMode"):
        run(Sharded, two_shards(), ckpt=folder / "sharded")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of the process group may abort an orderly exit of the interpreter
