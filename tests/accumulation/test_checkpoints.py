"""Checkpoints in mid-window: with the gradients a resumed run is the straight one, bit for bit; without them it is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader

from accumulation_runs import Batch, Batches, Regression, assert_close, assert_equal, run, solver, with_scaler
from lightning_solver import OptimizerSpec, SolverSpec
from lightning_solver.averaging import EMA
from lightning_solver.callbacks import GradientAccumulation
from lightning_solver.schedules import Cosine
from small import trainer

SIZES = [1, 7, 3, 5, 2, 9, 4, 4, 6, 8]
UNEQUAL = Batches(SIZES)
KEY = "lightning_solver_window"
KEPT = {"keep_gradients": True}
pytestmark = [
    # what Lightning says when a resumed run does not write the checkpoints that the first one wrote
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]


class Save(Checkpoint):
    """Writes a checkpoint after each batch, named by the number of batches done; acts last, as such callbacks do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.total_batch_idx + 1}.ckpt")


class SaveInValidation(Save):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None: ...

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.total_batch_idx + 1}.ckpt")


def fit(
    given: SolverSpec, *callbacks: Callback, ckpt: Path | None = None, net: Regression | None = None, **settings: Any
) -> Regression:
    net = Regression(given) if net is None else net
    writes = any(isinstance(one, Checkpoint) for one in callbacks)
    found = trainer(callbacks=[*callbacks], enable_checkpointing=writes, **{"max_epochs": 2, **settings})
    validate = StatefulDataLoader(Batches([3, 3]), batch_size=None) if "val_check_interval" in settings else None
    data = StatefulDataLoader(UNEQUAL, batch_size=None)
    found.fit(net, data, validate, ckpt_path=ckpt, weights_only=True)
    return net


def optimizer_state(net: Regression) -> dict[str, Any]:
    (part,) = net.solver_parts.values()
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    return {
        f"{names[id(tensor)]}.{key}": torch.as_tensor(value)
        for tensor, state in part.optimizer.state.items()
        for key, value in state.items()
    }


def assert_goes_on(straight: Regression, resumed: Regression, done: int) -> None:
    """The resumed run is the straight one from there on."""
    assert len(resumed.states) == len(straight.states) - done
    for own, other in zip(resumed.states, straight.states[done:]):
        assert_equal(own, other)
    if resumed.grads:
        for own, other in zip(resumed.grads, straight.grads[-len(resumed.grads) :]):
            assert_equal(own, other)
    assert_equal(optimizer_state(resumed), optimizer_state(straight))
    for name, average in straight.solver_averages.items():
        for own, other in zip(resumed.solver_averages[name].values, average.values):
            assert torch.equal(torch.as_tensor(own), torch.as_tensor(other))


HOW: dict[str, Any] = {
    "constant": {"batches": 4},
    "by step": {"batches": {0: 1, 1: 4}},
    "by part of an epoch": {"batches": {0: 3, "0.5ep": 4, "1.2ep": 2}},
    "weighted": {"batches": 4, "weigh_by": "samples"},
    "weighted by step": {"batches": {0: 3, 2: 2}, "weigh_by": "count"},
}


@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_run_that_is_resumed_after_any_batch_is_the_straight_run(how: Any, precision: str, tmp_path: Path) -> None:
    given = solver({**how, **KEPT}, "AdamW")
    straight = fit(given, Save(tmp_path), **with_scaler(precision))
    for done in (1, 3, 4, 7, 9, 13):
        resumed = fit(given, ckpt=tmp_path / f"{done}.ckpt", **with_scaler(precision))
        assert_goes_on(straight, resumed, done)


def test_everything_together_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    for clip in ("AutoClip", "ZClip"):
        given = SolverSpec.from_dict({"clip": {"class_path": clip}, "accumulate": {"batches": {0: 2, 2: 3}, **KEPT}})
        given = given.replace(
            optimizer=solver(optimizer="AdamW").optimizer, schedules={"lr": Cosine()}, averages={"ema": EMA(decay=0.9)}
        )
        straight = fit(given, Save(tmp_path))
        for done in (1, 5, 8, 12, 16):
            resumed = fit(given, ckpt=tmp_path / f"{done}.ckpt")
            assert_goes_on(straight, resumed, done)


def test_the_callback_keeps_gradients_too(tmp_path: Path) -> None:
    own = lambda: GradientAccumulation({0: 1, 1: 4}, weigh_by="count", keep_gradients=True)  # noqa: E731
    straight = fit(solver(), own(), Save(tmp_path))
    assert_goes_on(straight, fit(solver(), own(), ckpt=tmp_path / "7.ckpt"), 7)


