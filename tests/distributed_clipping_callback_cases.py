"""Clipping in two processes, by the solver and by the callback; test_distributed.py starts them.

Each case asserts on every process and fails the launch if one of them fails.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from clipping_callback_cases import SGD, WAYS, Net, Solved, data, fit, scaler, spec, the_work
from lightning_solver import SolverError
from lightning_solver.callbacks import GradientClipping
from lightning_solver.clipping import AGC, AutoClip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.schedules import Linear
from lightning_solver.sharding import local
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

RANK = int(os.environ.get("RANK", "0"))
LIMIT = 0.05
KINDS = (
    GlobalNorm(LIMIT),
    GlobalNorm(LIMIT, 1.0),
    GlobalNorm(LIMIT, schedule=Linear(end=0.2)),
    GlobalNorm(LIMIT, of={"match": "layers.0.*"}),
    GroupNorm(LIMIT),
    ParameterNorm(LIMIT),
    Value(LIMIT),
    AGC(0.01),
    AutoClip(30.0, window=5),
    ZClip(warmup=3, threshold=0.5, decay=0.5),
)


class ShardedNet(Net):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for layer in (self.layers[0], self.layers[2]):
            if not type(layer).__name__.startswith("FSDP"):
                fully_shard(layer, mesh=mesh)


class ShardedSolved(Solved):
    configure_model = ShardedNet.configure_model


def halves() -> DataLoader[Any]:
    """Every other sample for each process: a batch of two processes is one of `data(batch_size=8)`."""
    both = data()
    sampler: Any = DistributedSampler(both.dataset, num_replicas=2, rank=RANK, shuffle=False)  # type: ignore[arg-type]
    return DataLoader(both.dataset, batch_size=4, sampler=sampler)


def shards() -> dict[str, Any]:
    return {"strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), "devices": 2}


def ddp() -> dict[str, Any]:
    return {"strategy": DDPStrategy(), "devices": 2}


def made(
    way: str, clip: Any, nonfinite: Any = None, *, sharded: bool = False, wrong: Any = ()
) -> tuple[Any, list[Any]]:
    if way == "solver":
        return (ShardedSolved if sharded else Solved)(spec(clip, nonfinite), wrong), []
    plain = (ShardedNet if sharded else Net)(lambda parameters: torch.optim.SGD(parameters, **SGD), wrong)
    return plain, [GradientClipping(clip, nonfinite=nonfinite)]


def whole(net: nn.Module) -> Tensor:
    """All weights, from all shards."""
    found: list[Any] = [*net.parameters()]
    full = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in found]
    return torch.cat([one.detach().flatten() for one in full]).clone()


def agree(tensor: Tensor) -> None:
    """All processes have the same."""
    own = tensor.detach().clone().contiguous()
    everyone = [torch.empty_like(own) for _ in range(2)]
    torch.distributed.all_gather(everyone, own)
    assert torch.equal(*everyone)


def same_as_one(strategy: Any, *, sharded: bool, **kwargs: Any) -> None:
    for clip in KINDS:
        for way in WAYS:
            alone, callbacks = made(way, clip, "skip")
            expected = fit(alone, callbacks, data(batch_size=8), max_epochs=2, **kwargs)
            net, callbacks = made(way, clip, "skip", sharded=sharded)
            ran = fit(net, callbacks, halves(), max_epochs=2, **kwargs, **strategy())
            assert ran.global_step == expected.global_step
            assert all((type(one).__name__ == "DTensor") is sharded for one in net.parameters())
            torch.testing.assert_close(whole(net), whole(alone), rtol=1e-4, atol=1e-5)
            agree(whole(net))
            (ours,), (theirs,) = the_work(ran).clipped, the_work(expected).clipped
            for name in ("norm", "clipped_norm", "limit"):
                mine, other = getattr(ours, name), getattr(theirs, name)
                assert (mine is None) == (other is None), name
                if mine is not None:
                    assert float(mine) == pytest.approx(float(other), rel=1e-3), (clip, name)
            if ours.norm is not None:
                agree(ours.norm.reshape(1))
    unclipped = Solved(spec())
    fit(unclipped, [], data(batch_size=8), max_epochs=2)
    clipped = Solved(spec(KINDS[0]))
    fit(clipped, [], data(batch_size=8), max_epochs=2)
    assert float((whole(unclipped) - whole(clipped)).abs().max()) > 1e-2


def ddp_clipped(folder: Path) -> None:
    same_as_one(ddp, sharded=False)


def ddp_accumulated(folder: Path) -> None:
    """Five batches an epoch: windows of three and of two."""
    same_as_one(ddp, sharded=False, accumulate_grad_batches=3)


def fsdp2_clipped(folder: Path) -> None:
    """One norm over all shards, which is that of one process."""
    same_as_one(shards, sharded=True)


def fsdp2_greatest(folder: Path) -> None:
    """The greatest absolute value lies in the shard of one process only."""
    for way in WAYS:
        alone, callbacks = made(way, GlobalNorm(LIMIT, "inf"))
        fit(alone, callbacks, data(batch_size=8))
        net, callbacks = made(way, GlobalNorm(LIMIT, "inf"), sharded=True)
        fit(net, callbacks, halves(), **shards())
        torch.testing.assert_close(whole(net), whole(alone), rtol=1e-4, atol=1e-5)


class BadHere:
    """One number of one process's own gradients is not finite, in the third step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == 2 and RANK == 1:  # type: ignore[attr-defined]
            for parameter in self.parameters():  # type: ignore[attr-defined]
                own = local(parameter.grad)
                if own.numel():
                    own.view(-1)[0] = float("inf")
                    return


