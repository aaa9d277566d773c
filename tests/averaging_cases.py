"""A module that notes what it was trained to and what was evaluated, its data, and averages worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver.averaging.averaged import Averaged
from small import trainer as small_trainer

STEPS = 10  # of an epoch of `data()`, at batches of 4


class Net(LightningModule):
    """Notes the weights after every batch, and those of every evaluation.

    Attributes:
        trail: All parameters as one vector, after each batch of training.
        saw: The stage, and all parameters as one vector, once for each evaluation.
    """

    def __init__(self, batch_norm: bool = False, lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(1)
        norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 1))
        self.lr = lr
        self.trail: list[Tensor] = []
        self.saw: list[tuple[str, Tensor]] = []

    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        found: Tensor = (self(batch[0]) - batch[1]).square().mean()
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trail.append(vector(self))

    def evaluate(self, stage: str, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 0:
            self.saw.append((stage, vector(self)))
        found = self.loss(batch)
        if stage != "predict":
            self.log(f"{stage}_loss", found)
        return found

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.evaluate("predict", batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


class At(Callback):
    """Calls a function in a hook, when it is called for the n-th time (from 1), or every time."""

    def __init__(self, hook: str, action: Callable[[Any, Any], Any], nth: int | None = None) -> None:
        self.called = 0

        def run(trainer: Any, module: Any, *args: Any, **kwargs: Any) -> None:
            self.called += 1
            if nth is None or self.called == nth:
                action(trainer, module)

        setattr(self, hook, run)


class Oops(Exception):
    """What goes wrong on purpose."""


def raises(error: BaseException | None = None) -> Callable[[Any, Any], None]:
    """An action that raises."""

    def action(trainer: Any, module: Any) -> None:
        raise error or Oops("on purpose")

    return action


def data(count: int = 40, batch_size: int = 4, stateful: bool = False, seed: int = 0) -> DataLoader[Any]:
    """Batches of inputs and targets, the same ones in the same order at any time."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    targets = inputs.sum(1, keepdim=True) + torch.randn(count, 1, generator=generator)
    cls = StatefulDataLoader if stateful else DataLoader
    return cls(TensorDataset(inputs, targets), batch_size=batch_size)


def other_data() -> DataLoader[Any]:
    """Two batches for evaluations."""
    return data(8, seed=7)


def vector(module: nn.Module) -> Tensor:
    """A copy of all parameters as one vector."""
    return torch.cat([parameter.detach().flatten().float() for parameter in module.parameters()]).clone()


def of_state(state: Mapping[str, Tensor], module: nn.Module | None = None) -> Tensor:
    """The parameters in a ``state_dict``, or in any mapping from their names, as one vector."""
    names = [name for name, _ in (module or Net()).named_parameters()]
    return torch.cat([state[name].detach().flatten().float() for name in names])


def fit(net: Any, *callbacks: Callback, folder: Path | None = None, **kwargs: Any) -> Trainer:
    """Train a module for two epochs, or as it is said, with validations.

    Args:
        net: The module.
        callbacks: The callbacks.
        folder: Where checkpoints go.
        **kwargs: ``ckpt_path``, ``train`` and ``val`` (the data), and settings of the Trainer.
    """
    given = {name: kwargs.pop(name) for name in ("ckpt_path", "train", "val") if name in kwargs}
    trainer = make_trainer(*callbacks, folder=folder, **kwargs)
    trainer.fit(
        net,
        given.get("train") or data(),
        given["val"] if "val" in given else other_data(),
        ckpt_path=given.get("ckpt_path"),
        weights_only=True if given.get("ckpt_path") else None,
    )
    return trainer


def make_trainer(*callbacks: Callback, folder: Path | None = None, **kwargs: Any) -> Trainer:
    """A quiet Trainer of two epochs."""
    seed_everything(3, verbose=False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": saves, "default_root_dir": folder}
    return small_trainer(callbacks=list(callbacks), **{**settings, **kwargs})


def straight(**kwargs: Any) -> list[Tensor]:
    """The weights after each step of a run without any average."""
    net = Net()
    fit(net, **kwargs)
    return net.trail


def ema(points: Iterable[Tensor], decay: float) -> Tensor:
    """The exponential average of points, of which the first is copied."""
    first, *rest = points
    average = first.clone()
    for point in rest:
        average = decay * average + (1 - decay) * point
    return average


def mean(points: Sequence[Tensor]) -> Tensor:
    """The equal average of points."""
    return torch.stack(list(points)).mean(0)


def close(first: Tensor, second: Tensor) -> None:
    """Assert that two vectors are the same but for rounding."""
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def far(first: Tensor, second: Tensor) -> bool:
    """Whether two vectors differ by more than rounding can do."""
    return bool((first - second).abs().max() > 1e-4)


def average_of(averaged: Averaged) -> Tensor:
    """The averages of the parameters as one vector."""
    pairs = zip(averaged.tensors, averaged.values)
    return torch.cat([value.flatten().float() for tensor, value in pairs if isinstance(tensor, nn.Parameter)])


def live_of(averaged: Averaged) -> Tensor:
    """The trained weights of the parameters as one vector."""
    pairs = zip(averaged.tensors, averaged.weights)
    return torch.cat([value.flatten().float() for tensor, value in pairs if isinstance(tensor, nn.Parameter)])


def everything(averaged: Averaged) -> list[Tensor]:
    """The averages and the trained weights of all that is averaged, to be compared bit by bit."""
    return [*(value.clone() for value in averaged.values), *(weight.clone() for weight in averaged.weights)]


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are the same bit by bit."""
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in zip(first, second))
