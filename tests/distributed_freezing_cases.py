"""Freezing and several optimisers in two processes; test_distributed.py starts them.

Each case asserts on every process and fails the launch if one of them fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from distributed_cases import Sharded, StopAfterSteps, follows_the_plan, full, run, same, two_shards, weights
from lightning_solver import OptimizerSpec, Rule, SolverSpec
from lightning_solver.callbacks import RandomState
from lightning_solver.optimizers.composite import CompositeOptimizer
from small import Net, loader, spec
from two_processes import run_cases

BY_REGEX = ("backbone.0", "backbone.1", "head")


class Normed(Net):
    """With a norm that has statistics; its parts are told apart by depth."""

    def __init__(self, solver: SolverSpec, dropout: float = 0.0) -> None:
        super().__init__(solver, dropout)
        self.backbone[1] = nn.BatchNorm1d(16)


class Look(Callback):
    """Which parameters move in which step, and that the processes have the same weights after each."""

    def __init__(self) -> None:
        self.moved: dict[str, list[int]] = {}
        self.modes: list[bool] = []
        self.step = -1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.step = trainer.global_step
        self.before = weights(pl_module)
        self.required = all(parameter.requires_grad for parameter in pl_module.parameters())

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.modes.append(pl_module.backbone[1].training)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        assert self.required
        after = weights(pl_module)
        if trainer.global_step == self.step:
            assert all(torch.equal(after[name], self.before[name]) for name in after)
            return
        for name, tensor in after.items():
            self.moved.setdefault(name, [])
            if not torch.equal(tensor, self.before[name]):
                self.moved[name].append(self.step)
        alike(torch.cat([tensor.flatten() for tensor in after.values()]))


def alike(mine: Tensor) -> None:
    """The tensor is the same in both processes."""
    theirs = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(theirs, mine)
    assert torch.equal(*theirs)


def train(cls: type[Net], strategy: Any, solver: SolverSpec, *callbacks: Callback, **kwargs: Any) -> tuple[Net, Any]:
    return run(cls, strategy, solver=solver, callbacks=callbacks, length=48, **kwargs)


def ddp_frozen(folder: Path) -> None:
    """18 steps; nothing is added to the optimiser, and every parameter requires its gradient from the start."""
    solver = spec(
        rules=[Rule(match="backbone.*", frozen_until=5, frozen_from=12), Rule(match="head.bias", frozen=True)]
    )
    for options in ({}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
        look = Look()
        net, fit = train(Normed, DDPStrategy(**options), solver, look, gradient_clip_val=0.5)
        follows_the_plan(net, fit)
        assert look.moved.pop("head.bias") == []
        assert look.moved.pop("head.weight") == list(range(18))
        assert all(steps == list(range(5, 12)) for steps in look.moved.values()), look.moved
        alike(net.backbone[1].running_mean)


def ddp_frozen_norm(folder: Path) -> None:
    """Statistics of a norm stand still in both processes while it is frozen."""
    look = Look()
    net, _ = train(Normed, DDPStrategy(), spec(rules=[Rule(match="backbone.*", frozen_until=17)]), look)
    assert net.backbone[1].num_batches_tracked == 1
    net, _ = train(Normed, DDPStrategy(), spec(rules=[Rule(match="backbone.*", frozen=True)]))
    assert net.backbone[1].num_batches_tracked == 0
    assert torch.equal(net.backbone[1].running_mean, torch.zeros(16))


def ddp_unfreezing(folder: Path) -> None:
    """From the top, an epoch each, with accumulation: 2 steps an epoch of 6 batches."""
    solver = spec(rules=[Rule(match="*", unfreeze_every="1ep")], depth=BY_REGEX)
    look = Look()
    net, fit = train(Normed, DDPStrategy(), solver, look, accumulate_grad_batches=3)
    follows_the_plan(net, fit)
    assert look.moved["head.weight"] == look.moved["head.bias"] == [0, 1, 2, 3, 4, 5]
    assert look.moved["backbone.1.weight"] == [2, 3, 4, 5]
    assert look.moved["backbone.0.weight"] == [4, 5]


def ddp_resume(folder: Path) -> None:
    """In mid-run, before, at and after a turn; nothing of what is frozen is in the checkpoint."""
    rules = [Rule(match="backbone.0.*", frozen_until=6), Rule(match="backbone.1.*", frozen_from=9)]
    solver = spec(rules=[*rules, Rule(match="head.weight", optimizer=OptimizerSpec("Muon"))])
    straight, _ = train(Normed, DDPStrategy(), solver, RandomState(), stateful=True)
    for step in (4, 6, 10):
        keep = ModelCheckpoint(folder / str(step), every_n_train_steps=step, save_top_k=-1, filename="x")
        stop = StopAfterSteps(step)
        train(Normed, DDPStrategy(), solver, RandomState(), keep, stop, enable_checkpointing=True, stateful=True)
        path = folder / str(step) / "x.ckpt"
        resumed, _ = train(Normed, DDPStrategy(), solver, RandomState(), ckpt=path, stateful=True, seed=77)
        same(weights(straight), weights(resumed))
        assert straight.used[step:] == resumed.used
        assert straight.backbone[1].num_batches_tracked == resumed.backbone[1].num_batches_tracked


def ddp_members(folder: Path) -> None:
    """Muon beside AdamW, accumulated and clipped; the processes agree after every step."""
    solver = spec(rules=[Rule(match="backbone.0.weight", optimizer=OptimizerSpec("Muon"))])
    look = Look()
    net, fit = train(Net, DDPStrategy(), solver, look, accumulate_grad_batches=2, gradient_clip_val=0.1)
    follows_the_plan(net, fit)
    assert isinstance(
        fit.optimizers[0].optimizer if hasattr(fit.optimizers[0], "optimizer") else fit.optimizers[0],
        CompositeOptimizer,
    )
    assert all(steps == list(range(9)) for steps in look.moved.values())


def fsdp2_frozen(folder: Path) -> None:
    """Sharded: what is frozen does not move, two optimisers step their own, and a full checkpoint carries over."""
    rules = [
        Rule(match="backbone.*", frozen_until=5),
        Rule(match="head.*", optimizer=OptimizerSpec("SGD", {"momentum": 0.9})),
    ]
    look = Look()
    net, fit = train(Sharded, two_shards(save_distributed_checkpoint=False), spec(rules=rules), look, save=folder / "x")
    follows_the_plan(net, fit)
    assert look.moved["backbone.0.weight"] == look.moved["backbone.1.bias"] == list(range(5, 18))
    assert look.moved["head.weight"] == list(range(18))
    assert all(type(tensor).__name__ == "DTensor" for tensor in net.parameters())

    class State(Callback):
        seen: dict[str, Tensor]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            state = trainer.optimizers[0].state
            self.seen = {
                name: full(state[tensor]["exp_avg" if "exp_avg" in state[tensor] else "momentum_buffer"])
                for name, tensor in pl_module.named_parameters()
            }

    first, second = State(), State()
    changed = spec(rules=[*reversed(rules), Rule(match="backbone.1.*", lr_scale=0.5)])
    for state, solver in ((first, spec(rules=rules)), (second, changed)):
        train(Sharded, two_shards(), solver, state, ckpt=folder / "x", max_epochs=4)
    same(first.seen, second.seen)


def fsdp2_resume_while_frozen(folder: Path) -> None:
    """A checkpoint in which frozen parameters have no state yet is resumed, full or sharded."""
    solver = spec(rules=[Rule(match="backbone.*", frozen_until=5)])
    straight, _ = train(Sharded, two_shards(), solver, RandomState(), stateful=True)
    for kind in ("full", "sharded"):
        sharded = kind == "sharded"
        keep = ModelCheckpoint(folder / kind, every_n_train_steps=3, save_top_k=-1, filename="{step}")
        first = (RandomState(), keep, StopAfterSteps(3))
        strategy = two_shards(save_distributed_checkpoint=sharded)
        train(Sharded, strategy, solver, *first, enable_checkpointing=True, stateful=True)
        strategy = two_shards(save_distributed_checkpoint=sharded)
        path = folder / kind / "step=3.ckpt"
        resumed, _ = train(Sharded, strategy, solver, RandomState(), ckpt=path, stateful=True, seed=77)
        assert straight.used[3:] == resumed.used
        same(weights(straight), weights(resumed))


def fsdp2_unfreezing(folder: Path) -> None:
    """As in one process: the same parameters move in the same steps."""
    solver = spec(rules=[Rule(match="*", unfreeze_every=4)], depth=BY_REGEX)
    look = Look()
    train(Sharded, two_shards(), solver, look)
    assert look.moved["head.weight"] == list(range(18))
    assert look.moved["backbone.1.weight"] == list(range(4, 18))
    assert look.moved["backbone.0.weight"] == list(range(8, 18))


if __name__ == "__main__":
    loader()
    run_cases(globals())
