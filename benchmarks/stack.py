"""What the whole stack costs a step of `fit`: python benchmarks/stack.py [threads]

Schedule, clipping, accumulation, an EMA and the monitor, beside a bare Trainer with the same optimiser, implementation
and logger, and beside the nearest that Lightning has of its own. 20 x Linear(128, 128), batch 32, a CSVLogger. Fits are
paired and interleaved, so that the ratios hold when the machine's speed drifts; medians, with the lowest and the
highest ratio behind them.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence

import torch
from averages import DECAY, Clock, interleaved, ratio
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_solver
from lightning_solver import SolverMixin, SolverSpec
from lightning_solver.callbacks import SolverMonitor

FITS, STEPS, WARM = 15, 400, 100  # fits of each kind, batches of a fit, how many of them do not count
BARE, OURS, LIGHTNING = "bare Trainer", "lightning-solver", "Lightning's own"
SCHEDULE = [
    {"class_path": "Linear", "init_args": {"start": 0.01, "until": "10%"}},
    {"class_path": "Cosine", "init_args": {"end": 0.01}},
]


class Layers(LightningModule):
    """20 linear layers, trained by AdamW or SGD as ours trains them: by the fused kernel."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(128, 128) for _ in range(20)))
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = (self.layers(batch[0]) - batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.optimizer)(self.parameters(), lr=1e-3, fused=True)


class Scheduled(Layers):
    """With a warm-up and a cosine, as Lightning's users write them."""

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        optimizer = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        warm, down = steps // 10, steps - steps // 10
        phases = [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, down, 1e-5),
        ]
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, phases, [warm])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Solved(SolverMixin, Layers):
    """By one specification."""

    def __init__(self, optimizer: str, accumulate: int) -> None:
        super().__init__(optimizer)
        self.solver = SolverSpec.from_dict(
            {
                "optimizer": {"name": optimizer, "args": {"lr": 1e-3}},
                "default_rules": False,
                "schedules": {"lr": SCHEDULE},
                "clip": {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0}},
                "accumulate": accumulate,
                "averages": {"ema": {"class_path": "EMA", "init_args": {"decay": DECAY}}},
            }
        )


def fit(make: Callable[[], LightningModule], callbacks: Sequence[Callback], **options: object) -> float:
    """Seconds of a batch of `fit`, from one to the next: the median of single batches, over whole windows."""
    torch.manual_seed(0)
    clock = Clock()
    loader = DataLoader(TensorDataset(torch.randn(32 * STEPS, 128)), batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=50,
            callbacks=[clock, *callbacks],
            **options,  # type: ignore[arg-type]
        )
        trainer.fit(make(), loader)
    assert len(clock.times) == STEPS
    # batches differ within a window: the time of windows of 8, a multiple of every window here
    taken = [after - before for before, after in itertools.pairwise(clock.times[WARM::8])]
    return statistics.median(taken) / 8


def kinds(optimizer: str, accumulate: int) -> dict[str, Callable[[], float]]:
    def bare() -> float:
        return fit(lambda: Layers(optimizer), [], accumulate_grad_batches=accumulate)

    def ours() -> float:
        return fit(lambda: Solved(optimizer, accumulate), [SolverMonitor()])

    def lightning() -> float:
        callbacks = [
            LearningRateMonitor(),
            EMAWeightAveraging(decay=DECAY),
            GradientAccumulationScheduler({0: accumulate}),
        ]
        return fit(lambda: Scheduled(optimizer), callbacks, gradient_clip_val=1.0)

    return {BARE: bare, OURS: ours, LIGHTNING: lightning}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("threads", nargs="?", type=int, default=2)
    reader.add_argument("--fits", type=int, default=FITS)
    given = reader.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    print(f"lightning_solver {lightning_solver.__version__}, torch {torch.__version__}", end=", ")
    print(f"Python {platform.python_version()}, {platform.machine()}, CPU, {given.threads} threads")
    print(f"20 x Linear(128, 128), batch 32, CSVLogger: {given.fits} fits of {STEPS} batches of each kind")
    for optimizer, accumulate in itertools.product(("AdamW", "SGD"), (1, 2)):
        found = interleaved(kinds(optimizer, accumulate), given.fits)
        print(f"fused {optimizer}, a step of {accumulate} batch{'es' * (accumulate > 1)}")
        for name, took in found.items():
            over = "" if name == BARE else f"over bare {ratio(took, found[BARE])}"
            print(f"  {name:18}  {1e3 * statistics.median(took):7.3f} ms a batch  {over}")


if __name__ == "__main__":
    main()
