"""What an average of the weights costs, beside those of other libraries: python benchmarks/averages.py [threads]

Runs are paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and
the highest ratio behind them. Peers that are not installed are left out, with a line that says so; `make parity` has an
environment with most of them. Memory is measured on Linux only, each figure in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

try:
    import torchvision  # noqa: F401  # which Lightning imports if it is there
except ImportError:
    pass
except RuntimeError:  # its operators are built for another torch; what is written in Python does
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/parity"))
    import torchvision_stub  # noqa: F401

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

import lightning_solver
from lightning_solver.averaging import EMA
from optimizers import ViT, resnet50, small_matrices

DECAY = 0.999
ROUNDS = 15
FITS, STEPS, WARM = 15, 300, 50  # fits of each kind, steps of a fit, how many of them do not count
OURS, BARE, FLAT = "lightning-solver", "bare _foreach_lerp_", "one flat lerp_"
LIGHTNING = "Lightning EMAWeightAveraging"


# ---------------------------------------------------------------------- models


class Bottleneck(nn.Module):
    """The parameters of a block of MobileNetV3: expansion, depthwise convolution, squeeze, excitation, projection."""

    def __init__(self, width_in: int, size: int, inner: int, width: int, squeeze: bool) -> None:
        super().__init__()
        if inner != width_in:
            self.expand = nn.Sequential(nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.depthwise = nn.Sequential(nn.Conv2d(inner, inner, size, groups=inner, bias=False), nn.BatchNorm2d(inner))
        if squeeze:
            narrow = (inner // 4 + 4) // 8 * 8
            narrow += 8 if narrow < 0.9 * (inner // 4) else 0  # never rounded down by more than a tenth
            self.squeeze = nn.Sequential(nn.Conv2d(inner, narrow, 1), nn.Conv2d(narrow, inner, 1))
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))


def mobilenet_v3() -> nn.Module:
    """The parameters of MobileNetV3-Large (Howard et al., 2019): 174 tensors, 5.5 million numbers, and 138 buffers."""
    rows = (  # size of the kernel, inner width, width, squeeze and excitation
        (3, 16, 16, False),
        (3, 64, 24, False),
        (3, 72, 24, False),
        (5, 72, 40, True),
        (5, 120, 40, True),
        (5, 120, 40, True),
        (3, 240, 80, False),
        (3, 200, 80, False),
        (3, 184, 80, False),
        (3, 184, 80, False),
        (3, 480, 112, True),
        (3, 672, 112, True),
        (5, 672, 160, True),
        (5, 960, 160, True),
        (5, 960, 160, True),
    )
    made: list[nn.Module] = [nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)]
    width_in = 16
    for size, inner, width, squeeze in rows:
        made.append(Bottleneck(width_in, size, inner, width, squeeze))
        width_in = width
    made += [nn.Conv2d(160, 960, 1, bias=False), nn.BatchNorm2d(960), nn.Linear(960, 1280), nn.Linear(1280, 1000)]
    return nn.Sequential(*made)


MODELS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {  # and how many updates are timed at a time
    "ResNet-50": (resnet50, 2),
    "ViT-B/16": (ViT, 1),
    "MobileNetV3-Large": (mobilenet_v3, 5),
    "2,000 tensors of 64 x 64": (lambda: small_matrices(2_000, 64), 5),
}


class Wrapped(LightningModule):
    """A module as Lightning has it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def floating(model: nn.Module) -> list[Tensor]:
    """The parameters and floating-point buffers, without their history."""
    return [tensor.detach() for tensor in model.state_dict().values() if tensor.is_floating_point()]


# ---------------------------------------------------------------------- averages


@dataclass
class Kept:
    """An average of a model, of ours or a peer's.

    Args:
        update: What is called after every step.
        value: The average of the model's last parameter.
        swap_in: Puts the average into the place of the weights, where the library can.
        swap_out: Takes it out again.
    """

    update: Callable[[], object]
    value: Callable[[], Tensor]
    swap_in: Callable[[], object] | None = None
    swap_out: Callable[[], object] | None = None


def ours(model: nn.Module) -> Kept:
    average = EMA(decay=DECAY).over(model)
    last = average.names.index([name for name, _ in model.named_parameters()][-1])
    return Kept(average.update, lambda: average.values[last], average.swap, average.swap)


def bare(model: nn.Module) -> Kept:
    weights = floating(model)
    averages = [weight.clone() for weight in weights]
    last = list(model.parameters())[-1]
    index = [weight.data_ptr() for weight in weights].index(last.data_ptr())
    return Kept(lambda: torch._foreach_lerp_(averages, weights, 1 - DECAY), lambda: averages[index])


def flat(model: nn.Module) -> Kept:
    weights = torch.cat([tensor.flatten() for tensor in floating(model)])
    average = weights.clone()
    return Kept(lambda: average.lerp_(weights, 1 - DECAY), lambda: average)


