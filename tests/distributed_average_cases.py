"""Averages of the weights in two processes, under DDP and FSDP2; started as the cases of distributed_cases.py are."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import OptimizerSpec, SolverMixin, SolverSpec
from lightning_solver import averaging as plain
from lightning_solver.callbacks import EMA, SWA, PowerEMA
from small import trainer
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

KEY = "lightning_solver_averages"
DECAY = 0.75
BATCHES = 7  # with two batches a step, four steps an epoch, the last of one batch
Weights = dict[str, Tensor]


def rank() -> int:
    return int(os.environ["RANK"])


def full(tensor: Any) -> Tensor:
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return value.detach().clone()


def weights(net: nn.Module) -> Weights:
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name: full(tensor) for name, tensor in named if tensor.is_floating_point()}


def same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def all_same(one: list[Weights], other: list[Weights]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other):
        same(a, b)


def differ(one: Weights, other: Weights) -> None:
    assert any(not torch.equal(one[name], other[name]) for name in one)


def everywhere(found: Weights) -> None:
    """Every process has the same."""
    mine = torch.cat([tensor.flatten() for tensor in found.values()])
    each = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(each, mine)
    assert torch.equal(*each)


class Net(LightningModule):
    """Sizes that two processes cannot share equally, and notes of what is trained and what is evaluated."""

    norm: nn.Module

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 3)
        self.norm = nn.Identity()
        self.shift = nn.Parameter(torch.zeros(3))  # FSDP2 keeps those of the root gathered after a forward
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(2))
        self.trained: list[Weights] = []
        self.seen: list[Weights] = []
        self.losses: list[Tensor] = []
        self.validated: list[Tensor] = []
        self.steps = 0
        self.fails_at = -1

    def forward(self, inputs: Tensor) -> Tensor:
        return self.shift + self.scale * self.second(self.norm(self.first(inputs)).tanh())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.count += 1
        loss = (self(batch[0]) - batch[1]).square().mean()
        self.losses.append(loss.detach().clone())
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        if self.trainer.global_step > self.steps:
            self.steps = self.trainer.global_step
            self.trained.append(weights(self))

    def on_validation_start(self) -> None:
        self.seen.append(weights(self))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if len(self.seen) == self.fails_at:
            raise KeyError("broken data")
        loss = (self(batch[0]) - batch[1]).square().mean()
        self.validated.append(loss.detach().clone())
        self.log("loss", loss, sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_start(self) -> None:
        self.on_validation_start()

    def on_train_start(self) -> None:
        self.steps = self.trainer.global_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)


class Sharded(Net):
    def configure_model(self) -> None:
        if not type(self.first).__name__.startswith("FSDP"):
            assert self.device_mesh is not None
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.first, mesh=mesh)
            fully_shard(self.second, mesh=mesh, reshard_after_forward=False)  # stays gathered, as what the root has
            fully_shard(self, mesh=mesh)


class WithSolver(SolverMixin, Net):
    def __init__(self, **averages: plain.Average) -> None:
        super().__init__()
        self.solver = SolverSpec(OptimizerSpec("SGD", {"lr": 0.05, "momentum": 0.9}), averages=averages)


class ShardedWithSolver(WithSolver, Sharded):
    pass


def data(batches: int = BATCHES, seed: int | None = None) -> Any:
    """Other batches for each process."""
    numbers = torch.Generator().manual_seed(rank() if seed is None else seed)
    inputs = torch.randn(4 * batches, 5, generator=numbers)
    return StatefulDataLoader(TensorDataset(inputs, inputs[:, :3].cos()), batch_size=4)


def two_shards(**kwargs: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, **kwargs)


def run(
    net: Net, strategy: Any, *callbacks: Callback, ckpt: Any = None, fails: str | None = None, **options: Any
) -> Any:
    given = {
        "max_epochs": 3,
        "accumulate_grad_batches": 2,
        "val_check_interval": 2,
        "use_distributed_sampler": False,
        **options,
    }
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    fit = trainer(strategy=strategy, devices=2, callbacks=[*callbacks], enable_checkpointing=keeps, **given)
    if fails is None:
        fit.fit(net, data(), data(1, seed=9), ckpt_path=ckpt, weights_only=True)
    else:
        with pytest.raises(KeyError, match=fails):
            fit.fit(net, data(), data(1, seed=9), ckpt_path=ckpt, weights_only=True)
    return fit


def ema_of(trained: list[Weights], decay: float = DECAY) -> list[Weights]:
    """The average after each step, by torch's own function."""
    move = get_ema_multi_avg_fn(decay)
    found = [trained[0]]
    for step, live in enumerate(trained[1:], 1):
        moved = {name: tensor.clone() for name, tensor in found[-1].items()}
        move([*moved.values()], [*live.values()], step)
        found.append(moved)
    return found


