"""A GAN that draws digits: two optimisers under manual optimisation, each with its own schedule.

python gan.py {plan,fit} --config gan.yaml
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_solver import SolverCLI, SolverMixin, SolverSpec

DIGITS, PIXELS = 10, 64

# All images are in memory: loader processes, which Lightning recommends, would only take time to start.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# A matter between Lightning and torch.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated.*")


def load_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits: images of shape (N, 64) with values from 0 to 1, and what they show."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise SystemExit("the images come with scikit-learn: pip install -r requirements.txt") from error
    bunch = datasets.load_digits()
    return torch.tensor(bunch.data, dtype=torch.float32) / 16.0, torch.tensor(bunch.target, dtype=torch.long)


class DigitsData(LightningDataModule):
    """All digits, shuffled anew in each epoch; incomplete batches are left out."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*load_digits()), batch_size=self.batch_size, shuffle=True, drop_last=True)


class DigitGan(SolverMixin, LightningModule):
    """A conditional GAN (Mirza and Osindero 2014): the generator draws the digit that it is asked for.

    Args:
        solver: How generator and discriminator are trained, by their names.
        noise: Random numbers that the generator makes an image of.
        width: Width of the hidden layers.
    """

    def __init__(self, solver: dict[str, SolverSpec] | None = None, noise: int = 32, width: int = 256) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.solver = solver
        self.noise = noise
        self.generator = nn.Sequential(
            *[nn.Linear(noise + DIGITS, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()],
            *[nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()],
            *[nn.Linear(width, PIXELS), nn.Sigmoid()],
        )
        self.discriminator = nn.Sequential(
            *[nn.Linear(PIXELS + DIGITS, width), nn.LeakyReLU(0.2), nn.Dropout(0.3)],
            *[nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Dropout(0.3)],
            nn.Linear(width, 1),
        )

    def forward(self, digits: Tensor) -> Tensor:
        """Images of these digits, of shape (N, 64)."""
        noise = torch.randn(len(digits), self.noise, device=digits.device)
        return self.generator(torch.cat([noise, functional.one_hot(digits, DIGITS)], dim=1))

    def looks_real(self, images: Tensor, digits: Tensor) -> Tensor:
        """Whether these look like real images of these digits: scores of shape (N, 1), above 0 for yes."""
        return self.discriminator(torch.cat([images, functional.one_hot(digits, DIGITS)], dim=1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, digits = batch
        with self.solver_turn("discriminator") as turn:
            real, drawn = self.looks_real(images, digits), self.looks_real(self(digits), digits)
            # 0.9: what is real is not quite sure (one-sided label smoothing, Salimans et al. 2016)
            loss = judged(real, 0.9) + judged(drawn, 0.0)
            turn.step(loss)
            self.log("discriminator_loss", loss)
        with self.solver_turn("generator") as turn:
            loss = judged(self.looks_real(self(digits), digits), 1.0)
            turn.step(loss)
            self.log("generator_loss", loss, prog_bar=True)


def judged(scores: Tensor, truth: float) -> Tensor:
    """The cross entropy of scores that should all say ``truth``."""
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """How far apart two sets of images are: the Frechet distance of normal distributions fitted to their pixels."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.double().mean(0).numpy(), np.cov(x.double().numpy().T)) for x in (a, b))
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0.0))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * roots.sum())


def right_digits(images: Tensor, digits: Tensor) -> float:
    """The part of the images in which a classifier that was trained on real ones sees the right digit."""
    from sklearn.svm import SVC

    real, shown = load_digits()
    return float(SVC().fit(real.numpy(), shown.numpy()).score(images.numpy(), digits.numpy()))


def draw_grid(images: Tensor, path: Path) -> Path:
    """Write images of shape (rows * 10, 64) as a picture with a column for each digit."""
    from matplotlib.figure import Figure

    rows = len(images) // DIGITS
    grid = images.reshape(rows, DIGITS, 8, 8)
    framed = functional.pad(grid, (1, 1, 1, 1), value=0.3).permute(0, 2, 1, 3).reshape(rows * 10, DIGITS * 10)
    figure = Figure(figsize=(5, rows / 2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(framed.numpy(), cmap="gray_r", vmin=0.0, vmax=1.0)
    axis.set_axis_off()
    figure.savefig(path, dpi=120)
    return path


class GanCLI(SolverCLI):
    """Judges the drawn digits after ``fit`` and draws some."""

    def folder(self) -> Path:
        """The run's own folder, runs/gan/version_<number>."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def before_fit(self) -> None:
        self.untrained = self.judge()
        self.start = time.perf_counter()

    def after_fit(self) -> None:
        seconds = time.perf_counter() - self.start
        (distance_before, right_before), (distance, right) = self.untrained, self.judge()
        print(f"\ntrained in {seconds:.1f} s")
        print(f"Frechet distance of pixels {distance:.2f}, {distance_before:.2f} before training")
        print(f"right digit in {right:.1%} of the images, {right_before:.1%} before training")
        samples = self.draw(torch.arange(DIGITS).repeat(8))
        print(f"samples {draw_grid(samples, self.folder() / 'samples.png').resolve()}")

    def judge(self) -> tuple[float, float]:
        """The Frechet distance to the real digits, and the part of right digits, of as many drawn ones."""
        images, digits = load_digits()
        drawn = self.draw(digits)
        return frechet_distance(images, drawn), right_digits(drawn, digits)

    @torch.no_grad()
    def draw(self, digits: Tensor) -> Tensor:
        """Images of these digits by the generator as it stands, the same noise each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model.eval()
            drawn = self.model(digits.to(self.model.device)).cpu()
            self.model.train()
        return drawn


def main(args: ArgsType = None) -> GanCLI:
    """Do what the command line says, or ``args`` in its place."""
    torch.set_num_threads(1)  # the model is so small that more threads would only wait for each other
    return GanCLI(DigitGan, DigitsData, save_config_kwargs={"overwrite": True}, args=args)


if __name__ == "__main__":
    main()
