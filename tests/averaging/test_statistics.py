"""Batch-norm statistics from the training data of a Trainer: torch's numbers, and training goes on as without."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import SolverError
from lightning_solver.callbacks import statistics
from lightning_solver.callbacks.statistics import estimate_on_train_data
from small import trainer
from two_processes import start


class Numbers(Dataset[Any]):
    """Rows that are drawn anew each time, from every source of random numbers, where noise is asked for."""

    def __init__(self, length: int = 40, *, noise: bool = False) -> None:
        self.rows = torch.randn(length, 4, generator=torch.Generator().manual_seed(0)) + torch.arange(4.0)
        self.noise = noise
        self.own = (np.random.default_rng(0), np.random.RandomState(0), random.Random(0))
        self.numpy, self.legacy, self.python = self.own
        self.torch = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        if self.noise:
            drawn = [self.numpy.random(), self.legacy.random(), self.python.random(), random.random(), np.random.rand()]
            row = row + sum(drawn) + torch.randn(4) + torch.randn(4, generator=self.torch)
        return row, row[:2]


class Stream(IterableDataset[Any]):
    def __init__(self, length: int = 40) -> None:
        self.rows = Numbers(length)

    def __iter__(self) -> Any:
        return (self.rows[index] for index in range(len(self.rows)))


class Net(LightningModule):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(dropout), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Any:
        return self.body(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = (self(batch[0]) - batch[1]).square().mean()
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Estimate(Callback):
    """Estimates the statistics at each validation, or at the end, and gives the module its own ones back."""

    def __init__(self, batches: int | None = None, *, at_end: bool = False) -> None:
        self.batches, self.at_end = batches, at_end
        self.seen: list[int] = []
        self.found: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def estimate(self, trainer: Any, module: Any) -> None:
        own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        modes = [inner.training for inner in module.modules()]
        self.weights.append(own)
        self.seen.append(estimate_on_train_data(trainer, module, self.batches, title="ema"))
        self.found.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        module.load_state_dict(own)
        assert modes == [inner.training for inner in module.modules()]

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if not self.at_end and not trainer.sanity_checking:
            self.estimate(trainer, module)
            assert trainer.validating

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self.at_end:
            self.estimate(trainer, module)


def loader(length: int = 40, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(Numbers(length), **{"batch_size": 8, **kwargs})


def fitted(module: Any, train: Any, *callbacks: Callback, **kwargs: Any) -> Any:
    fitter = trainer(callbacks=[*callbacks], **{"max_epochs": 1, "num_sanity_val_steps": 0, **kwargs})
    fitter.fit(module, train, loader(8))
    return fitter


def by_torch(weights: dict[str, Tensor], batches: Any) -> dict[str, Tensor]:
    module = Net()
    module.load_state_dict(weights)
    update_bn(batches, module)
    return module.state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("at_end", [False, True])
def test_the_statistics_are_those_of_torch(at_end: bool) -> None:
    estimate = Estimate(at_end=at_end)
    fitted(Net(), loader(), estimate)
    assert estimate.seen == [5]
    assert_same(estimate.found[0], by_torch(estimate.weights[0], loader()))
    assert not torch.equal(estimate.found[0]["body.1.running_var"], estimate.weights[0]["body.1.running_var"])


@pytest.mark.parametrize(("batches", "limits", "seen"), [(2, {}, 2), (None, {"limit_train_batches": 3}, 3), (9, {}, 5)])
def test_so_many_batches_are_taken(batches: int | None, limits: dict[str, Any], seen: int) -> None:
    estimate = Estimate(batches)
    fitted(Net(), loader(), estimate, **limits)
    assert estimate.seen == [seen]
    rows = loader().dataset
    first = [torch.stack([rows[i][0] for i in range(start, start + 8)]) for start in range(0, 8 * seen, 8)]
    assert_same(estimate.found[0], by_torch(estimate.weights[0], first))


def test_a_stream_without_a_length_is_run_to_its_end() -> None:
    estimate = Estimate()
    fitted(Net(), DataLoader(Stream(20), batch_size=8), estimate)
    assert estimate.seen == [3]


class Dropped(Net):
    """Notes what its hooks see; trained with noise in the forward pass."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.notes: list[Any] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.notes.append(("before", self.trainer.training, self.training))
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.notes.append(("after", self.trainer.training, self.training))
        return [batch[0] + 100.0, batch[1]] if self.trainer.training else batch