def now(callback: Any, name: str = "ema") -> tuple[Weights, Weights]:
    """The average and the live weights as they are, whole."""
    averaged = getattr(callback, "averaged", callback)[name]
    from lightning_solver.sharding import like

    def named(parts: list[Tensor]) -> Weights:
        found = zip(averaged.names, parts, averaged.tensors)
        return {name: full(like(part, tensor)) for name, part, tensor in found if part.is_floating_point()}

    return named(averaged.values), named(averaged.weights)


class Silent(EMA):
    """Counts what an update has to say to the other processes."""

    said, updates = 0, 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        with CommDebugMode() as mode:
            super().on_train_batch_end(*args, **kwargs)
        self.said, self.updates = self.said + mode.get_total_counts(), self.updates + 1


def hears() -> None:
    with CommDebugMode() as mode:
        torch.distributed.all_reduce(torch.ones(2))
    assert mode.get_total_counts() == 1


# ------------------------------------------------------------------ DDP


def with_torch(net: Net) -> tuple[list[Weights], list[Weights]]:
    """The same run by hand: the weights and torch's average after each step."""
    model = nn.parallel.DistributedDataParallel(net)
    optimizer = net.configure_optimizers()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    trained, averages = [], []
    for _ in range(3):
        for i, batch in enumerate(data()):
            steps = i % 2 == 1 or i == BATCHES - 1
            model.require_backward_grad_sync = steps
            with torch.no_grad():
                net.count += 1
            ((model(batch[0]) - batch[1]).square().mean() / 2).backward()
            if steps:
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(net)
                trained.append(weights(net))
                averages.append(weights(average.module))
    return trained, averages


def ddp_reference(folder: Path) -> None:
    """The callback and the mixin give what torch's own average gives, without a word to the other process."""
    for cls in (Net, Normed):
        callback = Silent(DECAY)
        net = cls()
        run(net, DDPStrategy(), callback, val_check_interval=1.0, limit_val_batches=0)
        trained, averages = with_torch(cls())
        assert len(trained) == 12
        all_same(net.trained, trained)
        average, live = now(callback)
        same(average, averages[-1])
        same(live, trained[-1])
        same(weights(net), average)
        everywhere(learned([average])[0])
        assert callback.updates == 3 * BATCHES
        assert callback.said == 0
    hears()

    net = WithSolver(ema=plain.EMA(decay=DECAY))
    run(net, DDPStrategy())
    trained, averages = with_torch(Net())
    average, _ = now(net.solver_averages)
    same(average, ema_of(net.trained)[-1])
    same(weights(net), average)
    everywhere(average)
    for name, tensor in averages[-1].items():
        torch.testing.assert_close(average[name], tensor)


# ------------------------------------------------------------------ both


def plain_twin(net: Net) -> Net:
    twin = Normed() if isinstance(net, Normed) else Net()
    return twin.eval()


