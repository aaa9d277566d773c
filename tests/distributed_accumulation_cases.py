"""Cases of accumulation that need two processes; test_distributed.py starts them, as those of distributed_cases.py."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torchdata.stateful_dataloader import StatefulDataLoader

from accumulation_runs import Batches, Regression, assert_close, assert_equal, model, solver
from lightning_solver import SolverSpec
from lightning_solver.averaging import EMA
from lightning_solver.schedules import Cosine
from small import loader, trainer
from two_processes import run_cases

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

RANK = int(os.environ.get("RANK", "0"))  # imported by those who look for doctests too
BOTH = Batches([1, 7, 3, 5, 2, 9, 4, 4, 6, 8, 1, 1, 5, 2, 3, 3, 8, 1, 2, 6])  # of the processes in turns
EQUAL = Batches([4] * 20)
KEPT = {"keep_gradients": True}


def of_this_process(batches: Batches) -> Batches:
    found = Batches([])
    found.made = batches.made[RANK::2]
    return found


class Sharded(Regression):
    def configure_model(self) -> None:
        assert self.device_mesh is not None
        if type(self.net).__name__.startswith("FSDP"):
            return
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.net[0], mesh=mesh)
        fully_shard(self.net, mesh=mesh)


def two_shards(**kwargs: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, **kwargs)


def full(tensor: Any) -> Tensor:
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return value.detach().clone()


def weights(net: Regression) -> dict[str, Tensor]:
    return {name: full(tensor) for name, tensor in net.named_parameters()}


class Save(Checkpoint):
    """Writes a checkpoint after some batches, and notes the weights after all."""

    def __init__(self, folder: Path | None = None, at: tuple[int, ...] = ()) -> None:
        self.folder, self.at = folder, at
        self.noted: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.noted.append(weights(pl_module))
        done = trainer.fit_loop.total_batch_idx + 1
        if done in self.at:
            assert self.folder is not None
            trainer.save_checkpoint(self.folder / f"{done}.ckpt")


def run(
    cls: type[Regression],
    strategy: Any,
    given: SolverSpec,
    batches: Batches = BOTH,
    *,
    save: Save | None = None,
    callbacks: tuple[Callback, ...] = (),
    **settings: Any,
) -> tuple[Regression, Any, list[dict[str, Tensor]]]:
    net = cls(given)
    note = save or Save()
    ckpt = settings.pop("ckpt", None)
    more: dict[str, Any] = {"max_epochs": 1, "use_distributed_sampler": False, "enable_checkpointing": True, **settings}
    fit = trainer(strategy=strategy, devices=2, callbacks=[note, *callbacks], **more)
    data = StatefulDataLoader(of_this_process(batches), batch_size=None)
    fit.fit(net, data, ckpt_path=ckpt, weights_only=True)
    return net, fit, note.noted


def by_hand(batches: Batches, lengths: list[int]) -> dict[str, Tensor]:
    """One process, one batch for each window of both."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for x, y in batches.merged([2 * length for length in lengths]).made:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return {f"net.{name}": tensor.detach() for name, tensor in net.named_parameters()}


WINDOWS: tuple[tuple[Any, list[int]], ...] = ((4, [4, 4, 2]), ({0: 1, 1: 4}, [1, 4, 4, 1]), (1, [1] * 10))


def exact(cls: type[Regression], strategy: Any) -> None:
    for given, lengths in WINDOWS:
        for by in ("samples", "count"):
            net, fit, _ = run(cls, strategy(), solver({"batches": given, "weigh_by": by}))
            assert fit.global_step == len(lengths)
            assert_close(weights(net), by_hand(BOTH, lengths))
        net, fit, _ = run(cls, strategy(), solver(given), EQUAL)
        assert_close(weights(net), by_hand(EQUAL, lengths))


def resumes(cls: type[Regression], strategy: Any, folder: Path, at: tuple[int, ...]) -> None:
    how = {"batches": {0: 3, 2: 4}, "weigh_by": "samples", **KEPT}
    given = solver(how, "AdamW", schedules={"lr": Cosine()}, averages={"ema": EMA(decay=0.9)})
    _, _, straight = run(cls, strategy(), given, save=Save(folder, at), max_epochs=2)
    for done in at:
        path = folder / f"{done}.ckpt"
        _, _, resumed = run(cls, strategy(), given, ckpt=path, max_epochs=2)
        assert len(resumed) == 20 - done
        for own, other in zip(resumed, straight[done:]):
            assert_equal(own, other)


def ddp_exact(folder: Path) -> None:
    """Batches of unequal size on every process are one large batch."""
    exact(Regression, DDPStrategy)


def fsdp2_exact(folder: Path) -> None:
    """The same of sharded gradients."""
    exact(Sharded, two_shards)


def ddp_resume(folder: Path) -> None:
    """Every process gets its own gradients back: in mid-window they have not been averaged yet."""
    resumes(Regression, DDPStrategy, folder, (2, 4, 11, 15))
    states = torch.load(folder / "2.ckpt", weights_only=True)["lightning_solver_window"]["states"]
    assert not torch.equal(*(state["gradients"]["net.0.weight"] for state in states))


def fsdp2_full_resume(folder: Path) -> None:
    resumes(Sharded, partial(two_shards, save_distributed_checkpoint=False), folder, (5, 11))


def fsdp2_sharded_resume(folder: Path) -> None:
    resumes(Sharded, partial(two_shards, save_distributed_checkpoint=True), folder, (5, 11))


def ddp_other_processes(folder: Path) -> None:
    """The gradients of four processes are none of two: the rest of the window makes the step."""
    given = solver({"batches": 4, **KEPT})
    run(Regression, DDPStrategy(), given, save=Save(folder, (2,)))
    if RANK == 0:
        saved = torch.load(folder / "2.ckpt", weights_only=True)
        states = saved["lightning_solver_window"].pop("states")
        torch.save(saved, folder / "none.ckpt")
        assert len(states) == 2
        saved["lightning_solver_window"]["states"] = [*states, *states]
        torch.save(saved, folder / "four.ckpt")
    torch.distributed.barrier()
    noted = [run(Regression, DDPStrategy(), given, ckpt=folder / f"{name}.ckpt")[2] for name in ("four", "none", "2")]
    for four, none in zip(*noted[:2]):
        assert_equal(four, none)
    assert not torch.equal(noted[0][-1]["net.0.weight"], noted[2][-1]["net.0.weight"])


def ddp_samples(folder: Path) -> None:
    """A target in samples counts the batches of all processes."""
    net = Small(
        SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "accumulate": {"samples": 24}})
    )
    fit = trainer(strategy=DDPStrategy(), devices=2, max_epochs=2)
    fit.fit(net, loader(56))
    assert net.solver_plan is not None
    assert net.solver_plan.run.batches_per_step == 3
    assert net.solver_plan.run.samples_per_step == 24
    assert fit.global_step == net.solver_plan.run.total_steps == 6  # 7 batches of 4 on each


class Small(Regression):
    def __init__(self, given: SolverSpec) -> None:
        super().__init__(given)
        self.net[0] = torch.nn.Linear(8, 8)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        return loss


if __name__ == "__main__":
    run_cases(globals())