def test_sparse_gradients_are_kept_too(tmp_path: Path) -> None:
    class Sparse(Regression):
        def __init__(self, solver: SolverSpec) -> None:
            super().__init__(solver)
            torch.manual_seed(5)
            self.table = torch.nn.Embedding(5, 6, sparse=True)

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            x, y = batch
            return (self.net(self.table(x[:, 0].abs().clamp(max=4).long())) - y).square().mean()

    given = solver({"batches": 4, "weigh_by": "count", **KEPT})
    given = given.replace(optimizer=OptimizerSpec("SGD", {"lr": 0.1}))
    straight = fit(given, Save(tmp_path), net=Sparse(given))
    resumed = fit(given, ckpt=tmp_path / "7.ckpt", net=Sparse(given))
    for own, other in zip(resumed.states, straight.states[7:]):
        assert_equal(own, other)


@pytest.mark.parametrize("averaged", [False, True], ids=["", "averages evaluated"])
def test_a_checkpoint_of_a_validation_in_mid_window(averaged: bool, tmp_path: Path) -> None:
    averages: dict[str, Any] = {"ema": EMA(decay=0.9)} if averaged else {}
    given = solver({"batches": 4, **KEPT}, "AdamW", averages=averages)
    straight = fit(given, SaveInValidation(tmp_path), val_check_interval=3)
    for done in (3, 6, 9, 13):
        resumed = fit(given, ckpt=tmp_path / f"{done}.ckpt", val_check_interval=3)
        assert_goes_on(straight, resumed, done)


def test_a_checkpoint_by_time(tmp_path: Path) -> None:
    from datetime import timedelta

    given = solver({"batches": 4, **KEPT}, "AdamW")
    keep = ModelCheckpoint(tmp_path, train_time_interval=timedelta(seconds=0), save_top_k=-1, filename="x")
    straight = fit(given, keep, Save(tmp_path))
    written = sorted(path.name for path in tmp_path.glob("x*.ckpt"))
    assert written
    for name in written:
        path = tmp_path / name
        done = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"][
            "processed"
        ]
        assert_goes_on(straight, fit(given, ckpt=path), done)