def decided_alike(strategy: Any, *, sharded: bool) -> None:
    """A loss that is not a number in one process only: all skip, all count, all go on."""
    for clip in (None, GlobalNorm(LIMIT), ParameterNorm(LIMIT), AutoClip(50.0)):
        for way in WAYS:
            net, callbacks = made(way, clip, "skip", sharded=sharded, wrong=(1, 2) if RANK == 1 else ())
            ran = fit(net, callbacks, halves(), max_epochs=1, **strategy())
            assert (the_work(ran).found, the_work(ran).in_a_row) == (2, 0)
            assert whole(net).isfinite().all()
            agree(whole(net))
            if way == "solver":
                assert net.solver_scheduler.last_epoch == 3
    for way in WAYS:
        net, callbacks = made(way, GlobalNorm(LIMIT), "error", sharded=sharded, wrong=(1,) if RANK == 0 else ())
        with pytest.raises(SolverError, match="nonfinite: the norm of the gradients is not finite at step 1; got nan"):
            fit(net, callbacks, halves(), **strategy())


def ddp_nonfinite(folder: Path) -> None:
    decided_alike(ddp, sharded=False)
    net, callbacks = made("solver", GlobalNorm(LIMIT), "skip", wrong=(1, 2) if RANK == 1 else ())
    ran = fit(net, callbacks, halves(), plugins=[scaler()], **ddp())
    assert the_work(ran).found == 2
    assert net.solver_scheduler.last_epoch == 3
    agree(whole(net))


def fsdp2_nonfinite(folder: Path) -> None:
    decided_alike(shards, sharded=True)


def fsdp2_one_shard(folder: Path) -> None:
    """What is not finite lies in the shard of one process: the other one skips the step too, or puts nothing in place."""

    class Net(ShardedSolved):
        def on_after_backward(self) -> None:
            BadHere.on_before_optimizer_step(self, None)  # type: ignore[arg-type]

    for policy, steps in (("skip", 4), ("zero", 5)):
        for clip in (None, GlobalNorm(LIMIT), GlobalNorm(LIMIT, of={"match": "layers.2.*"})):
            net = Net(spec(clip, policy))
            ran = fit(net, [], halves(), **shards())
            assert the_work(ran).found == 1
            assert net.solver_scheduler is not None
            assert net.solver_scheduler.last_epoch == steps
            assert whole(net).isfinite().all()


def ddp_learnt(folder: Path) -> None:
    """All processes learn the same, and go on from a checkpoint bit by bit."""
    for clip in (AutoClip(30.0, window=6), ZClip(warmup=3, threshold=0.5, decay=0.5)):
        for way in WAYS:
            name = f"{type(clip).__name__}-{way}.ckpt"
            net, callbacks = made(way, clip)
            fit(net, callbacks, halves(), max_epochs=1, **ddp()).save_checkpoint(folder / name)
            straight, callbacks = made(way, clip)
            ran = fit(straight, callbacks, halves(), max_epochs=2, **ddp())
            again, callbacks = made(way, clip)
            resumed = fit(again, callbacks, halves(), max_epochs=2, ckpt=folder / name, **ddp())
            assert torch.equal(whole(straight), whole(again))
            states = [the_work(one).clippers[0].state_dict() for one in (ran, resumed)]
            for key, value in states[0].items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key])), key
                agree(torch.as_tensor(value, dtype=torch.float64).reshape(-1))


if __name__ == "__main__":
    run_cases(globals())
