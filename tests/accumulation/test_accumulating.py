"""A window of batches makes the step that one large batch would make, whatever happens in between."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, Dataset

from accumulation_runs import (
    Batch,
    Batches,
    Plain,
    Regression,
    assert_close,
    assert_equal,
    loader,
    run,
    solver,
    with_scaler,
)
from lightning_solver import SolverError, SolverSpec
from lightning_solver.averaging import EMA
from lightning_solver.callbacks import GradientAccumulation
from lightning_solver.schedules import Cosine
from small import trainer

TEN = Batches([4] * 10)

WINDOWS: dict[str, tuple[Any, list[int]]] = {
    "constant": (5, [5, 5] * 2),
    "short last window": (4, [4, 4, 2] * 2),
    "a single batch left": (3, [3, 3, 3, 1] * 2),
    "longer than an epoch": (40, [10] * 2),
    "by epoch": ({0: 1, "1ep": 4}, [1] * 10 + [4, 4, 2]),
    "by step, in mid-epoch": ({0: 1, 1: 4}, [1, 4, 4, 1, 4, 4, 2]),
    "by step, twice in an epoch": ({0: 2, 2: 3, 3: 1}, [2, 2, 3, 1, 1, 1] + [1] * 10),
    "by parts of epochs": ({0: 3, "0.5ep": 4, "1.3ep": 2}, [3, 3, 4, 4, 2, 2, 2]),
    "down to one": ({0: 4, 1: 1}, [4] + [1] * 6 + [1] * 10),
}


def in_epochs(lengths: Sequence[int]) -> list[Batches]:
    """The data of two epochs, in as few batches as there are windows."""
    split = next(i for i in range(len(lengths)) if sum(lengths[:i]) == 10)
    return [TEN.merged(lengths[:split]), TEN.merged(lengths[split:])]


class Epochs(Regression):
    """Has other batches in each epoch."""

    epochs: tuple[Batches, ...] = ()

    def train_dataloader(self) -> Any:
        return loader(self.epochs[self.trainer.current_epoch])


def large(lengths: Sequence[int], optimizer: str = "SGD", **settings: Any) -> Regression:
    """Train with one batch for each window."""
    net = Epochs(solver(optimizer=optimizer))
    net.epochs = tuple(in_epochs(lengths))
    trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1, **settings).fit(net)
    return net


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize(("given", "lengths"), WINDOWS.values(), ids=WINDOWS)
def test_a_window_is_one_large_batch(given: Any, lengths: list[int], optimizer: str) -> None:
    net = run(solver(given, optimizer), TEN)
    expected = large(lengths, optimizer)
    assert len(net.grads) == len(expected.grads) == len(lengths)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)
    assert_close(dict(net.named_parameters()), dict(expected.named_parameters()))


@pytest.mark.parametrize("given", [4, {0: 1, 1: 4}], ids=str)
def test_a_window_is_one_large_batch_with_a_loss_scaler(given: Any) -> None:
    lengths = [4, 4, 2] * 2 if given == 4 else [1, 4, 4, 1, 4, 4, 2]
    net = run(solver(given), TEN, **with_scaler("16"))
    expected = large(lengths, **with_scaler("16"))
    assert len(net.grads) == len(lengths)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other, 2e-2)  # of fp16
    plain = run(solver(given), TEN)
    for own, other in zip(net.grads, plain.grads):
        assert_close(own, other, 2e-2)  # nothing is left scaled


def test_whole_windows_are_those_of_lightning_bit_for_bit() -> None:
    for optimizer in ("SGD", "AdamW"):
        net = run(solver(5, optimizer), TEN)
        theirs = run(solver(None, optimizer), TEN, accumulate_grad_batches=5)
        assert_equal(dict(net.named_parameters()), dict(theirs.named_parameters()))
    net = run(solver(4), TEN, max_epochs=1)
    theirs = run(solver(), TEN, max_epochs=1, accumulate_grad_batches=4)
    for own, other in zip(net.grads[:2], theirs.grads[:2]):
        assert_equal(own, other)
    half = {name: gradient * 0.5 for name, gradient in net.grads[2].items()}
    assert_equal(half, theirs.grads[2])  # Lightning divides the 2 batches that are left by 4


def test_the_callback_does_as_the_spec_does() -> None:
    for amount in (4, {0: 1, 3: 4}):
        net = run(solver(amount), TEN)
        alone = run(solver(), TEN, callbacks=[GradientAccumulation(amount)])
        assert_equal(dict(net.named_parameters()), dict(alone.named_parameters()))


def test_the_callback_serves_a_module_without_the_mixin() -> None:
    net = Plain()
    trainer(max_epochs=2, callbacks=[GradientAccumulation({0: 1, "1ep": 4})]).fit(net, loader(TEN))
    spec = SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "accumulate": {0: 1, "1ep": 4}})
    assert_equal(dict(net.named_parameters()), dict(run(spec, TEN).named_parameters()))


@st.composite
def numbers(draw: st.DrawFn) -> dict[int | str, int]:
    """Numbers of batches from any points on, in steps or in parts of epochs."""
    size = st.integers(1, 7)
    points: list[Any] = draw(st.lists(st.integers(1, 30), max_size=4, unique=True).map(sorted))
    if draw(st.booleans()):
        points = [f"{point / 8}ep" for point in points]
    return {0: draw(size), **{point: draw(size) for point in points}}


@given(given=numbers(), batches=st.integers(1, 16), clipped=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_run_makes_the_planned_steps_each_with_a_mean(given: Any, batches: int, clipped: bool) -> None:
    class Unit(Regression):
        """The gradient of its weight is the number of the batch in the epoch."""

        def __init__(self, solver: SolverSpec) -> None:
            super().__init__(solver)
            self.net = torch.nn.Linear(1, 1, bias=False)

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return self.net(torch.ones(1)).sum() * batch_idx

    clip = {"clip": {"class_path": "Value", "init_args": {"max_value": 100.0}}} if clipped else {}
    spec = SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "accumulate": given, **clip})
    net = Unit(spec)
    fit = trainer(max_epochs=3)
    fit.fit(net, loader(Batches([1] * batches)))
    how = spec.accumulation()
    assert how is not None
    windows, expected = how.windows(None), []
    for epoch in range(3):
        batch = 0
        while batch < batches:
            end = min(batch + windows.size_at(len(expected), epoch, batch, batches), batches)
            expected.append((batch + end - 1) / 2)
            batch = end
    assert [float(gradients["net.weight"]) for gradients in net.grads] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == len(expected)


@pytest.mark.parametrize("by", [None, "samples"])
def test_other_kinds_of_gradients(by: str | None) -> None:
    """Sparse ones, and those of weights in bf16."""

    class Sparse(Regression):
        def __init__(self, solver: SolverSpec) -> None:
            super().__init__(solver)
            self.table = torch.nn.Embedding(5, 6, sparse=True)

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            x, y = batch
            self.samples = len(x)
            return (self.net(self.table(x[:, 0].abs().clamp(max=4).long())) - y).square().mean()

    def merged(cls: type[Regression], **settings: Any) -> None:
        batches = Batches([4] * 10 if by is None else [1, 7, 3, 5, 2, 9, 4, 4, 6, 8])
        torch.manual_seed(1)
        net = run(solver({"batches": 4, "weigh_by": by}), batches, module=cls, max_epochs=1, **settings)
        torch.manual_seed(1)
        expected = run(solver(), batches.merged([4, 4, 2]), module=cls, max_epochs=1)
        for own, other in zip(net.grads, expected.grads):
            close = {name: gradient.to_dense().float() for name, gradient in own.items()}
            assert_close(
                close, {name: gradient.to_dense() for name, gradient in other.items()}, 5e-2 if settings else 1e-6
            )

    merged(Sparse)
    merged(Regression, precision="bf16-true")


# ------------------------------------------------------------------ changes leave nothing behind


class Watch(Callback):
    """Notes when gradients are let go of, and with how many batches in them steps are made."""

    def __init__(self) -> None:
        self.zeroed: list[int] = []
        self.stepped: list[int] = []
        self.batch = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch = batch_idx

    def on_before_zero_grad(self, *args: Any) -> None:
        self.zeroed.append(self.batch)

    def on_before_optimizer_step(self, *args: Any) -> None:
        self.stepped.append(self.batch)


@pytest.mark.parametrize(("given", "lengths"), WINDOWS.values(), ids=WINDOWS)
def test_gradients_are_let_go_of_once_for_each_window(given: Any, lengths: list[int]) -> None:
    class Counts(Regression):
        zeroed = 0

        def on_before_zero_grad(self, optimizer: Any) -> None:
            self.zeroed += 1

    watch = Watch()
    net = run(solver(given), TEN, module=Counts, callbacks=[watch])
    begins, begin = [], 0
    for length in lengths:
        begins.append(begin % 10)
        begin += length
    assert len(watch.zeroed) == len(lengths)
    assert watch.stepped == [begin + length - 1 for begin, length in zip(begins, lengths)]
    assert isinstance(net, Counts)
    assert net.zeroed == len(lengths)


def test_lightning_leaves_stale_gradients_where_the_number_changes_in_mid_epoch() -> None:
    """What this is about: set by hand, the number makes Lightning step with gradients of the window before."""

    class Change(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            trainer.accumulate_grad_batches = 1 if batch_idx < 1 else 4

    theirs = run(solver(), TEN, callbacks=[Change()], max_epochs=1)
    net = run(solver({0: 1, 1: 4}), TEN, max_epochs=1)
    assert [len(theirs.grads), len(net.grads)] == [4, 4]
    with pytest.raises(AssertionError):
        assert_close(theirs.grads[1], net.grads[1])


# ------------------------------------------------------------------ batches without a loss


def skipping(*skipped: int) -> type[Regression]:
    class Skips(Regression):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx in skipped else super().training_step(batch, batch_idx)

    return Skips


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("skipped", [(1,), (0,), (0, 1, 2), (4, 6)], ids=str)
def test_batches_without_a_loss_do_not_count(skipped: tuple[int, ...], precision: str) -> None:
    net = run(solver(4), TEN, module=skipping(*skipped), max_epochs=1, **with_scaler(precision))
    lengths = [4, 4, 2]
    for batch in skipped:
        lengths[batch // 4] -= 1
    rest = Batches([])
    rest.made = [made for i, made in enumerate(TEN.made) if i not in skipped]
    expected = run(solver(), rest.merged(lengths), max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other, 1e-6 if precision == "32" else 2e-2)
    assert len(net.grads) == 3


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_window_whose_last_batch_has_no_loss_makes_its_step() -> None:
    net = run(solver(4), TEN, module=skipping(3, 9), max_epochs=1)
    rest = Batches([])
    rest.made = [made for i, made in enumerate(TEN.made) if i not in (3, 9)]
    expected = run(solver(), rest.merged([3, 4, 1]), max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)
    assert_close(dict(net.named_parameters()), dict(expected.named_parameters()))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(
    "clip", [None, {"class_path": "GlobalNorm", "init_args": {"max_norm": 0.05}}], ids=["", "clip"]
)
def test_with_a_loss_scaler_the_next_window_takes_in_one_whose_last_batch_has_no_loss(clip: Any) -> None:
    """Lightning makes no step after such a batch there; the gradients of the window are not lost, and not clipped."""
    given = SolverSpec.from_dict({"clip": clip, "accumulate": 4} if clip else {"accumulate": 4})
    given = given.replace(optimizer=solver().optimizer)
    net = run(given, TEN, module=skipping(3), max_epochs=1, **with_scaler("16"))
    rest = Batches([])
    rest.made = [made for i, made in enumerate(TEN.made) if i != 3]
    expected = run(given.replace(accumulate=None), rest.merged([7, 2]), max_epochs=1, **with_scaler("16"))
    assert len(net.grads) == 3
    assert not net.grads[0]  # nothing for the optimiser to see
    for own, other in zip(net.grads[1:], expected.grads):
        assert_close(own, other, 2e-2)
    assert_close(dict(net.named_parameters()), dict(expected.named_parameters()), 2e-2)
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == 2


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("precision", ["32", "16"])
def test_a_window_without_any_loss_is_no_step(precision: str) -> None:
    net = run(solver(4), TEN, module=skipping(4, 5, 6, 7), max_epochs=1, **with_scaler(precision))
    rest = Batches([])
    rest.made = [made for i, made in enumerate(TEN.made) if i not in (4, 5, 6, 7)]
    expected = run(solver(), rest.merged([4, 2]), max_epochs=1, **with_scaler(precision))
    assert_close(dict(net.named_parameters()), dict(expected.named_parameters()), 1e-6 if precision == "32" else 2e-2)
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == 2


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_a_loader_that_gives_none_in_place_of_a_batch_loses_nothing() -> None:
    class Holes(Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            return None if index == 3 else TEN[index]

    net = Regression(solver(4))
    trainer(max_epochs=1).fit(net, DataLoader(Holes(), batch_size=None, collate_fn=lambda one: one))
    rest = Batches([])
    rest.made = [made for i, made in enumerate(TEN.made) if i != 3]
    expected = run(solver(), rest.merged([7, 2]), max_epochs=1)
    assert len(net.grads) == 2
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)


def test_an_epoch_that_the_module_ends_leaves_nothing_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    class Ends(Regression):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.trainer.current_epoch == 0 and batch_idx == 6 else None

    with caplog.at_level(logging.WARNING, "lightning_solver"):
        net = run(solver(40), TEN, module=Ends)
    assert len(net.grads) == 1
    assert "the gradients of the last 6 batches of an epoch led to no step: it ended in mid-window" in caplog.text
    assert_close(net.grads[0], large([10, 10]).grads[0])


def test_a_run_that_is_stopped_in_mid_window_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = batch_idx == 4

    with caplog.at_level(logging.WARNING, "lightning_solver"):
        net = run(solver(4), TEN, callbacks=[Stop()])
    assert len(net.grads) == 1
    assert "the gradients of the last 1 batch led to no step: the run ended in mid-window" in caplog.text


# ------------------------------------------------------------------ validation in mid-window


@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("given", [4, {0: 1, 1: 4}], ids=str)
@pytest.mark.parametrize("averaged", [False, True], ids=["", "with averages evaluated"])
def test_validation_in_mid_window_loses_nothing(given: Any, averaged: bool, precision: str) -> None:
    averages: dict[str, Any] = {"ema": EMA(decay=0.9)} if averaged else {}
    spec = solver(given, "AdamW", averages=averages)
    straight = run(spec, TEN, **with_scaler(precision))
    for interval in (3, 0.2):
        validated = run(
            spec, TEN, validate=TEN, val_check_interval=interval, **with_scaler(precision), num_sanity_val_steps=1
        )
        for own, other in zip(validated.grads, straight.grads):
            assert_equal(own, other)
        for own, other in zip(validated.states, straight.states):
            assert_equal(own, other)
        for name, average in straight.solver_averages.items():
            for own, other in zip(validated.solver_averages[name].values, average.values):
                assert torch.equal(torch.as_tensor(own), torch.as_tensor(other))


# ------------------------------------------------------------------ what is refused


def test_the_number_of_the_trainer_beside_ours() -> None:
    for spec, callbacks, where in (
        (solver(4), [], "accumulate"),
        (solver(), [GradientAccumulation(4)], "GradientAccumulation"),
    ):
        fit = trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=callbacks)
        for _ in range(2):  # the refusal must leave the Trainer as it was
            with pytest.raises(SolverError) as caught:
                fit.fit(Regression(spec), loader(TEN))
            what = "Trainer.accumulate_grad_batches: gradients are accumulated twice; got 2"
            assert str(caught.value) == f"{what}; leave it out beside {where}"
            assert fit.accumulate_grad_batches == 2


def test_the_scheduler_of_lightning_beside_ours() -> None:
    fit = trainer(max_epochs=1, callbacks=[GradientAccumulationScheduler({0: 2})])
    with pytest.raises(SolverError) as caught:
        fit.fit(Regression(solver(4)), loader(TEN))
    what = "Trainer.callbacks: gradients are accumulated twice; got GradientAccumulationScheduler"
    assert str(caught.value) == f"{what}; leave it out beside accumulate"


def test_two_of_ours() -> None:
    with pytest.raises(SolverError) as caught:
        run(solver(2), TEN, callbacks=[GradientAccumulation(4)])
    what = "gradients are accumulated twice; got GradientAccumulation and SolverAccumulation"
    assert str(caught.value).endswith(f": {what}; say it in the solver or by one callback")
    with pytest.raises(SolverError) as caught:
        run(solver(), TEN, callbacks=[GradientAccumulation(4), GradientAccumulation(4)])
    what = "gradients are accumulated twice; got GradientAccumulation and GradientAccumulation"
    assert str(caught.value) == f"GradientAccumulation: {what}; say it in the solver or by one callback"


def test_manual_optimisation() -> None:
    class Manual(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    fit = trainer(max_epochs=1, callbacks=[GradientAccumulation(4)])
    with pytest.raises(SolverError) as caught:
        fit.fit(Manual(), loader(TEN))
    what = "GradientAccumulation: needs automatic optimisation; got manual optimisation"
    assert str(caught.value) == f"{what}; under manual optimisation use SolverMixin.solver_turn"


def test_a_strategy_that_accumulates_by_itself() -> None:
    fit = trainer(max_epochs=1)
    strategy = type("Accumulates", (type(fit.strategy),), {"handles_gradient_accumulation": True})
    fit = trainer(max_epochs=1, strategy=strategy(device=torch.device("cpu")))
    with pytest.raises(SolverError) as caught:
        fit.fit(Regression(solver(4)), loader(TEN))
    do = "use the Trainer's accumulate_grad_batches in place of accumulate"
    assert str(caught.value) == f"Trainer.strategy: accumulates by itself; got Accumulates; {do}"


def test_the_epoch_for_batch_norms_of_the_averaging_of_lightning() -> None:
    class Normed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net.append(torch.nn.BatchNorm1d(2))

    def fit(net: Plain) -> None:
        averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        trainer(max_epochs=2, callbacks=[averaging, GradientAccumulation(4)]).fit(net, loader(TEN))

    fit(Plain())
    with pytest.raises(SolverError) as caught:
        fit(Normed())
    what = "accumulates in its own way in an epoch for batch norms, in which no step must be made"
    do = "use averages of the solver, or callbacks.SWA"
    assert str(caught.value) == f"Trainer.callbacks: {what}; got StochasticWeightAveraging; {do}"


def test_an_optimiser_that_evaluates_a_batch_several_times() -> None:
    spec = SolverSpec.from_dict({"optimizer": {"name": "LBFGS", "args": {"lr": 0.1}}, "default_rules": False})
    run(spec.replace(accumulate=1), TEN, max_epochs=1)
    with pytest.raises(SolverError, match=r"^accumulate: LBFGS evaluates a batch several times"):
        run(spec.replace(accumulate=2), TEN, max_epochs=1)


# ------------------------------------------------------------------ the Trainer is left as it was


def test_after_a_run_the_trainer_is_what_it_was_and_can_go_on() -> None:
    fit = trainer(max_epochs=1)
    net = Regression(solver(4, "AdamW"))
    fit.fit(net, loader(TEN))
    assert fit.accumulate_grad_batches == 1
    again = trainer(max_epochs=1)
    other = Regression(solver(4, "AdamW"))
    again.fit(other, loader(TEN))
    again.fit_loop.max_epochs = 2
    again.fit(other, loader(TEN))
    assert again.global_step == 6
    assert len(other.grads) == 6
    assert again.accumulate_grad_batches == 1


def test_after_an_exception_the_trainer_is_what_it_was_and_stale_gradients_go() -> None:
    class Breaks(Regression):
        broken = False

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            if batch_idx == 6 and not self.broken:
                self.broken = True
                raise RuntimeError("on purpose")
            return super().training_step(batch, batch_idx)

    net = Breaks(solver(4))
    fit = trainer(max_epochs=1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit.fit(net, loader(TEN))
    assert fit.accumulate_grad_batches == 1
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    net.grads.clear()
    trainer(max_epochs=1).fit(net, loader(TEN))
    fresh = Regression(solver(4))
    fresh.load_state_dict(before)
    trainer(max_epochs=1).fit(fresh, loader(TEN))
    assert_equal(net.grads[0], fresh.grads[0])


def test_validation_and_test_leave_the_trainer_alone() -> None:
    fit = trainer(max_epochs=1, callbacks=[GradientAccumulation(4)])
    fit.validate(Regression(solver()), loader(TEN), verbose=False)
    assert fit.accumulate_grad_batches == 1


class Sized(Regression):
    def __init__(self, given: SolverSpec) -> None:
        super().__init__(given)
        self.batch_size = 2

    def train_dataloader(self) -> Any:
        def collate(samples: list[Batch]) -> Batch:
            return torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples])

        return DataLoader(Batches([1] * 40), batch_size=self.batch_size, collate_fn=collate)

    val_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.parametrize("alone", [False, True], ids=["spec", "callback"])
def test_the_tuner_finds_learning_rates_and_batch_sizes(alone: bool, tmp_path: Any) -> None:
    given = solver(None if alone else 4, schedules={"lr": Cosine()})
    fit = trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[GradientAccumulation(4)] if alone else [])
    net = Sized(given)
    tuner = Tuner(fit)
    found = tuner.lr_find(net, num_training=5, attr_name="solver_lr", update_attr=False)
    assert found is not None
    assert len(found.results["lr"]) == len(found.results["loss"]) == 5
    assert fit.accumulate_grad_batches == 1
    tuner.scale_batch_size(net, mode="power", max_trials=2, init_val=2)
    assert net.batch_size == 4
    assert fit.accumulate_grad_batches == 1
    net.grads.clear()
    fit.fit(net)
    assert fit.global_step == len(net.grads) == 3  # of 10 batches