def test_batches_go_through_the_hooks_of_training() -> None:
    module = Dropped()
    module.body[2] = nn.Identity()

    class Watch(Estimate):
        def estimate(self, trainer: Any, module: Any) -> None:
            module.notes.clear()
            super().estimate(trainer, module)
            self.notes = list(module.notes)

    estimate = Watch(2)
    fitted(module, loader(), estimate)
    assert estimate.notes == [("before", True, True), ("after", True, True)] * 2
    moved = [[x + 100.0, y] for x, y in loader()][:2]
    assert_same(estimate.found[0], by_torch(estimate.weights[0], moved))


def numbers() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


@pytest.mark.parametrize(
    "settings",
    [
        {"generator": True},
        {"num_workers": 1},
        pytest.param({"num_workers": 1, "persistent_workers": True}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_training_is_bitwise_the_same(settings: dict[str, Any]) -> None:
    results = []
    for callbacks in ([], [Estimate()], [Estimate(2)]):
        seed_everything(1, verbose=False)
        module = Net(dropout=0.5)
        given = {**settings}
        if given.pop("generator", False):
            given["generator"] = torch.Generator().manual_seed(5)
        train = DataLoader(Numbers(noise=True), batch_size=8, shuffle=True, **given)
        fitter = fitted(module, train, *callbacks, val_check_interval=2, max_epochs=2)
        assert all(len(callback.seen) == 4 for callback in callbacks)
        logged = {name: value.item() for name, value in fitter.callback_metrics.items()}
        results.append((module.state_dict(), logged, numbers()))
    weights, logged, drawn = results[0]
    for weights_beside, logged_beside, drawn_beside in results[1:]:
        assert_same(weights, weights_beside)
        assert logged == logged_beside
        assert drawn == drawn_beside


def stateful() -> Any:
    return StatefulDataLoader(Numbers(), batch_size=8)


class Tape(IterableDataset[Any]):
    """A data set that is its own iterator."""

    def __init__(self) -> None:
        self.rows = iter(Stream(4000))

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self.rows)


def tape() -> Any:
    return DataLoader(Tape(), batch_size=8)


@pytest.mark.parametrize(
    ("made", "message"), [(stateful, "would lose its place.*StatefulDataLoader"), (tape, "would be used up")]
)
def test_loaders_that_cannot_be_run_through_twice_are_refused_in_mid_run(made: Any, message: str) -> None:
    with pytest.raises(SolverError, match=rf"update_bn: .*{message}.*update_bn\.at: end"):
        fitted(Net(), made(), Estimate(2), limit_train_batches=4)
    estimate = Estimate(2, at_end=True)
    fitted(Net(), made(), estimate, limit_train_batches=4)
    assert estimate.seen == [2]


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
@pytest.mark.parametrize(("mode", "seen"), [("min_size", [16, 16]), ("max_size", [16, 16, 8, 8, 8])])
def test_several_loaders_are_put_together_as_in_training(mode: Any, seen: list[int]) -> None:
    sizes: list[int] = []

    class Two(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

        def batch_norm_step(self, batch: Any) -> None:
            sizes.append(sum(len(part[0]) for part in batch.values() if part is not None))
            self(batch["a"][0])

    fitted(Two(), CombinedLoader({"a": loader(), "b": loader(16)}, mode), Estimate())
    assert sizes == seen


class Steps(Net):
    """Says itself how it is run; and its forward cannot be called with a batch."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.body(x + 0.0 * y.sum())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self(*batch).square().mean()
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(*batch)

    def batch_norm_step(self, batch: Any) -> Any:
        return self.training_step(batch, 0)


def test_a_step_of_its_own_runs_the_module_and_what_it_logs_is_dropped() -> None:
    logged = []
    for callbacks in ([], [Estimate()]):
        seed_everything(1, verbose=False)
        logged.append(fitted(Steps(), loader(), *callbacks, val_check_interval=2).callback_metrics)
        if callbacks:
            found, weights = callbacks[0].found[0], callbacks[0].weights[0]
            assert_same(found, by_torch(weights, loader()))
    assert {*logged[0]} == {"train_loss", "train_loss_step", "train_loss_epoch"}
    assert_same(*logged)


class WithoutForward(Net):
    forward = LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.body(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.body(batch[0])


class Undefined(Steps):
    batch_norm_step = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(WithoutForward, "no forward.*got WithoutForward"), (Undefined, "cannot be called with a batch.*'y'")],
)
def test_a_module_that_cannot_be_run_says_what_to_define(kind: Any, message: str) -> None:
    module = kind()
    with pytest.raises(SolverError, match=rf"update_bn: .*{message}.*define batch_norm_step\(self, batch\)"):
        fitted(module, loader(), Estimate())
    assert "log" not in vars(module)


def test_a_module_without_statistics_looks_at_no_batch() -> None:
    module = WithoutForward()
    module.body[1] = nn.LayerNorm(6)
    estimate = Estimate()
    fitted(module, stateful(), estimate)
    assert estimate.seen == [0]


@pytest.mark.parametrize("at_end", [False, True])
def test_layers_that_are_frozen_in_training_keep_their_statistics(at_end: bool) -> None:
    class Frozen(Net):
        def __init__(self) -> None:
            super().__init__()
            self.body.append(nn.BatchNorm1d(2))

        def on_train_start(self) -> None:
            self.body[1].eval()

    estimate = Estimate(at_end=at_end)
    fitted(Frozen(), loader(), estimate)
    found, weights = estimate.found[0], estimate.weights[0]
    assert torch.equal(found["body.1.running_mean"], weights["body.1.running_mean"])
    assert not torch.equal(found["body.4.running_mean"], weights["body.4.running_mean"])


def test_the_precision_is_that_of_training() -> None:
    types: list[torch.dtype] = []

    class Mixed(Net):
        def batch_norm_step(self, batch: Any) -> None:
            types.append(self(batch[0]).dtype)

    fitted(Mixed(), loader(), Estimate(1), precision="bf16-mixed")
    assert types == [torch.bfloat16]
    estimate = Estimate(1)
    fitted(Net(), loader(), estimate, precision="bf16-true")
    assert estimate.found[0]["body.1.running_mean"].dtype == torch.bfloat16


def test_an_error_leaves_everything_as_it_was() -> None:
    class Fails(Net):
        def batch_norm_step(self, batch: Any) -> None:
            self(batch[0])
            torch.rand(1)
            if batch[0][0, 0] != loader().dataset[0][0][0]:
                raise ValueError("no")

    module = Fails()
    fitter = trainer(max_epochs=1, num_sanity_val_steps=0)

    class Check(Callback):
        def on_validation_start(self, trainer: Any, module: Any) -> None:
            own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            state, stage = torch.get_rng_state(), trainer.state.stage
            with pytest.raises(ValueError, match="no"):
                estimate_on_train_data(trainer, module, None, title="ema")
            assert torch.equal(torch.get_rng_state(), state)
            assert trainer.state.stage == stage
            assert not any(inner.training for inner in module.modules())
            assert_same(module.state_dict(), own)

    fitter.callbacks.append(Check())
    fitter.fit(module, loader(), loader(8))
    assert fitter.state.finished


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_bar_has_the_title(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar(statistics.tqdm):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.hidden = self.disable
            bars.append(self)

    monkeypatch.setattr(statistics, "tqdm", Bar)
    fitted(Net(), loader(), Estimate(), enable_progress_bar=shown)
    assert [bar.hidden for bar in bars] == [not shown]
    if shown:
        assert (bars[0].desc, bars[0].total, bars[0].n) == ("ema: batch norm", 5, 5)


def test_outside_of_fit_there_are_no_training_data() -> None:
    class Validated(Callback):
        def on_validation_start(self, trainer: Any, module: Any) -> None:
            estimate_on_train_data(trainer, module, None, title="ema")

    with pytest.raises(SolverError, match="update_bn: there is no training data"):
        trainer(callbacks=[Validated()]).validate(Net(), loader(8), verbose=False)


@pytest.mark.slow
def test_two_processes() -> None:
    done = start(Path(__file__).parent / "statistics_cases.py")
    assert done.returncode == 0, done.stderr[-4000:]
