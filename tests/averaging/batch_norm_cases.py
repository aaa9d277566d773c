"""Cases that need two processes; test_batch_norm.py starts them: ``python -m torch.distributed.run ... CASE``."""

from __future__ import annotations

import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from lightning_solver.averaging.batch_norm import estimate_statistics

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def mean(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def batches(rank: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [1000 + 10 * rank + (1 + rank) * torch.randn(5, 3, generator=generator) for _ in range(count)]


def statistics(counts: list[int]) -> tuple[Tensor, Tensor]:
    """What all processes together should find, by the formula, in float64."""
    every = [batch.double() for rank, count in enumerate(counts) for batch in batches(rank, count)]
    weights = torch.tensor([1.0 / len(every)] * len(every), dtype=torch.float64)
    means = [torch.stack([b.double().mean(0) for b in batches(rank, n)]).mean(0) for rank, n in enumerate(counts)]
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    inside = sum(weight * batch.var(0) for weight, batch in zip(weights, every))
    overall = sum(share * one for share, one in zip(shares, means))
    between = sum(share * one.square() for share, one in zip(shares, means)) - overall.square()
    return overall, inside + between


def check(module: nn.BatchNorm1d, counts: list[int]) -> None:
    overall, variance = statistics(counts)
    assert torch.allclose(module.running_mean.double(), overall, rtol=1e-6), (module.running_mean, overall)
    assert torch.allclose(module.running_var.double(), variance, rtol=1e-4), (module.running_var, variance)
    for buffer in (module.running_mean, module.running_var):
        assert torch.equal(mean(buffer), buffer)  # alike everywhere


def together(rank: int) -> None:
    norm = nn.BatchNorm1d(3)
    assert estimate_statistics(norm, batches(rank, 4), reduce=mean) == 4
    check(norm, [4, 4])


def uneven(rank: int) -> None:
    norm = nn.BatchNorm1d(3)
    estimate_statistics(norm, batches(rank, [4, 1][rank]), reduce=mean)
    check(norm, [4, 1])


def unreached(rank: int) -> None:
    """Layers of another size each; one that only the first process reaches, and one that none does."""
    module = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(2), nn.BatchNorm1d(1)])
    for layer in module:
        layer.running_mean.fill_(7.0)

    def forward(batch: Tensor) -> None:
        module[0](batch)
        if rank == 0:
            module[1](batch[:, :2])

    estimate_statistics(module, batches(rank, 2), forward=forward, reduce=mean)
    check(module[0], [2, 2])
    alone = torch.stack([b[:, :2].mean(0) for b in batches(0, 2)]).mean(0)
    assert torch.allclose(module[1].running_mean, alone), (module[1].running_mean, alone)
    assert module[2].running_mean.item() == 7.0


def sharded(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))

    plain, module = net(), net()
    for layer in module:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    for one in (plain, module):
        with (
            torch.inference_mode()
        ):  # as in a validation; what FSDP2 allocates for its gathered weights has to outlive it
            estimate_statistics(one, batches(rank, 3), reduce=mean)
    for name, buffer in plain.named_buffers():
        assert torch.allclose(dict(module.named_buffers())[name], buffer), name
    module(batches(rank, 1)[0]).sum().backward()  # and training goes on
    assert all(p.grad is not None for p in module.parameters())


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for case in sys.argv[1:]:
        globals()[case](dist.get_rank())
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of the process group may abort an orderly exit of the interpreter, after all is said and done
