"""Gradients that are not finite: what is done about them, and what is counted."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from clipping_callback_cases import (
    SGD,
    STEPS,
    WAYS,
    At,
    Net,
    Seen,
    Solved,
    by_hand,
    close,
    data,
    fit,
    loss_of,
    prepared,
    scaler,
    spec,
    the_work,
    weights,
)
from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.averaging import EMA
from lightning_solver.callbacks import GradientClipping
from lightning_solver.clipping import AutoClip, GlobalNorm, NonFinite, ParameterNorm, Value
from lightning_solver.schedules import Linear
from small import trainer

# Lightning's advice about what these tests do on purpose
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`:UserWarning"),
]

LIMIT = 0.05
WRONG = (2, 3, 7)
CLIPS = {
    "no clip": None,
    "one norm for both": GlobalNorm(LIMIT),
    "clipped by other norms": ParameterNorm(LIMIT),
    "clipped in part": GlobalNorm(LIMIT, of={"match": "layers.2.*"}),
    "two": [Value(1.0), GlobalNorm(LIMIT)],
    "learnt": AutoClip(50.0),
}


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


# ------------------------------------------------------------------ skip


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_skipped_leaves_no_trace(way: str, clip: Any) -> None:
    """The run is that without the batches: neither weights nor momentum nor what clippings have learnt."""
    net, callbacks = prepared(way, clip, "skip", wrong=WRONG)
    ran = fit(net, callbacks)
    without, callbacks = prepared(way, clip, "skip")

    class Without(type(without)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in WRONG else super().training_step(batch, batch_idx)

    without.__class__ = Without
    expected = fit(without, callbacks)
    assert torch.equal(weights(net), weights(without))
    states = [ran.optimizers[0].state_dict()["state"] for ran in (ran, expected)]
    for ours, theirs in zip(*(state.values() for state in states)):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])
    learnt = [[clipper.state_dict() for clipper in the_work(one).clippers] for one in (ran, expected)]
    assert str(learnt[0]) == str(learnt[1])
    assert (the_work(ran).found, the_work(ran).in_a_row) == (3, 0)
    assert (the_work(expected).found, the_work(expected).in_a_row) == (0, 0)
    assert ran.global_step == STEPS  # Lightning's count, of calls


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_what_the_last_step_measured_is_nothing_where_it_was_skipped(clip: Any) -> None:
    work = the_work(fit(Solved(spec(clip, "skip"), wrong=(9,))))
    assert work.clipped == ()
    assert work.norm is not None
    assert math.isnan(float(work.norm))


def test_what_was_counted_can_be_read_until_the_next_run() -> None:
    class Tested(Net):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            loss_of(self, batch)

    callback, net = GradientClipping(nonfinite="skip"), Tested(wrong=WRONG)
    fit(net, [callback])
    trainer(callbacks=[callback]).test(net, data(), verbose=False)
    assert callback.at_work["0"].found == 3
    fit(Tested(), [callback])
    assert callback.at_work["0"].found == 0


def test_neither_schedules_nor_averages_nor_limits_move() -> None:
    falling = GlobalNorm(LIMIT, schedule=Linear(end=0.2))
    solver = spec(falling, "skip", schedules={"lr": Linear(end=0.1)}, averages={"ema": EMA(0.5)})
    net = Solved(solver, WRONG)
    rates: list[float] = []
    seen = Seen()
    ran = fit(net, [At("on_train_batch_end", lambda t, m: rates.append(t.optimizers[0].param_groups[0]["lr"])), seen])
    made = STEPS - len(WRONG)
    assert net.solver_scheduler is not None
    assert net.solver_plan is not None
    assert net.solver_scheduler.last_epoch == made
    assert net.solver_averages["ema"].count.steps == made
    planned = net.solver_plan.curve("lr")[:, 0].tolist()
    # after batches 2, 3 and 7 the rate is still that of the step that was not made
    assert rates == [planned[i] for i in (1, 2, 2, 2, 3, 4, 5, 5, 6, 7)]
    limits = falling.limits(total_steps=STEPS).tolist()
    norms = [norm for norm in seen.norms if not math.isnan(norm)]
    assert norms == pytest.approx(limits[:made], rel=1e-4)
    assert ran.global_step == net.solver_plan.run.total_steps == STEPS


def test_the_limit_of_the_callback_stays_too() -> None:
    falling = GlobalNorm(LIMIT, schedule=Linear(end=0.2))
    seen = Seen()
    fit(Net(wrong=WRONG), [GradientClipping(falling, nonfinite="skip"), seen])
    norms = [norm for norm in seen.norms if not math.isnan(norm)]
    assert norms == pytest.approx(falling.limits(total_steps=STEPS)[:7].tolist(), rel=1e-4)


@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
def test_the_run_says_at_its_end_what_it_has_left_out(
    name: str, nonfinite: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = Solved(spec(None, nonfinite).replace(optimizer=OptimizerSpec(name, {"lr": 0.01})), WRONG)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net)
    done = "left out" if nonfinite == "skip" else "made with 0 in their place"
    assert messages(caplog) == [f"the norm of the gradients was not finite:\n  3 steps, {done}"]
    assert weights(net).isfinite().all()


def test_a_run_in_which_all_is_well_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        ran = fit(Solved(spec(GlobalNorm(LIMIT), "skip")))
    assert messages(caplog) == []
    assert (the_work(ran).found, the_work(ran).in_a_row) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_window_with_one_bad_batch_is_skipped_as_a_whole(way: str) -> None:
    net, callbacks = prepared(way, GlobalNorm(LIMIT), "skip", wrong=(4,))
    ran = fit(net, callbacks, accumulate_grad_batches=3)
    assert (the_work(ran).found, ran.global_step) == (1, 4)
    close(net, by_hand(_drop, accumulate=3, wrong=(4,)))


def _drop(model: nn.Module) -> None:
    norm = nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
    for parameter in model.parameters():
        parameter.grad = parameter.grad if norm.isfinite() else None


# ------------------------------------------------------------------ which parameters


class OneBad(Net):
    """A number of one gradient is infinite; all others are what they are."""

    bad = "layers.0.bias"

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 3:
            gradient = dict(self.named_parameters())[self.bad].grad
            assert gradient is not None
            gradient[0] = float("inf")


class OneBadSolved(Solved):
    on_after_backward = OneBad.on_after_backward
    bad = OneBad.bad


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("way", WAYS)
def test_one_bad_number_anywhere_skips_the_step(way: str, clip: Any) -> None:
    """Also in a parameter that is not clipped."""
    net: Any = OneBad() if way == "callback" else OneBadSolved(spec(clip, "skip"))
    ran = fit(net, [GradientClipping(clip, nonfinite="skip")] if way == "callback" else [])
    assert the_work(ran).found == 1
    assert weights(net).isfinite().all()


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("way", WAYS)
def test_zero_makes_the_step_with_the_numbers_that_are_finite(way: str, clip: Any) -> None:
    seen = Seen()
    net: Any = OneBad() if way == "callback" else OneBadSolved(spec(clip, "zero"))
    ran = fit(net, [*([GradientClipping(clip, nonfinite="zero")] if way == "callback" else []), seen])
    assert the_work(ran).found == 1
    gradient = seen.gradients[3]
    assert gradient is not None
    assert gradient.isfinite().all()
    assert int((gradient == 0).sum()) == 1
    if isinstance(clip, GlobalNorm) and clip.of is None:
        assert float(gradient.norm()) == pytest.approx(LIMIT, rel=1e-4)
    if way == "solver":
        assert net.solver_scheduler.last_epoch == STEPS


# ------------------------------------------------------------------ error


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_an_error_ends_the_run_at_once(clip: Any) -> None:
    net = Solved(spec(clip, "error"), wrong=(4,))
    with pytest.raises(SolverError) as caught:
        fit(net)
    assert str(caught.value) == (
        "nonfinite: the norm of the gradients is not finite at step 4; got nan; "
        "look at data, loss and learning rate; or set nonfinite: skip"
    )
    assert weights(net).isfinite().all()
    with pytest.raises(
        SolverError, match=r"^GradientClipping\.nonfinite: .* at step 4; got nan; .*GradientClipping\.nonf"
    ):
        fit(Net(wrong=(4,)), [GradientClipping(clip, nonfinite="error")])


@pytest.mark.parametrize("policy", ["skip", "zero"])
@pytest.mark.parametrize("way", WAYS)
def test_too_many_in_a_row_end_the_run_whatever_the_policy(way: str, policy: Any) -> None:
    net, callbacks = prepared(way, GlobalNorm(LIMIT), NonFinite(policy, in_a_row=3), wrong=(1, 2, 4, 5, 6, 7))
    head = "" if way == "solver" else r"GradientClipping\."
    step = 3 if policy == "skip" else 6  # of which three were not made
    message = (
        rf"^{head}nonfinite: the norm of the gradients was not finite in 3 steps in a row; got nan at step \d; "
        rf"look at data, loss and learning rate; or raise {head}nonfinite\.in_a_row$"
    )
    with pytest.raises(SolverError, match=message) as caught:
        fit(net, callbacks)
    assert f"at step {2 if policy == 'skip' else step};" in str(caught.value)


def test_two_in_a_row_are_not_three() -> None:
    net, callbacks = prepared("solver", None, NonFinite(in_a_row=3), wrong=(1, 2, 4, 5, 7, 8))
    ran = fit(net, callbacks)
    assert (the_work(ran).found, the_work(ran).in_a_row) == (6, 0)
    net, callbacks = prepared("solver", None, NonFinite(in_a_row=3), wrong=(8, 9))
    assert the_work(fit(net, callbacks)).in_a_row == 2


def test_batches_without_a_loss_do_not_end_a_row() -> None:
    class Between(Solved):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 5 else loss_of(self, batch, batch_idx, (4, 6))

    for clip in (None, GlobalNorm(LIMIT)):
        with pytest.raises(SolverError, match="in 2 steps in a row"):
            fit(Between(spec(clip, NonFinite(in_a_row=2))))


# ------------------------------------------------------------------ a loss scaler


@pytest.mark.parametrize("policy", ["error", "skip", "zero"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("clip", [None, GlobalNorm(LIMIT)], ids=["no clip", "clip"])
def test_what_the_scaler_skips_is_counted_and_no_error(way: str, fused: bool, policy: Any, clip: Any) -> None:
    net, callbacks = prepared(way, clip, policy, wrong=WRONG, args={**SGD, "fused": fused})
    plugin = scaler()
    ran = fit(net, callbacks, plugins=[plugin])
    assert (the_work(ran).found, the_work(ran).in_a_row) == (3, 0)
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 1.0  # halved three times, from 8

    def change(model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT if clip else 1e9)

    close(net, by_hand(change, precision="16-mixed", wrong=WRONG))


@pytest.mark.parametrize("policy", ["error", "skip", "zero"])
def test_under_a_scaler_too_many_in_a_row_are_an_error(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    solver = spec(GlobalNorm(LIMIT), NonFinite(policy, in_a_row=4))
    with pytest.raises(SolverError, match="was not finite in 4 steps in a row; got nan at step 2; look at data"):
        fit(Solved(solver, (2, 3, 4, 5)), plugins=[scaler()])
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        ran = fit(Solved(solver, (2, 3, 4)), plugins=[scaler()])
    assert the_work(ran).found == 3
    assert messages(caplog) == ["the norm of the gradients was not finite:\n  3 steps, left out by the loss scaler"]


def test_a_scaler_that_is_switched_off_skips_nothing() -> None:
    with pytest.raises(SolverError, match="nonfinite: the norm of the gradients is not finite at step 4"):
        fit(Solved(spec(None, "error"), (4,)), plugins=[scaler(enabled=False)])


def test_overflow_of_the_scaled_loss_alone_is_the_business_of_the_scaler() -> None:
    """The first scale is far too great, and halved until it fits."""
    net = Solved(spec(GlobalNorm(LIMIT), NonFinite("error", in_a_row=9)))
    ran = fit(net, plugins=[scaler(2.0**18)])
    assert 1 <= the_work(ran).found <= 6
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == STEPS - the_work(ran).found


# ------------------------------------------------------------------ what is counted


@pytest.mark.parametrize("way", WAYS)
def test_counts_go_on_after_a_resume(way: str, tmp_path: Path) -> None:
    how = NonFinite(in_a_row=3)
    keep = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    net, callbacks = prepared(way, AutoClip(), how, wrong=(5, 8, 9))
    fit(net, [*callbacks, keep], enable_checkpointing=True)
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["callbacks"]
    (state,) = [one for name, one in saved.items() if name.endswith("Clipping")]
    assert [(one["found"], one["in_a_row"]) for one in state.values()] == [(3, 2)]
    again, callbacks = prepared(way, AutoClip(), how, wrong=(1,))
    ran = fit(again, callbacks, max_epochs=2, ckpt=tmp_path / "epoch=0.ckpt")
    assert (the_work(ran).found, the_work(ran).in_a_row) == (4, 0)
    worse, callbacks = prepared(way, AutoClip(), how, wrong=(0,))
    with pytest.raises(SolverError, match="in 3 steps in a row"):
        fit(worse, callbacks, max_epochs=2, ckpt=tmp_path / "epoch=0.ckpt")


def test_a_checkpoint_that_is_written_before_the_first_step_keeps_the_counts(tmp_path: Path) -> None:
    net, callbacks = prepared("callback", None, "skip", wrong=(5,))
    fit(net, callbacks).save_checkpoint(tmp_path / "a.ckpt")

    def save(trainer: Any, module: Any) -> None:
        trainer.save_checkpoint(tmp_path / "b.ckpt")

    net, callbacks = prepared("callback", None, "skip")
    fit(net, [At("on_fit_start", save), *callbacks], max_epochs=2, ckpt=tmp_path / "a.ckpt")
    for name in ("a", "b"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["callbacks"]
        assert saved["GradientClipping"]["0"]["found"] == 1


def test_the_closing_words_of_the_guard_are_right(caplog: pytest.LogCaptureFixture) -> None:
    """A skipped step is one of Lightning's, which end the run: it was as long as planned."""
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(Solved(spec(None, "skip"), WRONG))
    assert not any("the plan was made for" in message for message in messages(caplog))


class ByTurns(Solved):
    def __init__(self, solver: Any, wrong: Any = ()) -> None:
        super().__init__(solver, wrong)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        with self.solver_turn() as turn:
            turn.step(loss_of(self, batch, batch_idx, self.wrong))


def test_under_manual_optimisation_too(caplog: pytest.LogCaptureFixture) -> None:
    net = ByTurns(spec(GlobalNorm(LIMIT), "skip", schedules={"lr": Linear(end=0.1)}), WRONG)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        ran = fit(net)
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == STEPS - len(WRONG)
    assert the_work(ran).found == 3
    text = "\n".join(messages(caplog))
    assert "3 steps, left out" in text
    assert "the plan was made for" not in text
    assert "batches_per_step" not in text


def test_a_resumed_run_under_manual_optimisation_knows_what_was_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three steps of ten were skipped in the first epoch: the second begins at step 7, and batches are what they were."""
    solver = spec(GlobalNorm(LIMIT), "skip", schedules={"lr": Linear(end=0.1)})
    fit(ByTurns(solver, WRONG), max_epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(ByTurns(solver), max_epochs=2, ckpt=tmp_path / "x.ckpt")
    assert not any("batch size, devices or accumulation have changed" in message for message in messages(caplog))