class Breaks(Regression):
    """Fails once: in a batch, in its backward pass or in the step."""

    where = ""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.fail("forward", batch_idx)
        return super().training_step(batch, batch_idx)

    def on_after_backward(self) -> None:
        self.fail("backward", self.trainer.fit_loop.epoch_loop.batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        self.fail("step", self.trainer.fit_loop.epoch_loop.batch_idx)

    def fail(self, where: str, batch_idx: int) -> None:
        if where == self.where and batch_idx == (7 if where == "step" else 6):
            raise RuntimeError("on purpose")


@pytest.mark.parametrize(("where", "done", "kept"), [("forward", 6, True), ("backward", 6, False), ("step", 7, False)])
def test_a_checkpoint_of_an_exception(
    where: str, done: int, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gradients are kept unless those of a batch that has to be done again are among them already."""
    given = solver({"batches": 4, "weigh_by": "count", **KEPT}, "AdamW")
    straight = fit(given, Save(tmp_path))
    net = Breaks(given)
    net.where = where
    keep = ModelCheckpoint(tmp_path / "exception", save_on_exception=True, every_n_epochs=1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(given, keep, net=net)
    (path,) = (tmp_path / "exception").glob("*.ckpt")
    # the loader has fetched the batch that has to be done again, and would not give it again
    before, saved = (torch.load(one, weights_only=True) for one in (tmp_path / f"{done}.ckpt", path))
    loader = "combined_loader"
    saved["loops"]["fit_loop"]["state_dict"][loader] = before["loops"]["fit_loop"]["state_dict"][loader]
    torch.save(saved, path)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed = fit(given, ckpt=path)
    if kept:
        assert_goes_on(straight, resumed, done)
        assert not caplog.text
    else:
        rest = 4 - done % 4
        lost = f"without the gradients of {done % 4} of its 4 batches: its next step is made of the other {rest}"
        assert lost in caplog.text
        # the very run of a checkpoint that was written without gradients
        without = fit(solver({"batches": 4, "weigh_by": "count"}, "AdamW"), ckpt=path)
        assert_goes_on(without, resumed, 0)
        assert len(resumed.grads) == 5


# ------------------------------------------------------------------ without the gradients


@pytest.mark.parametrize(
    "how", [{"batches": 4}, {"batches": 4, "weigh_by": "samples"}, {"batches": {0: 2, 1: 4}}], ids=str
)
def test_without_gradients_the_rest_of_the_window_makes_the_step_and_it_is_told(
    how: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = solver(how)
    first = fit(given, Save(tmp_path))
    begin, end = (0, 4) if how["batches"] == 4 else (2, 6)
    done = begin + 3
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed = fit(given, ckpt=tmp_path / f"{done}.ckpt")
    (message,) = [record.message for record in caplog.records]
    lost = "the gradients of 3 of its 4 batches: its next step is made of the other 1 batch"
    assert message == f"the checkpoint was written in mid-window without {lost}"
    assert len(resumed.grads) == len(first.grads) - (0 if begin == 0 else 1)
    # the last batch of the window alone, rightly scaled
    alone = Batches([])
    alone.made = UNEQUAL.made[end - 1 : end]
    expected = Regression(solver())
    expected.load_state_dict(first.states[done - 1])
    trainer(max_epochs=1).fit(expected, StatefulDataLoader(alone, batch_size=None))
    assert_close(resumed.grads[0], expected.grads[0])


def test_gradients_of_an_earlier_run_are_not_taken_in(tmp_path: Path) -> None:
    given = solver(4)
    fit(given, Save(tmp_path))
    once = fit(given, ckpt=tmp_path / "6.ckpt")
    used = Regression(given)
    for tensor in used.parameters():
        tensor.grad = torch.ones_like(tensor)
    again = fit(given, ckpt=tmp_path / "6.ckpt", net=used)
    assert_equal(again.grads[0], once.grads[0])


def test_another_number_of_processes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = solver({"batches": 4, **KEPT})
    fit(given, Save(tmp_path))
    path = tmp_path / "6.ckpt"
    saved = torch.load(path, weights_only=True)
    saved[KEY]["states"] *= 2
    torch.save(saved, path)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed = fit(given, ckpt=path)
    what = "the checkpoint was written in mid-window by another number of processes (2 then, 1 now)"
    assert what + ": its next step is made of the other 2 batches" in caplog.text
    without = fit(solver(4), ckpt=path)
    assert_equal(resumed.grads[0], without.grads[0])


def test_accumulation_that_was_dropped_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(solver(4), Save(tmp_path))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed = fit(solver(), ckpt=tmp_path / "6.ckpt")
    what = "the checkpoint was written in mid-window, and gradients are not accumulated any more"
    assert f"{what}: the gradients of 2 of its 4 batches are lost" in caplog.text
    assert len(resumed.grads) == 14


def test_a_window_goes_on_when_the_numbers_change(tmp_path: Path) -> None:
    given = solver({"batches": 4, **KEPT})
    straight = fit(given, Save(tmp_path))
    resumed = fit(solver({"batches": 2, **KEPT}), ckpt=tmp_path / "6.ckpt")
    assert_equal(resumed.states[1], straight.states[7])  # the window that had begun is finished first
    assert len(resumed.grads) == 1 + 1 + 5


# ------------------------------------------------------------------ what is written


def test_nothing_is_written_between_windows(tmp_path: Path) -> None:
    fit(solver({"batches": 4, **KEPT}), Save(tmp_path))
    written = [KEY in torch.load(tmp_path / f"{done}.ckpt", weights_only=True) for done in range(1, 21)]
    assert written == [True, True, True, False, True, True, True, False, True, False] * 2


def test_gradients_are_written_only_if_they_are_asked_for(tmp_path: Path) -> None:
    fit(solver(4), Save(tmp_path))
    saved = torch.load(tmp_path / "6.ckpt", weights_only=True)[KEY]
    assert saved == {"epoch": 0, "begin": 4, "size": 4, "end": 8, "own": False, "expected": 4, "held": 2}
    fit(solver({"batches": 4, **KEPT}), Save(tmp_path))
    (state,) = torch.load(tmp_path / "6.ckpt", weights_only=True)[KEY]["states"]
    assert sorted(state["gradients"]) == sorted(name for name, _ in Regression().named_parameters())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_window_that_holds_nothing_yet_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Skips(Regression):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx in (4, 5) else super().training_step(batch, batch_idx)

    given = solver({"batches": 4})
    straight = fit(given, Save(tmp_path), net=Skips(given))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed = fit(given, ckpt=tmp_path / "6.ckpt", net=Skips(given))
    assert_goes_on(straight, resumed, 6)
    assert "mid-window" not in caplog.text


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_what_a_loss_scaler_left_to_the_next_window_is_kept(tmp_path: Path) -> None:
    class Skips(Regression):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    given = solver({"batches": 4, **KEPT}, "AdamW")
    straight = fit(given, Save(tmp_path), net=Skips(given), **with_scaler("16"))
    for done in (3, 4, 5, 8):
        resumed = fit(given, ckpt=tmp_path / f"{done}.ckpt", net=Skips(given), **with_scaler("16"))
        assert_goes_on(straight, resumed, done)


def test_a_resumed_run_says_nothing_of_a_plain_loader_between_epochs(tmp_path: Path) -> None:
    """Lightning compares steps with batches by a number that ours would make wrong: warnings are errors here."""
    for given in (solver(4), solver({0: 1, "1ep": 4})):
        run(given, UNEQUAL, callbacks=[Save(tmp_path)], max_epochs=1, enable_checkpointing=True)
        resumed = run(given, UNEQUAL, ckpt_path=tmp_path / "10.ckpt", max_epochs=2)
        assert len(resumed.states) == 10


def test_a_resumed_run_is_warned_of_a_plain_loader_in_mid_epoch(tmp_path: Path) -> None:
    for done in (3, 4, 7):
        run(solver(4), UNEQUAL, callbacks=[Save(tmp_path)], max_epochs=2, enable_checkpointing=True)
        with pytest.warns(UserWarning, match="your dataloader is not resumable"):
            run(solver(4), UNEQUAL, ckpt_path=tmp_path / f"{10 + done}.ckpt", max_epochs=2)
