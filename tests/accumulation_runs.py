"""A small model, its data, and runs that tell what gradients each step was made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_solver import OptimizerSpec, SolverMixin, SolverSpec
from small import trainer

Batch = tuple[Tensor, Tensor]


class Batches(Dataset[Batch]):
    """Batches as they are, of any sizes; a loader with ``batch_size=None`` gives one after the other."""

    def __init__(self, sizes: Sequence[int], seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.made = [(torch.randn(size, 6, generator=draw), torch.randn(size, 2, generator=draw)) for size in sizes]

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> Batch:
        return self.made[index]

    def merged(self, lengths: Sequence[int]) -> Batches:
        """The same samples in batches that are as large as so many of these together."""
        found = Batches([])
        begin = 0
        for length in lengths:
            part = self.made[begin : begin + length]
            found.made.append((torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])))
            begin += length
        assert begin == len(self.made)
        return found


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))


class Regression(SolverMixin, LightningModule):
    """The mean squared error over the samples of a batch; keeps the gradients that each step was made with."""

    skipped: Callable[[int], bool] = staticmethod(lambda batch_idx: False)

    def __init__(self, solver: SolverSpec | None = None) -> None:
        super().__init__()
        self.solver = solver
        self.net = model()
        self.samples: Any = 0
        self.grads: list[dict[str, Tensor]] = []
        self.states: list[dict[str, Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        x, y = batch
        self.samples = len(x)
        if self.skipped(batch_idx):
            return None
        return (self.net(x) - y).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", (self.net(x) - y).square().mean())

    def count(self, batch: Batch) -> int:
        """The samples of a batch."""
        return len(batch[0])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.grads.append({n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, *args: Any) -> None:
        self.states.append({name: tensor.detach().clone() for name, tensor in self.state_dict().items()})


class Plain(LightningModule):
    """The same without the mixin."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.net = model()
        self.lr = lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        return (self.net(x) - y).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


OPTIMIZERS = {
    "SGD": OptimizerSpec("SGD", {"lr": 0.02, "momentum": 0.9}),
    "AdamW": OptimizerSpec("AdamW", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}),
}


def solver(accumulate: Any = None, optimizer: str = "SGD", **more: Any) -> SolverSpec:
    return SolverSpec.from_dict({"accumulate": accumulate} if accumulate is not None else {}).replace(
        optimizer=OPTIMIZERS[optimizer], **more
    )


def loader(batches: Batches) -> DataLoader[Batch]:
    return DataLoader(batches, batch_size=None)


def run(
    given: SolverSpec,
    batches: Batches,
    *,
    callbacks: Sequence[Callback] = (),
    module: type[Regression] = Regression,
    validate: Batches | None = None,
    ckpt_path: Any = None,
    **settings: Any,
) -> Regression:
    """Train a fresh module."""
    net = module(given)
    fit = trainer(callbacks=[*callbacks], **{"max_epochs": 2, **settings})
    fit.fit(
        net, loader(batches), None if validate is None else loader(validate), ckpt_path=ckpt_path, weights_only=True
    )
    return net


def with_scaler(precision: str) -> dict[str, Any]:
    """Settings of a Trainer: ``32``, or ``16`` with a loss scaler, which Lightning would not make on the CPU by itself."""
    if precision == "32":
        return {}
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(
            tensor, b[name], rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
