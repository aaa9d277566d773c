"""Turns with two processes; test_manual.py starts it: ``python -m torch.distributed.run ... manual_cases.py``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from lightning_solver import SolverError
from lightning_solver.clipping import GlobalNorm
from small import Numbers, trainer
from test_manual import PARTS, Each, Gan, made, one, two, weights

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


def run(net: Any, batch_size: int, **kwargs: Any) -> Any:
    numbers = Numbers(48)
    sampler = None
    if kwargs:  # each process takes every other sample: two batches of theirs are one of a single process
        sampler = DistributedSampler(numbers, num_replicas=2, rank=int(os.environ["RANK"]), shuffle=False)
    fit = trainer(max_epochs=2, **kwargs)
    fit.fit(net, DataLoader(numbers, batch_size=batch_size, sampler=sampler))
    return fit


def many(**kwargs: Any) -> dict[str, Any]:
    return {"strategy": DDPStrategy(**{"find_unused_parameters": True, **kwargs}), "devices": 2}


def the_processes_agree(net: Any) -> None:
    mine = torch.cat([tensor.flatten() for tensor in weights(net).values()])
    all_of_them = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(all_of_them, mine)
    assert torch.equal(*all_of_them)


def turns() -> None:
    """Two processes make the steps of one with batches twice as large; each with windows, clipping and its own pace."""
    clip = GlobalNorm(0.5)
    solver = two(generator=one(accumulate=3, clip=clip), discriminator=one(accumulate=2, clip=clip))

    def step(net: Any, batch: Any, batch_idx: int) -> None:
        for name in PARTS:
            with net.solver_turn(name) as turn:
                synchronised.append(turn.step(net.loss_of(name, batch)))

    synchronised: list[bool] = []
    alone, together = made(Each, step, solver), made(Each, step, solver)
    run(alone, 8)
    synchronised.clear()
    fit = run(together, 4, **many())
    assert synchronised[:6] == [False, False, False, True, True, False]
    assert fit.global_step == 4 + 6 == sum(part.scheduler.last_epoch for part in together.solver_parts.values())
    assert together.used == alone.used
    the_processes_agree(together)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=1e-4, atol=1e-6)


def none() -> None:
    """The processes would wait for each other for ever."""

    def step(net: Any, batch: Any, batch_idx: int) -> None:
        with net.solver_turn("generator") as turn:
            turn.step(None)

    with pytest.raises(SolverError, match="generator: the processes wait for each other's gradients; got None; give a"):
        run(made(Each, step), 4, **many())


def plain() -> None:
    net = made(Gan)
    run(net, 4, **many())
    the_processes_agree(net)
    for name, plan in net.solver_plans.items():
        assert net.used[name] == plan.curve("lr").tolist()


class Sharded(Gan):
    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for module in (self.generator, self.discriminator):
            fully_shard(module, mesh=self.device_mesh["data_parallel"])


def sharded() -> None:
    """FSDP2 does not see that a parameter requires no gradient for a while."""
    solver = {name: one(accumulate=2, clip=GlobalNorm(0.5)) for name in PARTS}
    alone, together = made(Gan, solver), made(Sharded, solver)
    run(alone, 8)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    run(together, 4, strategy=strategy, devices=2)
    assert together.used == alone.used
    for name, tensor in weights(alone).items():
        whole: Any = dict(together.named_parameters())[name]
        torch.testing.assert_close(whole.full_tensor().detach(), tensor, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    turns()
    plain()
    sharded()
    none()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of the process group may abort an orderly exit of the interpreter, after all is said and done