def lightning(model: nn.Module) -> Kept:
    """By the hooks that the Trainer calls."""
    callback, module, trainer = EMAWeightAveraging(decay=DECAY), Wrapped(model), SimpleNamespace(global_step=0)
    hooks: Any = callback
    hooks.setup(trainer, module, "fit")

    def update() -> None:
        trainer.global_step += 1
        hooks.on_train_batch_end(trainer, module, None, None, 0)

    return Kept(
        update,
        lambda: list(hooks._average_model.module.parameters())[-1],
        lambda: hooks.on_validation_epoch_start(trainer, module),
        lambda: hooks.on_validation_epoch_end(trainer, module),
    )


def torch_avg_fn(model: nn.Module) -> Kept:
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True)
    return Kept(lambda: average.update_parameters(model), lambda: list(average.module.parameters())[-1])


def torch_multi_avg_fn(model: nn.Module) -> Kept:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    return Kept(lambda: average.update_parameters(model), lambda: list(average.module.parameters())[-1])


def timm(model: nn.Module) -> Kept:
    average = import_module("timm.utils").ModelEmaV3(model, decay=DECAY)
    return Kept(lambda: average.update(model), lambda: list(average.module.parameters())[-1])


def mmengine(model: nn.Module) -> Kept:
    average = import_module("mmengine.model").ExponentialMovingAverage(model, 1 - DECAY, update_buffers=True)
    return Kept(lambda: average.update_parameters(model), lambda: list(average.module.parameters())[-1])


def _ema_pytorch(model: nn.Module, foreach: bool) -> Kept:
    options = {"beta": DECAY, "min_value": DECAY, "update_after_step": 0, "update_every": 1, "use_foreach": foreach}
    average = import_module("ema_pytorch").EMA(model, **options)
    return Kept(average.update, lambda: list(average.ema_model.parameters())[-1])


def ema_pytorch(model: nn.Module) -> Kept:
    return _ema_pytorch(model, foreach=False)


def ema_pytorch_foreach(model: nn.Module) -> Kept:
    return _ema_pytorch(model, foreach=True)


AVERAGES: Mapping[str, Callable[[nn.Module], Kept]] = {
    OURS: ours,
    BARE: bare,
    FLAT: flat,
    LIGHTNING: lightning,
    "torch AveragedModel, avg_fn": torch_avg_fn,
    "torch AveragedModel, multi_avg_fn": torch_multi_avg_fn,
    "timm ModelEmaV3": timm,
    "mmengine ExponentialMovingAverage": mmengine,
    "ema_pytorch EMA": ema_pytorch,
    "ema_pytorch EMA, foreach": ema_pytorch_foreach,
}


def installed() -> dict[str, Callable[[nn.Module], Kept]]:
    """The averages that can be measured here; says which cannot."""
    found = {}
    for name, make in AVERAGES.items():
        try:
            make(nn.Linear(2, 2))
        except ImportError as error:
            print(f"left out: {name} ({error})")
        else:
            found[name] = make
    return found


# ---------------------------------------------------------------------- time


