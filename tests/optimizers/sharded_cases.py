"""Cases that need two processes; test_sharded.py starts them: ``python -m torch.distributed.run ... CASE``."""

from __future__ import annotations

import copy
import re
import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.implementation import choose
from lightning_solver.optimizers.recipe import resolve_optimizer
from lightning_solver.optimizers.sharded import refuse_sharded
from lightning_solver.resume import carry_state_by_name

warnings.simplefilter("ignore")
torch.set_num_threads(1)

RIGHT = ["Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD", "SGDW"]
OTHERS = [name for name in ("Muon", "Adafactor", "Rprop") if hasattr(torch.optim, name)]


def net(sharded: bool, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3, bias=bias), nn.Linear(3, 1, bias=bias))
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        optimizer.zero_grad()
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()


def full(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]


def same(a: nn.Module, b: nn.Module) -> None:
    for x, y in zip(full(a), full(b)):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def implementations() -> None:
    """What is chosen for sharded parameters trains them as whole ones are."""
    for name in RIGHT:
        recipe = resolve_optimizer(OptimizerSpec(name, {"lr": 0.05}))
        whole, sharded = net(False), net(True)
        refuse_sharded(recipe, list(sharded.parameters()))
        found = choose(recipe, list(sharded.parameters()))
        assert found.name in ("fused", "foreach"), (name, found)
        assert "sharded" in found.why
        steps(whole, recipe.cls(whole.parameters(), lr=0.05, foreach=False), 3)
        steps(sharded, recipe.build([{"params": list(sharded.parameters())}], found.args), 3)
        same(whole, sharded)
    assert choose(resolve_optimizer(OptimizerSpec("AdamW")), list(net(True).parameters())).name == "fused"


def mixed() -> None:
    """Plain and sharded parameters in one optimiser."""
    recipe, mesh = resolve_optimizer(OptimizerSpec("AdamW", {"lr": 0.1})), init_device_mesh("cpu", (2,))
    for placements in ([Shard(0)], [Shard(1)], [Replicate()]):
        values = torch.arange(12.0).reshape(4, 3)
        params = [nn.Parameter(distribute_tensor(values.clone(), mesh, placements)), nn.Parameter(values[0].clone())]
        found = choose(recipe, params)
        optimizer = recipe.build([{"params": params}], found.args)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        whole = nn.Parameter(values.clone())
        whole.grad = torch.ones_like(whole)
        torch.optim.AdamW([whole], lr=0.1).step()
        torch.testing.assert_close(params[0].full_tensor(), whole)
        torch.testing.assert_close(params[1], whole[0])


def refused() -> None:
    """An optimiser is refused if, and only if, its steps are not those of whole parameters."""
    mesh, verdicts = init_device_mesh("cpu", (2,)), {}
    for name in OTHERS:
        recipe = resolve_optimizer(OptimizerSpec(name, {"lr": 0.05}))
        for shape in ((64, 33), (33, 64), (7, 1), (1, 7), (5,)):
            if name == "Muon" and len(shape) != 2:
                continue
            values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            whole = nn.Parameter(values.clone())
            shards = nn.Parameter(distribute_tensor(values.clone(), mesh, [Shard(0)]))
            try:
                for param in (whole, shards):
                    param.grad = torch.ones_like(param) * 0.1 + 0.2 * param.detach()
                    recipe.build([{"params": [param]}]).step()
                off = float((shards.full_tensor() - whole).abs().max() / (whole - values).abs().max())
            except Exception:
                off = float("nan")
            verdicts[name, shape] = off <= 0.25
            if verdicts[name, shape]:
                refuse_sharded(recipe, [shards])
            else:
                what = f"optimizer: {name} cannot step over {list(shape)} sharded as Shard(dim=0) (FSDP2); got "
                with pytest.raises(SolverError, match=re.escape(what)):
                    refuse_sharded(recipe, [shards])
            refuse_sharded(recipe, [whole])
    if dist.get_rank() == 0:
        print(verdicts)


class ByShard(torch.optim.SGD):
    """Works on the shard as if it were the whole."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                local = param.grad.to_local() if isinstance(param, DTensor) else param.grad
                update = local / local.norm()
                target = param.to_local() if isinstance(param, DTensor) else param
                target.sub_(group["lr"] * update)


def wrong_in_silence() -> None:
    """Numbers that are wrong count as well as errors."""
    recipe = resolve_optimizer(OptimizerSpec(f"{ByShard.__module__}.ByShard"))
    with pytest.raises(
        SolverError, match=r"ByShard cannot step over .*; got an update that is off by \d+%; use another"
    ):
        refuse_sharded(recipe, list(net(True).parameters()))
    refuse_sharded(recipe, list(net(False).parameters()))


def composite() -> None:
    """A composite under FSDP2: steps, distributed state dicts, resumption by name."""

    def build(model: nn.Module) -> CompositeOptimizer:
        parts: dict[bool, dict[str, torch.Tensor]] = {True: {}, False: {}}
        for name, param in model.named_parameters():
            parts[param.ndim == 2][name] = param
        groups = [
            {"params": list(part.values()), "param_names": list(part), "name": str(i)} for i, part in parts.items()
        ]
        members = {
            "matrices": torch.optim.SGD([groups[0]], lr=0.05, momentum=0.9, foreach=True),
            "rest": torch.optim.AdamW([groups[1]], lr=0.1, fused=True),
        }
        made = CompositeOptimizer(members)
        carry_state_by_name(made, lambda: (made.param_groups, set(), ()))
        return made

    whole, sharded = net(False), net(True)
    reference, optimizer = build(whole), build(sharded)
    steps(whole, reference, 4)
    steps(sharded, optimizer, 2)
    for is_full in (True, False):
        options = StateDictOptions(full_state_dict=is_full)
        saved = copy.deepcopy(get_optimizer_state_dict(sharded, optimizer, options=options))
        again = net(True)
        again.load_state_dict(copy.deepcopy(sharded.state_dict()))
        resumed = build(again)
        set_optimizer_state_dict(again, resumed, saved, options=options)
        assert all(member.state is resumed.state for member in resumed.members.values())
        assert [group["lr"] for group in resumed.param_groups] == [0.05, 0.1]
        steps(again, resumed, 2, start=2)
        same(whole, again)


if __name__ == "__main__":
    sys.modules["sharded_cases"] = sys.modules["__main__"]
    ByShard.__module__ = "sharded_cases"
    dist.init_process_group("gloo")
    for case in sys.argv[1:]:
        globals()[case]()
    dist.barrier()
    dist.destroy_process_group()
