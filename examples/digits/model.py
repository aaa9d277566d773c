"""A small convolutional classifier that knows nothing of optimisers: its solver says how it is trained."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from lightning_solver import SolverMixin, SolverSpec

DIGITS = 10


class DigitClassifier(SolverMixin, LightningModule):
    """Four convolutions and a linear head, for images of 8x8 pixels.

    Args:
        solver: How the model is trained.
        width: Channels of the first two convolutions; the other two have twice as many.
    """

    def __init__(self, solver: SolverSpec | None = None, width: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.solver = solver
        self.backbone = nn.Sequential(
            *convolution(1, width),
            *convolution(width, width),
            nn.MaxPool2d(2),
            *convolution(width, 2 * width),
            *convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * 2 * 2, DIGITS)
        # micro: the part of all images that is right, not the mean over digits
        self.train_accuracy = MulticlassAccuracy(DIGITS, average="micro")
        self.val_accuracy = MulticlassAccuracy(DIGITS, average="micro")
        self.test_accuracy = MulticlassAccuracy(DIGITS, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        scores = self(images)
        loss = functional.cross_entropy(scores, digits)
        self.train_accuracy(scores, digits)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, digits = batch
        scores = self(images)
        self.val_accuracy(scores, digits)
        self.log("val_loss", functional.cross_entropy(scores, digits), prog_bar=True)
        self.log("val_acc", self.val_accuracy, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, digits = batch
        self.test_accuracy(self(images), digits)
        self.log("test_acc", self.test_accuracy, prog_bar=True)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        return self(images).argmax(dim=1)


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    """A 3x3 convolution with its norm, which makes a bias of its own useless."""
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