def evaluates(net: Net, start: Weights) -> None:
    """Each validation has seen the average of its moment; the sanity check the weights at the start."""
    averages = ema_of(net.trained)
    steps = [step for epoch in range(len(averages) // 4) for step in (4 * epoch + 1, 4 * epoch + 2, 4 * epoch + 3)]
    expected = [start, *(averages[step - 1] for step in steps)]  # validations are after batches 2, 4 and 6
    all_same(net.seen, expected)
    differ(expected[-1], net.trained[steps[-1] - 1])
    assert len(net.validated) == len(expected)
    for loss, values in zip(net.validated, expected):
        torch.testing.assert_close(loss, loss_of(net, values))


def loaded(path: Path, key: str, like: Weights) -> Weights:
    """Tensors of a checkpoint, whole; on the first process where it is one file."""
    if path.is_dir():
        content: Any = {name: torch.empty_like(tensor) for name, tensor in like.items()}
        wanted = content
        for part in reversed(key.split("/")):
            wanted = {part: wanted}
        torch.distributed.checkpoint.load(wanted, checkpoint_id=str(path))
    else:
        content = torch.load(path, weights_only=True)
        for part in key.split("/"):
            content = content[part]
    return {name: content[name] for name in like}


def marked(path: Path) -> Any:
    """What a checkpoint says of its averages."""
    return torch.load(path / "meta.pt" if path.is_dir() else path, weights_only=True).get(KEY)


def keep(folder: Path, **kwargs: Any) -> ModelCheckpoint:
    kwargs = {"every_n_train_steps": 3, "save_top_k": -1, "filename": "{step}", **kwargs}
    return ModelCheckpoint(folder, save_on_train_epoch_end=False, **kwargs)


def resumes(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """Validated, saved and resumed as it should be, and the training is that without an average."""
    start = weights(cls())
    bare, ema = cls(), EMA(DECAY)
    run(bare, strategy(), max_epochs=4)
    straight = cls()
    saving = [keep(folder / "all"), keep(folder / "alone", save_weights_only=True, mode="max")]
    run(straight, strategy(), ema, *saving, max_epochs=4)
    all_same(straight.trained, bare.trained)
    assert torch.equal(torch.stack(straight.losses), torch.stack(bare.losses))
    evaluates(straight, start)
    averages = ema_of(straight.trained)
    average, live = now(ema)
    same(average, averages[-1])
    same(live, straight.trained[-1])
    same(weights(straight), average)
    count = {"steps": 3, "began": 1, "updates": 3, "latest": 3}
    for step in (3, 6, 9, 12, 15):
        path = folder / "all" / f"step={step}.ckpt"
        same(loaded(path, "state_dict", average), averages[step - 1])
        where = "optimizer_1/live" if path.is_dir() else f"{KEY}/live"
        same(loaded(path, where, average), straight.trained[step - 1])
        same(loaded(folder / "alone" / f"step={step}.ckpt", "state_dict", average), averages[step - 1])
        assert marked(folder / "alone" / f"step={step}.ckpt") is None
        if step == 3:
            assert marked(path)["averages"]["ema"]["count"] == count
    for step in (3, 9):
        resumed, again = cls(), EMA(DECAY)
        run(resumed, strategy(), again, ckpt=folder / "all" / f"step={step}.ckpt", max_epochs=4)
        goes_on(straight, resumed, step)
        same(now(again)[0], average)
        same(now(again)[1], live)
        same(weights(resumed), average)


def goes_on(straight: Net, resumed: Net, step: int) -> None:
    """A resumed run has trained and evaluated what the straight one has."""
    all_same(straight.trained[step:], resumed.trained)
    assert resumed.seen
    all_same(straight.seen[-len(resumed.seen) :], resumed.seen)


def at_the_end(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """A checkpoint that is saved by hand after fit has both sets, and goes on as if fit had not ended."""
    straight, longer = cls(), EMA(DECAY)
    run(straight, strategy(), longer, max_epochs=4)
    net, ema = cls(), EMA(DECAY)
    fit = run(net, strategy(), ema)
    fit.save_checkpoint(folder / "end.ckpt")
    fit.save_checkpoint(folder / "alone.ckpt", weights_only=True)
    average, live = now(ema)
    same(average, ema_of(net.trained)[-1])
    same(live, net.trained[-1])
    for name in ("end.ckpt", "alone.ckpt"):
        same(loaded(folder / name, "state_dict", average), average)
    resumed, again = cls(), EMA(DECAY)
    run(resumed, strategy(), again, ckpt=folder / "end.ckpt", max_epochs=4)
    all_same(resumed.trained, straight.trained[12:])
    all_same(resumed.seen, [average, *straight.seen[-3:]])  # there is a sanity check
    for one, other in zip(now(again), now(longer)):
        same(one, other)

    # A second fit of the same module goes on from the live weights too, also after a test of the best ones.
    same(weights(net), average)
    fit.test(net, data(1, seed=9), verbose=False)
    same(net.seen[-1], average)
    fit.test(net, data(1, seed=9), ckpt_path=folder / "end.ckpt", verbose=False, weights_only=True)
    same(net.seen[-1], average)
    same(now(ema)[1], live)
    fit.fit_loop.max_epochs = 4
    before = len(net.seen)
    fit.fit(net, data(), data(1, seed=9))
    assert len(net.seen) > before
    bare = cls()
    fit = run(bare, strategy())
    fit.fit_loop.max_epochs = 4
    fit.fit(bare, data(), data(1, seed=9))
    assert len(net.trained) == 16
    all_same(net.trained, bare.trained)
    same(now(ema)[0], ema_of(net.trained)[-1])
    same(now(ema)[1], net.trained[-1])


def changes(cls: type[Net], solved: type[WithSolver], strategy: Callable[[], Any], folder: Path) -> None:
    """From checkpoints without averages, with others, and into a run without."""
    slowly: Any = {"name": "slow", "evaluated": False, "every": 2, "start": 2}
    straight, fast, slow = cls(), EMA(DECAY), EMA(0.9, **slowly)
    run(straight, strategy(), fast, slow, keep(folder / "two"))
    averages = ema_of(straight.trained)
    same(now(fast)[0], averages[-1])
    second = now(slow, "slow")[0]
    differ(second, averages[-1])
    same(weights(straight), averages[-1])

    two = cls()
    ones = EMA(DECAY), EMA(0.9, **slowly)
    run(two, strategy(), *ones, ckpt=folder / "two" / "step=3.ckpt")
    goes_on(straight, two, 3)
    same(now(ones[0])[0], averages[-1])
    same(now(ones[1], "slow")[0], second)

    one = cls()
    alone = EMA(DECAY)
    run(one, strategy(), alone, ckpt=folder / "two" / "step=6.ckpt")
    goes_on(straight, one, 6)
    same(now(alone)[0], averages[-1])

    # The solver without averages: the live weights come back.
    with_one, none = solved(ema=plain.EMA(decay=DECAY)), solved()
    run(with_one, strategy(), keep(folder / "solver"))
    run(again := solved(ema=plain.EMA(decay=DECAY)), strategy(), ckpt=folder / "solver" / "step=6.ckpt")
    goes_on(with_one, again, 6)
    for a, b in zip(now(again.solver_averages), now(with_one.solver_averages)):
        same(a, b)
    run(none, strategy(), ckpt=folder / "solver" / "step=6.ckpt")
    all_same(with_one.trained[6:], none.trained)
    same(weights(none), with_one.trained[-1])
    # Neither callback nor solver: Lightning knows the state_dict only, and goes on from the average.
    foreign = cls()
    run(foreign, strategy(), keep(folder / "bare"), ckpt=folder / "two" / "step=6.ckpt")
    differ(foreign.trained[0], straight.trained[6])

    bare, late = cls(), EMA(DECAY)
    run(bare, strategy(), keep(folder / "none"))
    all_same(bare.trained, straight.trained)
    run(after := cls(), strategy(), late, ckpt=folder / "none" / "step=6.ckpt")
    all_same(bare.trained[6:], after.trained)
    same(now(late)[0], ema_of(bare.trained[5:])[-1])
    assert late.averaged["ema"].count.began == 6


def ddp_resume(folder: Path) -> None:
    resumes(Net, DDPStrategy, folder)


def ddp_end(folder: Path) -> None:
    at_the_end(Net, DDPStrategy, folder)


def ddp_changes(folder: Path) -> None:
    changes(Net, WithSolver, DDPStrategy, folder)


def whole_files() -> ModelParallelStrategy:
    return two_shards(save_distributed_checkpoint=False)


def fsdp2_full_resume(folder: Path) -> None:
    resumes(Sharded, whole_files, folder)


def fsdp2_full_end(folder: Path) -> None:
    at_the_end(Sharded, whole_files, folder)


def fsdp2_full_changes(folder: Path) -> None:
    changes(Sharded, ShardedWithSolver, whole_files, folder)


def fsdp2_sharded_resume(folder: Path) -> None:
    resumes(Sharded, two_shards, folder)


def fsdp2_sharded_end(folder: Path) -> None:
    at_the_end(Sharded, two_shards, folder)


def fsdp2_sharded_changes(folder: Path) -> None:
    changes(Sharded, ShardedWithSolver, two_shards, folder)


# ------------------------------------------------------------------ where the weights are


def fsdp2_shards(folder: Path) -> None:
    """Each process averages its own part, in memory of that size, without a word to the other."""
    net, ema = Sharded(), Silent(DECAY)
    run(net, two_shards(), ema)
    assert ema.updates == 3 * BATCHES
    assert ema.said == 0
    hears()
    averaged = ema.averaged["ema"]
    mine = dict(zip(averaged.names, averaged.values))
    parts = {"first.weight": [15, 10], "first.bias": [3, 2], "second.weight": [10, 5], "second.bias": [2, 1]}
    sizes = {**parts, "shift": [2, 1], "scale": [1, 0], "count": [2, 2]}
    assert {name: value.numel() for name, value in mine.items()} == {n: size[rank()] for n, size in sizes.items()}
    for average, live, tensor in zip(averaged.values, averaged.weights, averaged.tensors):
        own: Any = tensor
        assert average.shape == live.shape == (own.to_local() if hasattr(own, "to_local") else own).shape
    # The averages are in the memory that the optimiser and the all-gather know, and the live weights beside it.
    held = averaged._values
    assert sum(value.untyped_storage().nbytes() for value in held) == 4 * sum(size[rank()] for size in sizes.values())
    same(weights(net), now(ema)[0])
    same(now(ema)[0], ema_of(net.trained)[-1])
    with torch.no_grad():
        outputs = net(torch.ones(2, 5))
        twin = torch.func.functional_call(plain_twin(net), ema_of(net.trained)[-1], (torch.ones(2, 5),))
    torch.testing.assert_close(outputs, twin)
    ema.release()
    same(weights(net), ema_of(net.trained)[-1])


def tested(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """Weights that are loaded for a test are not those of training afterwards, whichever set the module keeps."""
    for kept in ("average", "live"):
        net, ema = cls(), EMA(DECAY, keep=kept)  # type: ignore[arg-type]
        best = keep(folder / kept, every_n_train_steps=None, monitor="loss", save_top_k=1, filename="best", mode="max")
        fit = run(net, strategy(), ema, best)
        averages, trained = ema_of(net.trained), net.trained
        expected = averages[-1] if kept == "average" else trained[-1]
        same(weights(net), expected)
        step = [4 * e + i for e in range(3) for i in (1, 2, 3)][int(torch.stack(net.validated[1:]).argmax())]
        assert step < 12
        same(loaded(Path(best.best_model_path), "state_dict", expected), averages[step - 1])
        fit.test(net, data(1, seed=9), ckpt_path="best", verbose=False, weights_only=True)
        same(net.seen[-1], averages[step - 1])
        same(weights(net), averages[step - 1])
        fit.test(net, data(1, seed=9), verbose=False)
        same(net.seen[-1], averages[step - 1])  # which are in the module until training goes on
        # the checkpoint is tested in the same way by somebody who does not average
        fresh = cls()
        tester = trainer(strategy=strategy(), devices=2, use_distributed_sampler=False)
        tester.test(fresh, data(1, seed=9), ckpt_path=best.best_model_path, verbose=False, weights_only=True)
        same(fresh.seen[-1], averages[step - 1])
        fit.fit_loop.max_epochs = 4
        fit.fit(net, data(), data(1, seed=9))
        bare = cls()
        fit = run(bare, strategy())
        fit.fit_loop.max_epochs = 4
        fit.fit(bare, data(), data(1, seed=9))
        all_same(net.trained, bare.trained)
        same(now(ema)[0], ema_of(net.trained)[-1])
        same(now(ema)[1], net.trained[-1])


def breaks(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """An error in validation leaves the live weights in the module, and the averages are not lost."""
    net, ema = cls(), EMA(DECAY)
    net.fails_at = 5
    run(net, strategy(), ema, fails="broken data")
    assert not ema.averaged["ema"].swapped
    same(weights(net), net.trained[-1])
    assert len(net.trained) == 5
    same(now(ema)[0], ema_of(net.trained)[-1])
    torch.distributed.barrier()
    net.fails_at = -1
    run(net, strategy(), ema, num_sanity_val_steps=0)  # by another Trainer, which counts from 0
    assert len(net.trained) == 17
    same(now(ema)[0], ema_of(net.trained)[-1])
    same(weights(net), ema_of(net.trained)[-1])


def goes_on_from_the_average(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    straight = cls()
    run(straight, strategy(), EMA(DECAY), keep(folder / "live"))
    start: list[Weights] = []

    class First(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            start.append(weights(pl_module))

    run(cls(), strategy(), EMA(DECAY, resume_from="average"), First(), ckpt=folder / "live" / "step=6.ckpt")
    same(start[0], ema_of(straight.trained)[5])


def ddp_tested(folder: Path) -> None:
    tested(Net, DDPStrategy, folder)
    breaks(Net, DDPStrategy, folder)
    goes_on_from_the_average(Net, DDPStrategy, folder)


def fsdp2_tested(folder: Path) -> None:
    for strategy in (whole_files, two_shards):
        tested(Sharded, strategy, folder / strategy.__name__)


def fsdp2_breaks(folder: Path) -> None:
    breaks(Sharded, two_shards, folder)
    for strategy in (whole_files, two_shards):
        goes_on_from_the_average(Sharded, strategy, folder / strategy.__name__)


# ------------------------------------------------------------------ other averages


def mean_of(trained: list[Weights]) -> Weights:
    return {name: torch.stack([each[name] for each in trained]).mean(0) for name in trained[0]}


def stops_early(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """The equal average is in the module and in its checkpoints when training ends early."""
    net, swa = cls(), SWA(start=2, every=1)
    early = EarlyStopping("loss", min_delta=100.0, patience=4, check_on_train_epoch_end=False)
    fit = run(net, strategy(), swa, early, max_epochs=9)
    assert fit.global_step == 6
    for name, tensor in mean_of(net.trained[1:6]).items():
        torch.testing.assert_close(weights(net)[name], tensor)
    same(weights(net), now(swa, "swa")[0])
    same(now(swa, "swa")[1], net.trained[-1])
    fit.save_checkpoint(folder / "end.ckpt", weights_only=True)
    same(loaded(folder / "end.ckpt", "state_dict", weights(net)), weights(net))
    net, swa = cls(), SWA(start=2)
    fit = run(net, strategy(), swa)
    for name, tensor in mean_of([net.trained[i - 1] for i in (4, 8, 12)]).items():
        torch.testing.assert_close(weights(net)[name], tensor)


def snapshots(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """Snapshots are whole, written once, and of the average of their moment."""
    from lightning_solver.averaging.post_hoc import read_snapshot, reconstruct

    net = cls()
    short, long = PowerEMA(0.05, snapshots="1ep"), PowerEMA(0.1, snapshots=4, name="long", evaluated=False)
    run(net, strategy(), short, long, default_root_dir=folder)
    torch.distributed.barrier()
    found = {path.name: path for path in sorted((folder / "averages").iterdir())}
    assert [*found] == [f"{name}-step={step:08d}.ckpt" for name in ("long", "power_ema") for step in (4, 8, 12)]
    for name, callback in (("power_ema", short), ("long", long)):
        snapshot = read_snapshot(found[f"{name}-step=00000012.ckpt"])
        same({n: snapshot.file.content["state_dict"][n] for n in weights(net)}, now(callback, name)[0])
        assert set(snapshot.file.content["state_dict"]) == set(net.state_dict())
        assert snapshot.count.steps == 12
    assert reconstruct([folder / "averages"], sigma_rel=0.07).fit.residual < 0.1


class Half(Sharded):
    """Half the bits, of which the average keeps all."""

    def configure_model(self) -> None:
        for parameter in self.parameters():
            if not hasattr(parameter, "to_local"):
                parameter.data = parameter.data.bfloat16()
        super().configure_model()

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.bfloat16()).float()


def fsdp2_half(folder: Path) -> None:
    """The float32 average of sharded bfloat16 weights is in both kinds of checkpoints."""
    for kind, strategy in (("full", whole_files), ("sharded", two_shards)):
        straight, ema = Half(), EMA(DECAY)
        run(straight, strategy(), ema, keep(folder / kind))
        assert {value.dtype for value in ema.averaged["ema"].values} == {torch.float32}
        wide = [{name: tensor.float() for name, tensor in live.items()} for live in straight.trained]
        same(now(ema)[0], ema_of(wide)[-1])
        same(weights(straight), {n: t.to(straight.trained[0][n].dtype) for n, t in ema_of(wide)[-1].items()})
        resumed, again = Half(), EMA(DECAY)
        run(resumed, strategy(), again, ckpt=folder / kind / "step=6.ckpt")
        goes_on(straight, resumed, 6)
        same(now(again)[0], now(ema)[0])
        same(now(again)[1], now(ema)[1])


# ------------------------------------------------------------------ both sets evaluated; statistics


def loss_of(net: Net, values: Weights) -> Tensor:
    (batch,) = data(1, seed=9)
    with torch.no_grad():
        output = torch.func.functional_call(plain_twin(net), values, (batch[0],))
    return (output - batch[1]).square().mean()


def validates_live(cls: type[Net], strategy: Callable[[], Any], folder: Path) -> None:
    """Both sets are validated, whichever was gathered before, and training is none the wiser."""
    bare, net, ema = cls(), cls(), EMA(DECAY, evaluate_live=True)
    run(bare, strategy())
    best = keep(folder / "best", every_n_train_steps=None, monitor="loss_live", save_top_k=1, filename="best")
    fit = run(net, strategy(), ema, best)
    all_same(net.trained, bare.trained)
    averages = ema_of(net.trained)
    metrics = fit.callback_metrics
    torch.testing.assert_close(metrics["loss"], loss_of(net, averages[10]))
    torch.testing.assert_close(metrics["loss_live"], loss_of(net, net.trained[10]))
    assert metrics["loss"] != metrics["loss_live"]
    same(now(ema)[0], averages[-1])
    assert best.best_model_score is not None
    steps = [4 * epoch + i for epoch in range(3) for i in (1, 2, 3)]
    live = torch.stack([loss_of(net, net.trained[step - 1]) for step in steps])
    torch.testing.assert_close(best.best_model_score, live.min())
    same(loaded(Path(best.best_model_path), "state_dict", averages[0]), averages[steps[int(live.argmin())] - 1])


def ddp_others(folder: Path) -> None:
    stops_early(Net, DDPStrategy, folder)
    snapshots(Net, DDPStrategy, folder)
    validates_live(Net, DDPStrategy, folder)


def fsdp2_others(folder: Path) -> None:
    stops_early(Sharded, two_shards, folder)
    snapshots(Sharded, two_shards, folder)
    validates_live(Sharded, two_shards, folder)


def ddp_norms(folder: Path) -> None:
    """The averaged statistics are those of the first process, which DDP gives to all."""
    straight, ema = Normed(), EMA(DECAY)
    fit = run(straight, DDPStrategy(), ema, keep(folder / "norm"))
    averages = ema_of(straight.trained)
    everywhere({str(i): loss for i, loss in enumerate(straight.validated)})
    steps = [4 * epoch + i for epoch in range(3) for i in (1, 2, 3)]
    if rank() == 0:
        all_same(straight.seen[1:], [averages[step - 1] for step in steps])
        same(now(ema)[0], averages[-1])
    for loss, step in zip(straight.validated[1:], steps):
        expected = [loss_of(straight, averages[step - 1])]
        torch.distributed.broadcast_object_list(expected, 0)
        torch.testing.assert_close(loss, expected[0])
    bare, resumed, again = Normed(), Normed(), EMA(DECAY)
    run(bare, DDPStrategy())
    run(resumed, DDPStrategy(), again, ckpt=folder / "norm" / "step=6.ckpt")
    if rank() == 0:
        all_same(straight.trained, bare.trained)
        goes_on(straight, resumed, 6)
        same(now(again)[0], averages[-1])
    for net in (bare, resumed):
        all_same(learned(straight.trained[-len(net.trained) :]), learned(net.trained))
    all_same(learned([now(again)[0]]), learned([averages[-1]]))
    # A second fit begins with DDP writing the first process's statistics into all: that is no other module.
    fit.fit_loop.max_epochs = 4
    fit.fit(straight, data(), data(1, seed=9))
    assert ema.averaged["ema"].count.updates == 16
    all_same(learned([now(ema)[0]]), learned([ema_of(straight.trained)[-1]]))


def learned(found: list[Weights]) -> list[Weights]:
    """Without running statistics, of which each process has its own until DDP's next forward."""
    return [{name: tensor for name, tensor in each.items() if "running" not in name} for each in found]


def ddp_statistics(folder: Path) -> None:
    """The statistics are those of the average on the data of both processes; the live ones stay."""
    net, ema = Normed(), EMA(DECAY, update_bn=True)
    run(net, DDPStrategy(), ema)
    trained = ema_of(net.trained)[-1]
    found, live = now(ema)
    same(live, net.trained[-1])
    everywhere(found)
    same(weights(net), found)
    means, variances = [], []
    for seed in range(2):
        seen = [
            nn.functional.linear(batch[0], trained["first.weight"], trained["first.bias"]) for batch in data(seed=seed)
        ]
        means.append(torch.stack([each.mean(0) for each in seen]).mean(0))
        variances.append(torch.stack([each.var(0) for each in seen]).mean(0))
    mean = torch.stack(means).mean(0)
    spread = torch.stack([variance + (own - mean).square() for own, variance in zip(means, variances)]).mean(0)
    torch.testing.assert_close(found["norm.running_mean"], mean)
    torch.testing.assert_close(found["norm.running_var"], spread)
    for name in ("first.weight", "second.bias", "norm.weight", "count"):
        assert torch.equal(found[name], trained[name])


if __name__ == "__main__":
    run_cases(globals())