def seconds(work: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


def interleaved(work: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each gives, round by round, in an order that turns; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(work[name]())
    return {name: values[1:] for name, values in found.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    ratios = sorted(a / b for a, b in zip(above, below))
    return f"{statistics.median(ratios):6.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"


def milliseconds(took: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(took):8.3f}"


def check(kept: Mapping[str, Kept], model: nn.Module) -> None:
    """Let every average take in other weights once, and compare: all of them do the same work."""
    for _ in range(2):  # some copy the weights once or twice at first
        for average in kept.values():
            average.update()
    last = list(model.parameters())[-1].detach()
    before = last.clone()
    last.add_(1.0)
    for name, average in kept.items():
        average.update()
        if name != FLAT:
            torch.testing.assert_close(average.value().detach(), before + (1 - DECAY), rtol=0, atol=1e-5, msg=name)


@torch.no_grad()
def updates(makers: Mapping[str, Callable[[nn.Module], Kept]]) -> None:
    print("\none update, parameters and floating-point buffers: ms, and over ours (lowest .. highest)")
    for title, (make, count) in MODELS.items():
        model = make()
        tensors = floating(model)
        numbers = sum(tensor.numel() for tensor in tensors) / 1e6
        kept = {name: maker(model) for name, maker in makers.items()}
        check(kept, model)
        found = interleaved(
            {name: lambda work=one.update, count=count: seconds(work, count) for name, one in kept.items()}, ROUNDS
        )
        print(f"{title}: {len(tensors):,} tensors, {numbers:.1f} M numbers")
        for name, took in found.items():
            over = "" if name == OURS else ratio(took, found[OURS])
            print(f"  {name:36}  {milliseconds(took)}  {over}")
        for name in (BARE, FLAT):
            print(f"  ours over {name:26}  {'':8}  {ratio(found[OURS], found[name])}")
        del kept
        gc.collect()


@torch.no_grad()
def swaps() -> None:
    print("\nms to put the average into the place of the weights, and to take it out again")
    for title, (make, _) in MODELS.items():
        model = make()
        kept = {OURS: ours(model), LIGHTNING: lightning(model)}
        work: dict[str, Callable[[], float]] = {}
        for name, average in kept.items():
            average.update()
            assert average.swap_in is not None
            assert average.swap_out is not None
            work[f"{name}, in"] = lambda way=average.swap_in: seconds(way, 1)
            work[f"{name}, out"] = lambda way=average.swap_out: seconds(way, 1)
        found: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(ROUNDS + 1):  # in and out stay in this order, the libraries take turns
            pairs = [list(work)[:2], list(work)[2:]]
            for name in itertools.chain(*(pairs if turn % 2 else reversed(pairs))):
                found[name].append(work[name]())
        print(title)
        for name in kept:
            into, out = (milliseconds(found[f"{name}, {way}"][1:]) for way in ("in", "out"))
            print(f"  {name:36}  {into}  {out}")
        del kept, work
        gc.collect()


# ---------------------------------------------------------------------- memory


def resident(field: str) -> int:
    """Bytes of memory of this process: now (`VmRSS`), or the most since it was last asked to forget (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak(work: Callable[[], object]) -> int:
    """The bytes that a call needs beyond those in use before it."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return resident("VmHWM") - before


def memory_of(name: str) -> None:
    """Print what an average of a ViT-B needs, in shares of its weights: beside it, in an update, in a swap."""
    torch.set_num_threads(1)
    model = ViT()
    AVERAGES[name](nn.Linear(2, 2))  # imports what it needs
    weights = sum(tensor.numel() * tensor.element_size() for tensor in floating(model))
    gc.collect()
    before = resident("VmRSS")
    kept = AVERAGES[name](model)
    kept.update()
    gc.collect()
    found = [resident("VmRSS") - before, peak(kept.update)]
    if kept.swap_in is not None and kept.swap_out is not None:
        found += [max(peak(kept.swap_in), peak(kept.swap_out))]
    print(*(f"{share / weights:.4f}" for share in found))


def memory(makers: Mapping[str, Callable[[nn.Module], Kept]]) -> None:
    print("\nmemory for an average of ViT-B/16, in shares of its weights: kept, more in an update, more in a swap")
    if not Path("/proc/self/clear_refs").exists():
        print("  not measured: this is not Linux")
        return
    # Blocks that are freed go back to the system at once, so that every block in use is seen.
    surroundings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name in makers:
        if name in (BARE, FLAT):
            continue
        command = [sys.executable, __file__, "--memory", name]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
        print(f"  {name:36}  " + "  ".join(f"{float(share):7.3f}" for share in done.stdout.split()[-3:]))


# ---------------------------------------------------------------------- fit


class Stack(LightningModule):
    """20 linear layers."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(128, 128) for _ in range(20)))
        self.fused = fused

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.layers(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.fused:
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=True)
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Clock(Callback):
    """When each batch begins."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        self.times.append(time.perf_counter())


def fit(callbacks: Sequence[Callback], fused: bool) -> float:
    """Seconds of a step of `fit`, from one batch to the next: the median."""
    torch.manual_seed(0)
    clock = Clock()
    loader = DataLoader(TensorDataset(torch.randn(32 * STEPS, 128)), batch_size=32)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *callbacks],
    )
    trainer.fit(Stack(fused), loader)
    assert len(clock.times) == STEPS
    return statistics.median(after - before for before, after in itertools.pairwise(clock.times[WARM:]))


def fits() -> None:
    from lightning_solver.callbacks import EMA as Callback  # noqa: N811

    print(f"\na step of fit, 20 x Linear(128, 128), batch 32: {FITS} fits of {STEPS} steps of each kind")
    for fused, title in ((False, "torch.optim.AdamW"), (True, "fused SGD, whose step is shortest")):
        kinds: dict[str, Callable[[], float]] = {
            "without": lambda fused=fused: fit([], fused),
            OURS: lambda fused=fused: fit([Callback(decay=DECAY)], fused),
            LIGHTNING: lambda fused=fused: fit([EMAWeightAveraging(decay=DECAY)], fused),
        }
        found = interleaved(kinds, FITS)
        for name, took in found.items():
            over = ratio(took, found["without"])
            print(f"  {title}: {name:30}  {1e3 * statistics.median(took):7.3f} ms  over without {over}")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("threads", nargs="?", type=int, default=2)
    reader.add_argument("--memory", choices=list(AVERAGES), help="only print what this average needs")
    reader.add_argument("--only", choices=["updates", "swaps", "memory", "fits"])
    given = reader.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if given.memory:
        memory_of(given.memory)
        return
    torch.set_num_threads(given.threads)
    versions = f"lightning_solver {lightning_solver.__version__}, torch {torch.__version__}"
    print(f"{versions}, Python {platform.python_version()}")
    print(f"{platform.machine()}, CPU, {given.threads} threads, float32; EMA, {ROUNDS} rounds")
    makers = installed()
    parts: dict[str, Callable[[], None]] = {
        "updates": lambda: updates(makers),
        "swaps": swaps,
        "memory": lambda: memory(makers),
        "fits": fits,
    }
    for name, part in parts.items():
        if given.only in (None, name):
            part()


if __name__ == "__main__":
    main()
