"""What clipping costs, beside torch's and timm's functions: python benchmarks/clipping.py [threads]

Runs are paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and
the highest ratio behind them. Gradients are written anew, outside of the time that is taken, before every clipping.
timm is left out, with a line that says so, where it is not installed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

try:
    import torchvision  # noqa: F401  # which timm imports
except ImportError:
    pass
except RuntimeError:  # its operators are built for another torch; what is written in Python does
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/parity"))
    import torchvision_stub  # noqa: F401

from averages import interleaved, milliseconds, mobilenet_v3, ratio

import lightning_solver
from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, ParameterNorm, Value, ZClip
from optimizers import ViT, resnet50, small_matrices

ROUNDS = 25
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-50": resnet50,
    "ViT-B/16": ViT,
    "MobileNetV3-Large": mobilenet_v3,
    "2,000 tensors of 16 x 16": lambda: small_matrices(2_000, 16),
    "20 x Linear(128, 128)": lambda: nn.Sequential(*(nn.Linear(128, 128) for _ in range(20))),
}
Work = Callable[[Sequence[nn.Parameter]], object]


def ours(clip: Clip) -> Callable[[Sequence[nn.Parameter]], Callable[[], object]]:
    def make(parameters: Sequence[nn.Parameter]) -> Callable[[], object]:
        clipper = clip.over(parameters)
        return lambda: clipper.apply(measure=False)

    return make


def theirs(work: Work) -> Callable[[Sequence[nn.Parameter]], Callable[[], object]]:
    return lambda parameters: lambda: work(parameters)


def loop(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        clip_grad_norm_(parameter, SMALL)


def timm_agc(factor: float) -> Work:
    agc = import_module("timm.utils.agc").adaptive_clip_grad
    return lambda parameters: agc(parameters, clip_factor=factor)


SMALL, LARGE = 1e-3, 1e9
PAIRS: Mapping[str, tuple[Clip, Callable[[], Work] | None]] = {
    "global norm, clips": (GlobalNorm(max_norm=SMALL), lambda: lambda ps: clip_grad_norm_(ps, SMALL)),
    "global norm, need not": (GlobalNorm(max_norm=LARGE), lambda: lambda ps: clip_grad_norm_(ps, LARGE)),
    "norm of each, beside a loop": (ParameterNorm(max_norm=SMALL), lambda: loop),
    "value": (Value(max_value=SMALL), lambda: lambda ps: clip_grad_value_(ps, SMALL)),
    "AGC, clips, beside timm": (AGC(factor=SMALL), lambda: timm_agc(SMALL)),
    "AGC, need not, beside timm": (AGC(factor=LARGE), lambda: timm_agc(LARGE)),
    "AutoClip, beside torch's norm": (AutoClip(), lambda: lambda ps: clip_grad_norm_(ps, SMALL)),
    "ZClip, beside torch's norm": (ZClip(), lambda: lambda ps: clip_grad_norm_(ps, SMALL)),
}


def measured(
    parameters: Sequence[nn.Parameter], drawn: Sequence[Tensor], work: Callable[[], object]
) -> Callable[[], float]:
    """Seconds of one clipping of the drawn gradients."""

    def once() -> float:
        torch._foreach_copy_([parameter.grad for parameter in parameters], list(drawn))
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return once


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("threads", type=int, nargs="?", default=2)
    threads = reader.parse_args().threads
    torch.set_num_threads(threads)
    versions = f"torch {torch.__version__}, lightning_solver {lightning_solver.__version__}"
    print(f"Python {platform.python_version()}, {versions}, {threads} threads; {ROUNDS} rounds, medians")
    left_out: dict[str, str] = {}
    for title, make in MODELS.items():
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(p.shape, generator=generator)) for p in make().parameters()]
        drawn = [torch.randn(p.shape, generator=generator) for p in parameters]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        print(f"{title}: {len(parameters):,} tensors, {sum(p.numel() for p in parameters) / 1e6:.1f} M numbers")
        for name, (clip, peer) in PAIRS.items():
            work = {"ours": measured(parameters, drawn, ours(clip)(parameters))}
            try:
                other = None if peer is None else peer()
            except ImportError as error:
                left_out[name] = str(error)
                continue
            if other is not None:
                work["peer"] = measured(parameters, drawn, theirs(other)(parameters))
            found = interleaved(work, ROUNDS)
            line = f"  {name:32}  ours {milliseconds(found['ours'])} ms, peer {milliseconds(found['peer'])} ms"
            print(f"{line}; ours / peer {ratio(found['ours'], found['peer'])}")
    for name, why in left_out.items():
        print(f"left out: {name} ({why})")


if __name__ == "__main__":
    main()
