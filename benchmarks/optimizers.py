"""What a step costs, beside torch's optimisers as people write them: python benchmarks/optimizers.py

Runs are paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and
the highest ratio behind them.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

import lightning_solver
from lightning_solver import OptimizerSpec, SolverSpec
from lightning_solver.optimizers.composite import CompositeOptimizer

THREADS, REPEATS = 1, 15


def resnet50() -> nn.Module:
    """Modules with the parameters of ResNet-50 (He et al., 2016): 161 tensors, 25.6 million numbers."""
    made: list[nn.Module] = []

    def convolution(inner: int, outer: int, size: int) -> None:
        made.extend([nn.Conv2d(inner, outer, size, bias=False), nn.BatchNorm2d(outer)])

    convolution(3, 64, 7)
    width_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(width_in, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(width_in, 4 * width, 1)
            width_in = 4 * width
    made.append(nn.Linear(2048, 1000))
    return nn.Sequential(*made)


class ViT(nn.Module):
    """The parameters of ViT-B/16 (Dosovitskiy et al., 2021): 152 tensors, 86.6 million numbers."""

    def __init__(self, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 197, width))
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 3 * width),
                nn.Linear(width, width),
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)


def small_matrices(count: int = 2_000, side: int = 16) -> nn.Module:
    """Many small tensors."""
    return nn.ParameterList([nn.Parameter(torch.zeros(side, side)) for _ in range(count)])


def with_gradients(model: nn.Module) -> nn.Module:
    """Gradients as autograd lays them out; none is 0."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        tensor.grad = torch.empty_like(tensor).copy_(torch.randn(tensor.shape, generator=generator))
    return model


def ours(model: nn.Module) -> Optimizer:
    """AdamW as a spec gives it: groups of equal settings, the fastest implementation."""
    spec = SolverSpec(optimizer=OptimizerSpec("AdamW", {"lr": 1e-3, "weight_decay": 0.05}))
    return spec.plan(model, total_steps=100).build()[0]


def plain(model: nn.Module) -> Optimizer:
    """AdamW as people write it."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)


def group_per_parameter(model: nn.Module) -> Optimizer:
    """One group for each parameter, as MMCV, detectron2 and Pet build them; fused."""
    return torch.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=1e-3, weight_decay=0.05, fused=True)


def seconds(step: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def pairs(a: Callable[[], object], b: Callable[[], object], count: int) -> list[tuple[float, float]]:
    """Seconds of both, one after the other, in turns; the first round is not counted."""
    found = []
    for turn in range(REPEATS + 1):
        if turn % 2:
            took_b, took_a = seconds(b, count), seconds(a, count)
        else:
            took_a, took_b = seconds(a, count), seconds(b, count)
        found.append((took_a, took_b))
    return found[1:]


def report(name: str, measured: Sequence[tuple[float, float]]) -> None:
    ratios = sorted(b / a for a, b in measured)
    mine, peer = (1e3 * statistics.median(column) for column in zip(*measured))
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
    print(f"{name:58}  {mine:8.2f}  {peer:8.2f}  {spread}")


def tensors(model: nn.Module) -> str:
    held = list(model.parameters())
    return f"{len(held):,} tensors, {sum(tensor.numel() for tensor in held) / 1e6:.1f} M"


def members(layers: Iterable[nn.Module]) -> dict[str, Optimizer]:
    """Muon for the matrices, AdamW for the rest."""
    held = [tensor for layer in layers for tensor in layer.parameters()]
    return {
        "muon": torch.optim.Muon([tensor for tensor in held if tensor.ndim == 2], lr=1e-3),
        "adamw": torch.optim.AdamW([tensor for tensor in held if tensor.ndim != 2], lr=1e-3, fused=True),
    }


def alike(layers: Iterable[nn.Module]) -> dict[str, Optimizer]:
    """Two fused optimisers, whose own steps are short."""
    held = [tensor for layer in layers for tensor in layer.parameters()]
    return {
        "a": torch.optim.SGD([tensor for tensor in held if tensor.ndim == 2], lr=1e-3, fused=True),
        "b": torch.optim.AdamW([tensor for tensor in held if tensor.ndim != 2], lr=1e-3, fused=True),
    }


def composite_overhead(make: Callable[[Iterable[nn.Module]], dict[str, Optimizer]]) -> list[float]:
    """Microseconds that a step of the composite takes beyond the sum of its members' steps, one figure a turn."""
    apart = list(make([with_gradients(nn.Linear(16, 16))]).values())
    together = CompositeOptimizer(make([with_gradients(nn.Linear(16, 16))]))

    def each() -> None:
        for member in apart:
            member.step()

    return [1e6 * (a - b) for a, b in pairs(together.step, each, 500)]


def main() -> None:
    torch.set_num_threads(THREADS)
    versions = f"lightning_solver {lightning_solver.__version__}, torch {torch.__version__}"
    print(f"{versions}, Python {platform.python_version()}")
    print(f"{platform.machine()}, CPU, {THREADS} thread, float32; one optimizer.step of AdamW, {REPEATS} pairs\n")
    print(f"{'ours / peer':58}  {'ours ms':>8}  {'peer ms':>8}  peer/ours (lowest .. highest)")
    for name, make, count in (("ResNet-50", resnet50, 2), ("ViT-B/16", ViT, 1)):
        a, b = with_gradients(make()), with_gradients(make())
        label = f"{name} ({tensors(a)}) / AdamW(params)"
        report(label, pairs(ours(a).step, plain(b).step, count))
        del a, b
    a, b = with_gradients(small_matrices()), with_gradients(small_matrices())
    report(f"{tensors(a)} of 16 x 16 / a group each", pairs(ours(a).step, group_per_parameter(b).step, 5))
    print()
    for name, make in (("Muon and AdamW", members), ("fused SGD and fused AdamW", alike)):
        found = sorted(composite_overhead(make))
        spread = f"{statistics.median(found):.1f} us ({found[0]:.1f} .. {found[-1]:.1f})"
        print(f"the composite beyond its members' sum, {name}: {spread}")


if __name__ == "__main__":
    main()
