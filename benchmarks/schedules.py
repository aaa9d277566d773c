"""What schedules and plans cost, beside torch's own schedulers: python benchmarks/schedules.py

Runs are paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and
the highest ratio behind them.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

import lightning_solver
from lightning_solver import OptimizerSpec, Rule, SolverSpec
from lightning_solver.schedules import Cosine, Linear

TOTAL, WARMUP, REPEATS, STEPS = 100_000, 1_000, 15, 2_000
PHASES = [Linear(start=0.001, until=WARMUP), Cosine(end=0.01)]


def ours(groups: int) -> Callable[[], None]:
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.zeros(2)) for i in range(groups)})
    rules = [Rule(match=f"p{i}", lr=0.1 / (i + 1)) for i in range(groups)]
    spec = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1}), rules=rules, schedules={"lr": PHASES})
    optimizer, scheduler = spec.plan(model, total_steps=TOTAL).build()
    assert len(optimizer.param_groups) == groups
    scheduler.last_epoch = WARMUP
    return scheduler.step


def torchs(groups: int, kind: str) -> Callable[[], None]:
    parameters = [{"params": [nn.Parameter(torch.zeros(2))], "lr": 0.1 / (i + 1)} for i in range(groups)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    if kind == "LambdaLR":
        scheduler = LambdaLR(optimizer, lambda t: min((t + 1) / WARMUP, 1.0))
        optimizer.step()
        return scheduler.step
    parts = [LinearLR(optimizer, 0.001, total_iters=1), CosineAnnealingLR(optimizer, TOTAL - 1)]
    scheduler = SequentialLR(optimizer, parts, milestones=[1])
    optimizer.step()
    scheduler.step()  # past the warm-up, as ours is
    return scheduler.step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    torch.set_num_threads(1)
    versions = f"lightning_solver {lightning_solver.__version__}, torch {torch.__version__}"
    print(f"{versions}, Python {platform.python_version()}")
    print(f"{platform.machine()}, 1 thread; one scheduler step, {STEPS} steps x {REPEATS} pairs\n")
    print("groups  peer            ours us  peer us  ours/peer (lowest .. highest)")
    for groups in (2, 200):
        for kind in ("LambdaLR", "SequentialLR"):
            pairs = [(seconds(ours(groups)), seconds(torchs(groups, kind))) for _ in range(REPEATS)]
            ratios = sorted(a / b for a, b in pairs)
            mine, peer = (1e6 * statistics.median(column) for column in zip(*pairs))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
            print(f"{groups:6}  {kind:14}  {mine:7.2f}  {peer:7.2f}  {spread}")

    spec = SolverSpec(schedules={"lr": PHASES})
    for steps, width in ((100_000, 10), (1_000_000, 4)):
        took = median_seconds(lambda: spec.curve("lr", [0.1] * width, total_steps=steps))  # noqa: B023
        print(f"\na whole run of {steps:,} steps x {width} groups: {took:.3f} s")
    for tensors in (1_000, 10_000):
        with torch.device("meta"):
            layers = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(tensors // 4)]
        model = nn.Sequential(*layers)
        full = SolverSpec(optimizer=OptimizerSpec("AdamW"), rules=[Rule(regex=r"^\d*0\.", lr_scale=0.1)])
        took = median_seconds(lambda: full.plan(model, total_steps=1000), 3)  # noqa: B023
        print(f"the plan of {tensors:,} tensors on the meta device: {took:.3f} s")


if __name__ == "__main__":
    main()
