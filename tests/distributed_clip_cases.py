"""Clipping of sharded gradients in two processes, the torch core alone; started as those of distributed_cases.py are.

Each case clips the same gradients whole and in shards, and looks for the same afterwards on every process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.clipping.clipper import Clipper
from lightning_solver.clipping.norms import Gradients
from two_processes import run_cases

warnings.simplefilter("ignore")
torch.set_num_threads(1)

ORDERS: list[Any] = [0.5, 1.0, 2.0, 3.0, "inf"]


def kinds(limit: float) -> list[Clip]:
    by_norm = [kind(limit, order) for kind in (GlobalNorm, GroupNorm, ParameterNorm) for order in ORDERS]
    units = [AGC(limit, eps, order) for order in ORDERS for eps in (1e-3, 0.0)]
    return [*by_norm, *units, Value(limit), ZClip(max_norm=limit), AutoClip(percentile=30)]


def full(tensor: Any) -> Tensor:
    value: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return value.detach()


def everywhere(found: Tensor) -> None:
    """Every process has the same, bit by bit."""
    each = [torch.empty_like(found) for _ in range(2)]
    torch.distributed.all_gather(each, found.contiguous())
    assert torch.equal(*each)


def gradient_of(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.Generator().manual_seed(seed)
    scale = (1e-3, 1.0, 30.0)[seed % 3]
    return (scale * torch.randn(tuple(shape), generator=numbers, dtype=torch.float64)).to(dtype)


def compare(clip: Clip, sharded: Sequence[Sequence[Any]], plain: Sequence[Sequence[Any]], rtol: float = 1e-6) -> None:
    """The same gradients afterwards, and the same measured."""
    one, other = Clipper(clip, sharded), Clipper(clip, plain)
    found = [(clipper.apply(), clipper.apply(limit=None if clip.limit is None else clip.limit / 3)) for clipper in (one, other)]  # fmt: skip
    for ours, should in zip(*found):
        for name in ("norm", "clipped_norm", "share"):
            a, b = getattr(ours, name), getattr(should, name)
            torch.testing.assert_close(a, b, rtol=rtol, atol=0.0, msg=lambda text, name=name: f"{clip} {name}: {text}")
            everywhere(a.reshape(1))
        assert (ours.limit == should.limit) or abs(float(ours.limit) / float(should.limit) - 1) < rtol
    for a, b in zip([p for group in sharded for p in group], [p for group in plain for p in group], strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            whole = full(a.grad)
            torch.testing.assert_close(whole, b.grad, rtol=rtol, atol=1e-12, msg=lambda text: f"{clip}: {text}")
            everywhere(whole)


# ---------------------------------------------------------------------- tensors, laid out by hand


def laid(layouts: Sequence[tuple[Sequence[int], Any]], mesh: Any, dtype: torch.dtype = torch.float32) -> tuple[list[Any], list[Any]]:  # fmt: skip
    """Parameters with gradients, sharded as is told (``None``: not at all), and the same whole."""
    sharded, plain = [], []
    for seed, (shape, placements) in enumerate(layouts):
        weight, gradient = gradient_of(shape, seed + 50, dtype), gradient_of(shape, seed, dtype)
        if seed % 3 == 0:
            weight[:1] = 0.0
        whole = nn.Parameter(weight)
        whole.grad = gradient.clone()
        plain.append(whole)
        if placements is None:
            part = nn.Parameter(weight.clone())
            part.grad = gradient.clone()
        else:
            part = nn.Parameter(distribute_tensor(weight.clone(), mesh, placements))
            part.grad = distribute_tensor(gradient.clone(), mesh, placements)
        sharded.append(part)
    return sharded, plain


ONE_MESH: list[tuple[Sequence[int], Any]] = [
    ((5, 3), [Shard(0)]),  # three rows and two
    ((1, 4), [Shard(0)]),  # the second process has none
    ((7,), [Shard(0)]),  # one unit in two processes
    ((1,), [Shard(0)]),
    ((4, 5), [Shard(1)]),  # rows in two processes
    ((6, 2, 3, 3), [Shard(0)]),
    ((3, 4, 3, 3), [Shard(1)]),
    ((3, 4, 5), [Shard(-1)]),
    ((3, 2), [Replicate()]),
    ((4,), None),
    ((2, 3), None),
    ((0, 3), [Shard(0)]),
    ((3, 3), [Shard(0)]),  # of the same layout as the first
]


def shards(folder: Path) -> None:
    """Whatever their layout, sharded gradients are clipped as whole ones are."""
    mesh = init_device_mesh("cpu", (2,))
    for limit, dtype, rtol in ((0.01, torch.float32, 2e-6), (5.0, torch.float64, 1e-12), (1e6, torch.float32, 2e-6)):
        for clip in kinds(limit):
            sharded, plain = laid(ONE_MESH, mesh, dtype)
            sharded[5].grad = plain[5].grad = None
            compare(clip, [sharded[:6], sharded[6:]], [plain[:6], plain[6:]], rtol)


def half_precision(mesh: Any) -> None:
    """In half precision norms over shards are those in single precision."""
    for clip in kinds(0.5):
        sharded, plain = laid(ONE_MESH, mesh, torch.bfloat16)
        Clipper(clip, [sharded[:6], sharded[6:]]).apply()
        Clipper(clip, [plain[:6], plain[6:]]).apply()
        for a, b in zip(sharded, plain):
            torch.testing.assert_close(full(a.grad), b.grad, rtol=1e-2, atol=1e-4)


def shards_two_meshes(folder: Path) -> None:
    """A mesh of two dimensions: replicated in one, sharded in the other, or shards of shards as FSDP2 lays them."""
    for shape in ((1, 2), (2, 1)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner"))
        both: list[tuple[Sequence[int], Any]] = [
            ((5, 4), [Replicate(), Shard(0)]),
            ((5, 4), [Shard(0), Replicate()]),
            ((5, 4), [Shard(0), Shard(1)]),
            ((5, 4), [Shard(1), Shard(0)]),
            ((6,), [Shard(0), Shard(0)]),
            ((4, 3), [Shard(0), Shard(0)]),
            ((3, 3), None),
        ]
        for clip in kinds(0.3):
            sharded, plain = laid(both, mesh)
            compare(clip, [sharded[:3], sharded[3:]], [plain[:3], plain[3:]], 2e-6)

        # rows of a shard of a shard: which ones a process has is of no matter to norms
        for clip in kinds(0.3):
            sharded, plain = laid(both[2:5], mesh)
            weight, gradient = gradient_of((4, 3), 1), gradient_of((4, 3), 2)
            whole = nn.Parameter(weight)
            whole.grad = gradient.clone()
            rank = torch.distributed.get_rank()
            placements = (_StridedShard(0, split_factor=2), Replicate())[:: 1 if shape[0] == 2 else -1]
            mine = slice(2 * rank, 2 * rank + 2)

            def spread(tensor: Tensor, mine: slice = mine, mesh: Any = mesh, placements: Any = placements) -> DTensor:
                return DTensor.from_local(tensor[mine].clone(), mesh, placements, run_check=False)

            part = nn.Parameter(spread(weight))
            part.grad = spread(gradient)
            one, other = Clipper(clip, [[part], sharded]), Clipper(clip, [[whole], plain])
            found, should = one.apply(), other.apply()
            for name in ("norm", "clipped_norm", "share"):
                torch.testing.assert_close(getattr(found, name), getattr(should, name), rtol=2e-6, atol=0.0)
            torch.testing.assert_close(part.grad.to_local(), whole.grad[mine], rtol=2e-6, atol=1e-12)


def summands(mesh: Any) -> None:
    """Gradients of which each process has a summand are summed up before anything is looked at."""
    rank = torch.distributed.get_rank()
    for clip in kinds(0.3):
        sharded, plain = laid([((4, 3), [Replicate()]), ((5,), [Replicate()]), ((5, 2), [Shard(0)])], mesh)
        for a, b in zip(sharded[:2], plain[:2]):
            parts = [gradient_of(b.shape, seed) for seed in (7, 8)]
            b.grad = parts[0] + parts[1]
            a.grad = DTensor.from_local(parts[rank], mesh, [Partial()], run_check=False)
        compare(clip, [sharded], [plain], 5e-6)


def extremes(mesh: Any) -> None:
    """Numbers whose powers leave single precision, numbers that are not finite, and a share of what is sharded."""
    for scale in (1e-18, 1e18):
        whole = torch.tensor([[3.0, 0.0], [0.0, 4.0]]) * scale
        part = nn.Parameter(distribute_tensor(torch.ones(2, 2), mesh, [Shard(0)]))
        part.grad = distribute_tensor(whole, mesh, [Shard(0)])
        for order, norm in ((1.0, 7.0), (2.0, 5.0), (math.inf, 4.0)):
            assert abs(float(Gradients([part]).norm(order)) / (norm * scale) - 1) < 1e-6, (scale, order)
    for number in (math.nan, math.inf):
        for clip in (GlobalNorm(1.0), GlobalNorm(1.0, "inf"), ParameterNorm(1.0)):
            sharded, plain = laid(ONE_MESH[:4], mesh)
            broken = plain[0].grad.clone()
            broken[4, 1] = number  # in the second process
            plain[0].grad = broken
            sharded[0].grad = distribute_tensor(broken.clone(), mesh, [Shard(0)])
            found, should = clip.apply(sharded), clip.apply(plain)
            assert found.norm is not None
            assert should.norm is not None
            assert math.isnan(found.norm) == math.isnan(should.norm)
            assert math.isinf(found.norm) == math.isinf(should.norm)
            for a, b in zip(sharded, plain):
                torch.testing.assert_close(full(a.grad), b.grad, equal_nan=True, rtol=2e-6, atol=1e-12)


def few_words(mesh: Any) -> None:
    """How often the processes talk does not grow with the number of tensors that are sharded alike."""

    def said(clip: Clip, layouts: Sequence[Any], measure: bool) -> int:
        sharded, _ = laid(layouts, mesh)
        clipper = Clipper(clip, [sharded])
        with CommDebugMode() as mode:
            clipper.apply(measure=measure)
        return int(mode.get_total_counts())

    rows = [((5, 3), [Shard(0)]), ((4, 3, 2), [Shard(0)])]
    for many in (1, 20):
        assert said(GlobalNorm(0.1), rows * many, False) == 1
        assert said(ParameterNorm(0.1), rows * many, False) == 1
        assert said(Value(0.1), rows * many, False) == 0
        assert said(AGC(0.1), rows * many, False) == 0
        assert said(Value(0.1), rows * many, True) == 3
        assert said(GlobalNorm(0.1), [((5, 3), None)] * many, True) == 0


def shards_odd(folder: Path) -> None:
    """Types, summands, extremes, and how much is said."""
    mesh = init_device_mesh("cpu", (2,))
    half_precision(mesh)
    summands(mesh)
    extremes(mesh)
    few_words(mesh)


# ---------------------------------------------------------------------- models


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.LayerNorm(5)
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.norm(self.conv(inputs).mean((2, 3)))
        return self.scale * self.second(self.first(found).tanh())


def inputs_of(rank: int) -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(rank))


def of_a_module(mesh: Any) -> None:
    """Selectors find what they are for in a sharded module, and only that is clipped."""
    net, plain = Net(), Net()
    for module in (net.first, net.second, net):
        fully_shard(module, mesh=mesh)
    net(inputs_of(0)).square().mean().backward()
    plain(inputs_of(0)).square().mean().backward()
    clip = GlobalNorm(0.01, of={"match": "*"}, unless={"kind": ["norm", "bias"]})
    found, should = clip.apply(net), clip.apply(plain)
    torch.testing.assert_close(found.norm, should.norm, rtol=2e-5, atol=0.0)
    for (name, a), b in zip(net.named_parameters(), plain.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(full(a.grad), b.grad, rtol=2e-5, atol=1e-9, msg=name)


def fsdp2(folder: Path) -> None:
    """A model that FSDP2 shards has, after a backward, the one norm of the model that is not sharded."""
    mesh = init_device_mesh("cpu", (2,))
    rank = torch.distributed.get_rank()
    policies: list[dict[str, Any]] = [
        {},
        {"reshard_after_forward": False},
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)},
    ]
    for number, policy in enumerate(policies):
        for clip in kinds(0.05) if number == 0 else [GlobalNorm(0.05), AGC(0.02), Value(0.01)]:
            plain, net = Net(), Net()
            for module in (net.conv, net.first, net.second, net):
                fully_shard(module, mesh=mesh, **policy)
            (net(inputs_of(rank)).square().mean()).backward()
            if number == 2:  # the whole model's gradients are what the shards make together
                for a, b in zip(net.parameters(), plain.parameters()):
                    b.grad = None if a.grad is None else full(a.grad).clone()
            else:
                sum(plain(inputs_of(r)).square().mean() / 2 for r in range(2)).backward()  # type: ignore[union-attr]
            ours, whole = [*net.parameters()], [*plain.parameters()]
            assert sum(p.grad is None for p in ours) == 2
            compare(clip, [ours[:4], ours[4:]], [whole[:4], whole[4:]], 2e-5)
    of_a_module(mesh)


def tensor_parallel(folder: Path) -> None:
    """Tensor parallelism alone and with FSDP2 around it: rows here, columns there, and vectors that everyone has."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(self.down(self.up(inputs).relu()))

    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    for sizes in ((1, 2), (2, 1)):
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("data", "tensor"))
        for sharded in (False, True):
            for clip in kinds(0.05):
                plain, net = Block(), Block()
                plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
                parallelize_module(net, mesh["tensor"], plan)
                if sharded:
                    fully_shard(net, mesh=mesh["data"])
                net(inputs).square().mean().backward()
                plain(inputs).square().mean().backward()
                compare(clip, [[*net.parameters()]], [[*plain.parameters()]], 2e-5)


