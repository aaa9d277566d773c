"""What schedules and plans cost, beside torch's own schedulers: python benchmarks/schedules.py

Runs are paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and
the highest ratio behind them.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    SequentialLR,
)

import lightning_solver
from lightning_solver import OptimizerSpec, Rule, SolverSpec
from lightning_solver.schedules import Cosine, Cycle, Linear, MultiStep, Plateau, Product, Warmup

TOTAL, WARMUP, REPEATS, STEPS = 100_000, 1_000, 15, 2_000
RAMP = Linear(start=0.001, until=WARMUP)
PHASES = [RAMP, Cosine(end=0.01)]


def ours(schedule: Any, groups: int = 2, parameters: int = 1) -> Callable[[], None]:
    """One step of our scheduler, past its warm-up."""
    model = nn.ParameterDict(
        {f"p{i}_{j}": nn.Parameter(torch.zeros(2)) for i in range(groups) for j in range(parameters)}
    )
    rules = [Rule(match=f"p{i}_*", lr=0.1 / (i + 1)) for i in range(groups)]
    spec = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1}), rules=rules, schedules={"lr": schedule})
    optimizer, scheduler = spec.plan(model, total_steps=TOTAL).build()
    assert len(optimizer.param_groups) == groups
    scheduler.last_epoch = WARMUP
    return scheduler.step


def torchs(make: Callable[[Any], Any], groups: int = 2, parameters: int = 1) -> Callable[[], None]:
    """One step of a scheduler of torch."""
    optimizer = torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(2)) for _ in range(parameters)], "lr": 0.1 / (i + 1)}
            for i in range(groups)
        ],
        lr=0.1,
    )
    scheduler = make(optimizer)
    optimizer.step()
    scheduler.step()  # past its warm-up
    step: Callable[[], None] = scheduler.step
    return step


def by_function(optimizer: Any) -> Any:
    return LambdaLR(optimizer, lambda t: min((t + 1) / WARMUP, 1.0))


def in_sequence(optimizer: Any) -> Any:
    parts = [LinearLR(optimizer, 0.001, total_iters=1), CosineAnnealingLR(optimizer, TOTAL - 1)]
    return SequentialLR(optimizer, parts, milestones=[1])


def chained(optimizer: Any) -> Any:
    return ChainedScheduler([LinearLR(optimizer, 0.001, total_iters=WARMUP), MultiStepLR(optimizer, [30_000, 60_000])])


def restarting(optimizer: Any) -> Any:
    return CosineAnnealingWarmRestarts(optimizer, T_0=10_000, T_mult=2)


MULTIPLIED = Warmup(ramp=RAMP, of=MultiStep(at=[30_000, 60_000]), meets="multiply")
PAIRS: list[tuple[str, Any, Callable[[Any], Any], int, int]] = [
    ("warm-up, cosine / LambdaLR", PHASES, by_function, 2, 1),
    ("warm-up, cosine / SequentialLR", PHASES, in_sequence, 2, 1),
    ("warm-up, cosine / LambdaLR", PHASES, by_function, 200, 1),
    ("warm-up, cosine / SequentialLR", PHASES, in_sequence, 200, 1),
    ("warm-up, cosine / SequentialLR", PHASES, in_sequence, 2, 2_000),
    ("warm-up x stairs / ChainedScheduler", MULTIPLIED, chained, 2, 1),
    ("restarts / CosineAnnealingWarmRestarts", Cycle(Cosine(), every=10_000, grow=2), restarting, 2, 1),
    ("cosine x plateau / SequentialLR", Product([PHASES, Plateau("loss")]), in_sequence, 2, 1),
]


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
    print(f"{'ours / peer':40}  groups  parameters  ours us  peer us  ours/peer (lowest .. highest)")
    for name, schedule, make, groups, parameters in PAIRS:
        pairs = [
            (seconds(ours(schedule, groups, parameters)), seconds(torchs(make, groups, parameters)))
            for _ in range(REPEATS)
        ]
        ratios = sorted(a / b for a, b in pairs)
        mine, peer = (1e6 * statistics.median(column) for column in zip(*pairs))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        print(f"{name:40}  {groups:6}  {groups * parameters:10}  {mine:7.2f}  {peer:7.2f}  {spread}")

    print()
    for steps, width in ((100_000, 10), (1_000_000, 4)):
        for name, schedule in (("warm-up, cosine", PHASES), ("warm-up x stairs", MULTIPLIED)):
            spec = SolverSpec(schedules={"lr": schedule})
            took = median_seconds(lambda: spec.curve("lr", [0.1] * width, total_steps=steps))  # noqa: B023
            print(f"a whole run of {steps:,} steps x {width} groups, {name}: {took:.3f} s")
    for tensors in (1_000, 10_000):
        with torch.device("meta"):
            layers = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(tensors // 4)]
        model = nn.Sequential(*layers)
        full = SolverSpec(optimizer=OptimizerSpec("AdamW"), rules=[Rule(regex=r"^\d*0\.", lr_scale=0.1)])
        took = median_seconds(lambda: full.plan(model, total_steps=1000), 3)  # noqa: B023
        print(f"the plan of {tensors:,} tensors on the meta device: {took:.3f} s")


if __name__ == "__main__":
    main()
