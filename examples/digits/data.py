"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels, in one fixed split."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

Batch = list[Tensor]  # images of shape (N, 1, 8, 8) with values from 0 to 1, and their digits of shape (N,)

# The split is part of the task, not of a run: whatever the training seed, the same 360 images are kept for the test.
SPLIT_SEED = 0
TEST_IMAGES = 360
VAL_IMAGES = 237  # leaves 1,200 to train on


class DigitsData(LightningDataModule):
    """The digits as loaders for training, validation and test.

    Args:
        batch_size: Images in a batch.
        shift: Training images are moved by up to so many pixels in each direction.
        degrees: Training images are turned by up to so many degrees.
        zoom: Training images are stretched or shrunk by up to this fraction.
    """

    def __init__(self, batch_size: int = 50, shift: float = 1.0, degrees: float = 10.0, zoom: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.shift, self.degrees, self.zoom = batch_size, shift, degrees, zoom

    def setup(self, stage: str) -> None:
        images, digits = load_digits()
        rest, test = stratified_split(digits, torch.arange(len(digits)), TEST_IMAGES)
        train, val = stratified_split(digits, rest, VAL_IMAGES)
        self.train_set, self.val_set, self.test_set = (TensorDataset(images[i], digits[i]) for i in (train, val, test))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val_set, batch_size=len(self.val_set))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test_set, batch_size=len(self.test_set))

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Change the training images a little, so that none is seen twice."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, digits = batch
        return [jitter(images, self.shift, self.degrees, self.zoom), digits]


def load_digits() -> tuple[Tensor, Tensor]:
    """All images, of shape (1797, 1, 8, 8) with values from 0 to 1, and the digits that they show."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise SystemExit("the images come with scikit-learn: pip install -r requirements.txt") from error
    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32) / 16.0
    return images.unsqueeze(1), torch.tensor(bunch.target, dtype=torch.long)


def stratified_split(digits: Tensor, indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split ``indices`` in two, the second of ``count``; both show each digit equally often, as far as that goes."""
    from sklearn.model_selection import train_test_split

    first, second = train_test_split(
        indices.numpy(), test_size=count, stratify=digits[indices].numpy(), random_state=SPLIT_SEED
    )
    return torch.from_numpy(first), torch.from_numpy(second)


def jitter(images: Tensor, shift: float, degrees: float, zoom: float) -> Tensor:
    """Move, turn and zoom each image at random, by torch's own random numbers: seeds and resuming cover them."""
    count, _, height, width = images.shape
    x, y, turn, size = torch.empty(4, count, device=images.device).uniform_(-1.0, 1.0)
    angle = turn * math.radians(degrees)
    factor = 1.0 + size * zoom
    cos, sin = angle.cos() * factor, angle.sin() * factor
    rows = [cos, -sin, x * 2 * shift / width, sin, cos, y * 2 * shift / height]
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