def learning(folder: Path) -> None:
    """Limits that are learnt from sharded gradients are the same on every process, and go on from a file."""
    mesh = init_device_mesh("cpu", (2,))
    for clip in (AutoClip(percentile=40, window=6), ZClip(warmup=4), ZClip(warmup=3, max_norm=2.0)):
        sharded, plain = laid(ONE_MESH[:9], mesh)
        one, other = Clipper(clip, [sharded]), Clipper(clip, [plain])
        for step in range(15):
            size = 20.0 if step in (5, 9, 10) else 1.0 + 0.1 * (step % 4)
            for seed, (a, b) in enumerate(zip(sharded, plain)):
                b.grad = size * gradient_of(b.shape, seed)
                a.grad = distribute_tensor(b.grad.clone(), mesh, a.placements)
            if step == 7:
                torch.save(one.state_dict(), folder / f"{torch.distributed.get_rank()}.pt")
                one = Clipper(clip, [sharded])
                one.load_state_dict(torch.load(folder / f"{torch.distributed.get_rank()}.pt", weights_only=True))
            found, should = one.apply(), other.apply()
            torch.testing.assert_close(found.clipped_norm, should.clipped_norm, rtol=2e-6, atol=0.0)
            assert found.clipped_norm is not None
            everywhere(found.clipped_norm.reshape(1))
            for a, b in zip(sharded, plain):
                torch.testing.assert_close(full(a.grad), b.grad, rtol=5e-6, atol=1e-12)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    run_cases(globals())
