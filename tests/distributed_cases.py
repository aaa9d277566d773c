"""Cases that need two processes; test_distributed.py starts them: ``python -m torch.distributed.run ... CASE FOLDER``.

Each case asserts on every process and fails the launch if one of them fails.
"""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import Rule, SolverError, SolverSpec
from lightning_solver.callbacks import RandomState
from lightning_solver.schedules import Linear, Plateau, Product
from small import Net, Numbers, loader, spec, trainer
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


class Sharded(Net):
    def configure_model(self) -> None:
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for module in (self.backbone, self.head):
            if type(module).__name__.startswith("FSDP"):
                return
            fully_shard(module, mesh=mesh)
        fully_shard(self, mesh=mesh)


class OwnNumbers(Callback):
    """Each process draws numbers of its own, and a resumed run others than the first one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        torch.manual_seed(100 * self.seed + trainer.global_rank)


class StopAfterSteps(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def two_shards(**kwargs: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, **kwargs)


def full(tensor: Any) -> torch.Tensor:
    value: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return value.detach().clone()


def weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: full(tensor) for name, tensor in net.named_parameters()}


def moments(fit: Any, net: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = fit.optimizers[0].state
    return {name: full(state[tensor]["exp_avg"]) for name, tensor in net.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run(
    cls: type[Net],
    strategy: Any,
    *,
    solver: SolverSpec | None = None,
    callbacks: tuple[Callback, ...] = (),
    ckpt: Path | None = None,
    seed: int = 1,
    stateful: bool = False,
    length: int = 42,
    save: Path | None = None,
    **kwargs: Any,
) -> tuple[Net, Any]:
    seed_everything(1, verbose=False)  # a distributed sampler takes its order from here, on resume too
    net = cls(solver or spec(), dropout=0.2)
    fit = trainer(strategy=strategy, devices=2, callbacks=[OwnNumbers(seed), *callbacks], **{"max_epochs": 3, **kwargs})
    numbers = Numbers(length, noise=True)
    data: Any = DataLoader(numbers, batch_size=4, shuffle=True)
    if stateful:
        sampler = DistributedSampler(numbers, num_replicas=2, rank=int(os.environ["RANK"]), seed=3)
        data = StatefulDataLoader(numbers, batch_size=4, sampler=sampler)
    fit.fit(net, data, ckpt_path=ckpt, weights_only=True)
    if save is not None:
        fit.save_checkpoint(save)
    return net, fit


def follows_the_plan(net: Net, fit: Any) -> None:
    assert net.solver_plan is not None
    assert fit.global_step == net.solver_plan.run.total_steps == len(net.used)
    assert net.used == net.solver_plan.curve("lr").tolist()


def ddp_uneven(folder: Path) -> None:
    """41 samples on two processes are 21 each, 6 batches of at most 4."""
    net, fit = run(Net, DDPStrategy(), length=41)
    follows_the_plan(net, fit)
    assert fit.global_step == 18
    net, fit = run(Net, DDPStrategy(), length=41, accumulate_grad_batches=4)
    follows_the_plan(net, fit)
    assert fit.global_step == 6
    mine = torch.cat([tensor.flatten() for tensor in weights(net).values()])
    all_of_them = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(all_of_them, mine)
    assert torch.equal(*all_of_them)


def ddp_resume(folder: Path) -> None:
    """Every process gets its own random numbers back, in mid-epoch and between epochs."""
    straight, fit = run(Net, DDPStrategy(), callbacks=(RandomState(),), stateful=True, length=48)
    for step in (5, 8, 12):
        keep = ModelCheckpoint(folder / str(step), every_n_train_steps=step, save_top_k=-1, filename="x")
        extra = {"enable_checkpointing": True, "stateful": True, "length": 48}
        run(Net, DDPStrategy(), callbacks=(RandomState(), keep, StopAfterSteps(step)), **extra)
        path = folder / str(step) / "x.ckpt"
        states = torch.load(path, weights_only=True)["lightning_solver_random_state"]["states"]
        assert not torch.equal(states[0]["torch"], states[1]["torch"])
        resumed, again = run(
            Net, DDPStrategy(), callbacks=(RandomState(),), ckpt=path, seed=77, stateful=True, length=48
        )
        same(weights(straight), weights(resumed))
        same(moments(fit, straight), moments(again, resumed))
        assert straight.used[step:] == resumed.used


def ddp_plateau(folder: Path) -> None:
    """The processes log other values of a metric; all take the same decision, by the mean of them."""
    own = [[1.0, 1.0, 0.5, 0.5, 0.5], [1.0, 0.6, 1.1, 1.1, 1.1]][int(os.environ["RANK"])]  # mean 1.0, 0.8 ...

    class Judged(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 9.0 if self.trainer.sanity_checking else own[self.trainer.current_epoch])

    schedule = Product([Linear(end=0.5), Plateau("val_loss", factor=0.1, patience=1)])
    torch.manual_seed(0)
    net = Judged(spec(schedules={"lr": schedule}))
    fit = trainer(strategy=DDPStrategy(), devices=2, max_epochs=5)
    fit.fit(net, loader(40), loader(8))
    assert net.solver is not None
    assert net.solver_plan is not None
    bases = [group.options["lr"] for group in net.solver_plan.groups]
    expected = net.solver.curve("lr", bases, total_steps=25, steps_per_epoch=5, metrics=[1.0, 0.8, 0.8, 0.8, 0.8])
    assert net.used == expected.tolist()
    assert net.solver_scheduler is not None
    state = net.solver_scheduler.state_dict()["plateaus"]["schedules.lr.factors[1]"]
    assert state == {"best": pytest.approx(0.8), "bad": 1, "cooldown": 0, "drops": [20]}


def fsdp2(folder: Path) -> None:
    """Sharded training follows the plan; names, kinds and settings are those of the unsharded module."""
    net, fit = run(Sharded, two_shards())
    follows_the_plan(net, fit)
    plain = spec().plan(Net(spec()), total_steps=18)
    sharded = net.solver_plan
    assert sharded is not None
    assert {n: dict(v) for n, v in sharded.parameters.items()} == {n: dict(v) for n, v in plain.parameters.items()}
    assert all(type(tensor).__name__ == "DTensor" for group in sharded.groups for tensor in group.tensors)


def fsdp2_resume(folder: Path) -> None:
    """From a full and from a sharded checkpoint; groups may change in the full one only."""
    for kind in ("full", "sharded"):
        strategy = partial(two_shards, save_distributed_checkpoint=kind == "sharded")
        straight, fit = run(Sharded, strategy(), callbacks=(RandomState(),), length=48)
        keep = ModelCheckpoint(folder / kind, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
        first = (RandomState(), keep, StopAfterSteps(6))
        run(Sharded, strategy(), callbacks=first, length=48, enable_checkpointing=True)
        path = folder / kind / "epoch=0.ckpt"
        resumed, again = run(Sharded, strategy(), callbacks=(RandomState(),), ckpt=path, seed=77, length=48)
        assert straight.used[6:] == resumed.used
        same(weights(straight), weights(resumed))
        same(moments(fit, straight), moments(again, resumed))


def fsdp2_other_groups(folder: Path) -> None:
    class Look(Callback):
        seen: dict[str, torch.Tensor]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.seen = moments(trainer, pl_module)

    other = spec(rules=[Rule(match="head.*", lr_scale=3.0)], default_rules=False)
    net, fit = run(Sharded, two_shards(save_distributed_checkpoint=False), max_epochs=1, save=folder / "full")
    look = Look()
    again, _ = run(Sharded, two_shards(), solver=other, ckpt=folder / "full", max_epochs=2, callbacks=(look,))
    same(moments(fit, net), look.seen)
    assert again.solver_plan is not None
    assert again.used == again.solver_plan.curve("lr")[6:].tolist()

    run(Sharded, two_shards(save_distributed_checkpoint=True), max_epochs=1, save=folder / "sharded")
    # a changed schedule is no change of groups
    changed = spec(schedules={})
    net, fit = run(Sharded, two_shards(), solver=changed, ckpt=folder / "sharded", max_epochs=2)
    assert net.used == net.solver_plan.curve("lr")[6:].tolist()
    more = spec(rules=[Rule(match="head.*", lr_scale=3.0), Rule(match="backbone.1.*", lr_scale=2.0)])
    for regrouped in (other, more):
        message = "grouped in another way than in the sharded checkpoint.*or from a full checkpoint"
        with pytest.raises(SolverError, match=message):
            run(Sharded, two_shards(), solver=regrouped, ckpt=folder / "sharded", max_epochs=2)


def fsdp1(folder: Path) -> None:
    """FSDP1 flattens parameters: names and kinds are right with use_orig_params, and what cannot be is refused."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    settings = {"optimizer": {"name": "AdamW", "args": {"lr": 0.1}}, "rules": [{"match": "0.*", "lr_scale": 0.5}]}
    rules = SolverSpec.from_dict(settings)

    def wrapped(**kwargs: Any) -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        inner = FullyShardedDataParallel(model[0], device_id=torch.device("cpu"), **kwargs)
        model[0] = inner
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **kwargs)

    plan = rules.plan(wrapped(use_orig_params=True), total_steps=3)
    assert [*plan.parameters] == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert [entry["lr"] for entry in plan.parameters.values()] == [0.05, 0.05, 0.1, 0.1, 0.1, 0.1]
    assert [entry["weight_decay"] for entry in plan.parameters.values()] == [0.01, 0, 0, 0, 0.01, 0]
    by_ndim = rules.replace(rules=[Rule(ndim=2, lr_scale=0.5)])
    with pytest.raises(SolverError, match=r"rules\[0\]\.ndim: FSDP1 has flattened the parameters.*or use FSDP2"):
        by_ndim.plan(wrapped(use_orig_params=True), total_steps=3)
    with pytest.raises(SolverError, match=r"FSDP1 has merged the parameters into flat ones.*use_orig_params=True"):
        rules.plan(wrapped(use_orig_params=False), total_steps=3)
    alone = rules.replace(rules=[], default_rules=False).plan(wrapped(use_orig_params=False), total_steps=3)
    assert len(alone.groups) == 1
    optimizer, scheduler = alone.build()
    optimizer.step()
    scheduler.step()


if __name__ == "__main__":
    loader()
    run_cases(globals())
