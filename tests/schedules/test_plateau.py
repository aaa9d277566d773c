import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from laid import close, laid, over, table
from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.schedules import (
    Chain,
    Clip,
    Constant,
    Cosine,
    Cycle,
    Join,
    KeepZero,
    Linear,
    Over,
    PerGroup,
    Plateau,
    Product,
    Scale,
    Shift,
    Staircase,
    Sum,
    Warmup,
)
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay
from lightning_solver.schedules.plateau import Feed

EPOCH = 3  # steps
BASES = [0.3, 0.02]
values = st.floats(-2, 2).map(lambda x: round(x, 2)) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
metrics = st.lists(values, min_size=1, max_size=30)


@st.composite
def plateaus(draw):
    return Plateau(
        "loss",
        mode=draw(st.sampled_from(["min", "max"])),
        factor=draw(st.sampled_from([0.1, 0.5, 0.9])),
        patience=draw(st.integers(0, 3)),
        threshold=draw(st.sampled_from([0.0, 1e-4, 0.1, 0.5])),
        threshold_mode=draw(st.sampled_from(["rel", "abs"])),
        cooldown=draw(st.integers(0, 3)),
        min={"absolute": draw(st.sampled_from([0.0, 0.01, 0.1]))},
        eps=draw(st.sampled_from([0.0, 1e-8, 0.005])),
    )


def by_torch(plateau, losses, bases=BASES):
    """The values after each number of validations, by torch's ReduceLROnPlateau; shape (losses + 1, groups)."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": base} for base in bases])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=plateau.mode,
        factor=plateau.factor,
        patience=plateau.patience,
        threshold=plateau.threshold,
        threshold_mode=plateau.threshold_mode,
        cooldown=plateau.cooldown,
        min_lr=plateau.min["absolute"] if isinstance(plateau.min, dict) else plateau.min,
        eps=plateau.eps,
    )
    rows = [list(bases)]
    for loss in losses:
        scheduler.step(loss)
        rows.append([group["lr"] for group in optimizer.param_groups])
    return np.array(rows)


def stretched(rows, total):
    """Each row for an epoch."""
    return np.repeat(rows, EPOCH, axis=0)[:total]


@given(plateaus(), metrics)
@example(Plateau("loss", patience=0, min={"absolute": 0.25}, eps=0.05), [1.0] * 5)
@settings(max_examples=150, deadline=None)
def test_a_plateau_is_that_of_torch(plateau, losses):
    total = EPOCH * (len(losses) + 1)
    rows = table(plateau, BASES, total, steps_per_epoch=EPOCH, metrics=losses)
    assert rows.tobytes() == stretched(by_torch(plateau, losses), total).tobytes()


@given(plateaus(), metrics)
@settings(max_examples=60, deadline=None)
def test_a_plateau_as_a_factor_lowers_any_schedule(plateau, losses):
    plateau = Plateau(**{**vars(plateau), "min": 0.01})
    total = EPOCH * (len(losses) + 1)
    factor = stretched(by_torch(plateau, losses, [1.0]), total)
    curve = [Linear(start=0.1, until="30%"), Cosine(end=0.1)]
    expected = table(curve, BASES, total) * factor
    run = {"steps_per_epoch": EPOCH, "metrics": losses}
    assert table(Product([curve, plateau]), BASES, total, **run).tobytes() == expected.tobytes()
    warmed = Warmup(Linear(start=0.1, until="30%"), Product([Cosine(), plateau]), "multiply")
    expected = (
        table(Cosine(), BASES, total) * factor * table([Linear(start=0.1, until="30%"), Constant()], [1.0], total)
    )
    assert table(warmed, BASES, total, **run).tobytes() == expected.tobytes()


@given(plateaus(), metrics, st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_plateau_that_begins_later_does_not_see_what_was_before(plateau, losses, begin):
    total = EPOCH * (len(losses) + 1)
    begin = min(begin, total - 1)
    rows = table([Constant(until=begin), plateau], BASES, total, steps_per_epoch=EPOCH, metrics=losses)
    seen = [loss for epoch, loss in enumerate(losses) if EPOCH * (epoch + 1) > begin]
    assert (
        rows[begin:].tobytes() == stretched(by_torch(plateau, seen), total)[begin % EPOCH :][: total - begin].tobytes()
    )


@given(plateaus(), metrics, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_state_and_load_at_any_point_go_on_bit_for_bit(plateau, losses, at):
    schedule = Product([Linear(end=0.1), Plateau(**{**vars(plateau), "min": 0.01}), Plateau("other", patience=1)])
    run = RunLength(total_steps=EPOCH * (len(losses) + 1))

    def made():
        feed = Feed()
        return lay(schedule, run_window(BASES, run, "schedules.lr", feed=feed)), feed

    def take(feed, epochs):
        for epoch in epochs:
            feed.take(EPOCH * (epoch + 1), {"loss": losses[epoch], "other": 1.0})

    straight, feed = made()
    take(feed, range(min(at, len(losses))))
    state = json.loads(json.dumps(feed.state()))
    resumed, fresh = made()
    resumed.at(run.total_steps)  # what was asked for before the state came does not stay
    assert fresh.load(state) == {}
    for trackers in (feed, fresh):
        take(trackers, range(at, len(losses)))
    steps = np.arange(run.total_steps + 1)
    assert resumed.over(steps).tobytes() == straight.over(steps).tobytes()
    assert [resumed.at(step) for step in steps.tolist()] == straight.over(steps).tolist()
    assert json.dumps(fresh.state()) == json.dumps(feed.state())


def test_the_scheduler_observes_and_resumes():
    spec = SolverSpec(
        optimizer={"name": "SGD", "args": {"lr": 0.4}},
        schedules={"lr": Product([Linear(end=0.5), Plateau("loss", factor=0.5, patience=1)])},
    )
    losses = [1.0, 0.9, 0.95, 0.9, 0.9, 0.9, 0.9]
    expected = spec.curve("lr", [0.4], total_steps=24, steps_per_epoch=EPOCH, metrics=losses)[:, 0].tolist()
    assert expected[12:13] != [0.4 * (1 - 0.5 * 12 / 24)]

    def made():
        return spec.plan(nn.Linear(2, 2), total_steps=24, steps_per_epoch=EPOCH).build()

    for stop in range(24):
        optimizer, scheduler = made()
        used = []
        for step in range(24):
            if step and step % EPOCH == 0:
                dropped = scheduler.observe({"loss": losses[step // EPOCH - 1], "unknown": 0.0})
                assert dropped in ([], ["schedules.lr.factors[1]"])
            if step == stop:
                state = json.loads(json.dumps(scheduler.state_dict()))
                optimizer, scheduler = made()
                scheduler.load_state_dict(state)
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert used == expected


def test_a_group_stops_at_its_own_lowest_value():
    rows = table(Plateau("m", factor=0.5, patience=0, min=0.3), [1.0, 0.1], 5, steps_per_epoch=1, metrics=[1.0] * 5)
    assert rows.tolist() == close(np.outer([1, 1, 0.5, 0.3, 0.3], [1.0, 0.1]))


def test_two_plateaus_follow_two_metrics():
    schedule = Product([Plateau("a", factor=0.5, patience=0), Plateau("b", mode="max", factor=0.1, patience=0)])
    values = over(schedule, 5, steps_per_epoch=1, metrics={"a": [1, 1, 0, 0], "b": [1, 2, 2]})
    assert values == close([1, 1, 0.5, 0.05, 0.025])


def test_epochs_that_differ():
    values = over(Plateau("m", factor=0.5, patience=0), 12, epoch_ends=[3, 8, 10], metrics=[1.0, 1.0, 1.0])
    assert values == [1.0] * 8 + [0.5] * 2 + [0.25] * 2


def test_without_metrics_nothing_drops():
    assert over(Product([Linear(end=0.0), Plateau("m")])) == over(Linear(end=0.0))


def test_what_a_checkpoint_lost():
    _, window = laid(Product([Plateau("a"), Plateau("b")]))
    state = {"schedules.lr.factors[0]": {"best": 0.5, "bad": 1, "cooldown": 0, "drops": [3]}, "schedules.x": {}}
    assert window.feed.load(state) == {
        "schedules.lr.factors[1]": "no state of a schedule that follows b: it starts afresh",
        "schedules.x": "its state is dropped",
    }
    assert window.feed.state()["schedules.lr.factors[0]"] == state["schedules.lr.factors[0]"]


def test_the_one_plateau_of_a_spec_may_move():
    _, window = laid(Plateau("a"))
    state = {"best": 0.5, "bad": 1, "cooldown": 2, "drops": [3]}
    assert window.feed.load({"schedules.lr.factors[1]": state}) == {}
    assert window.feed.state() == {"schedules.lr": state}


MOVES = [
    ("of", lambda inner: Staircase(inner, every=2)),
    ("of", lambda inner: Shift(inner, later=2)),
    ("of", lambda inner: Scale(inner, by=2)),
    ("of", lambda inner: Cycle(inner, every=2)),
    ("of[1]", lambda inner: Chain([Constant(), inner])),
]


@pytest.mark.parametrize(("field", "wrap"), MOVES)
@pytest.mark.parametrize(("more", "inside"), [("", lambda p: p), (".factors[1]", lambda p: Product([Constant(), p]))])
def test_refused_where_positions_are_not_those_of_the_run(field, wrap, more, inside):
    message = f"schedules.lr.{field}{more}: a schedule that follows a metric cannot stand inside one that changes posit"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(wrap(inside(Plateau("m"))))


SEEN, LATE = [1.0] * 5 + [0.5] * 4 + [0.25], [1.0] * 7 + [0.5] * 3


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda inner: inner, SEEN),
        (lambda inner: Over(inner, end=8), [*SEEN[:9], 0.5]),
        (lambda inner: Clip(inner, min=0.4), [*SEEN[:9], 0.4]),
        (lambda inner: Sum([Constant(), inner]), [1 + value for value in SEEN]),
        (lambda inner: KeepZero(inner), SEEN),
        (lambda inner: PerGroup([inner]), SEEN),
        (lambda inner: Join([inner]), SEEN),
        (lambda inner: Warmup(Linear(start=0.0, until=2), inner, "multiply"), [0.0, 0.5, *SEEN[2:]]),
        (lambda inner: Warmup(Linear(start=0.0, until=2), inner, "delay"), [0.0, 0.5, *LATE[2:]]),
    ],
)
def test_allowed_where_they_are(wrap, expected):
    plateau = Plateau("m", factor=0.5, patience=3)
    assert over(wrap(plateau), steps_per_epoch=1, metrics=[1.0] * 10) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "low"}, "Plateau.mode: unknown value; got 'low'"),
        ({"factor": 1.0}, "Plateau.factor: must lie between 0 and 1; got 1.0"),
        ({"factor": 0}, "Plateau.factor: must lie between 0 and 1; got 0.0"),
        ({"patience": -1}, "Plateau.patience: must not be negative; got -1"),
        ({"cooldown": -1}, "Plateau.cooldown: must not be negative; got -1"),
        ({"threshold": -0.1}, "Plateau.threshold: must not be negative; got -0.1"),
        ({"eps": -0.1}, "Plateau.eps: must not be negative; got -0.1"),
        ({"patience": 1.5}, "Plateau.patience: must be a whole number; got 1.5 (float)"),
        ({"threshold_mode": "relative"}, "Plateau.threshold_mode: unknown value; got 'relative'; did you mean rel"),
        ({"min": -1.0}, "Plateau.min: must not be negative; got -1.0"),
        ({"monitor": None}, "Plateau.monitor: must be a text; got None"),
    ],
    ids=repr,
)
def test_bad_plateaus(arguments, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Plateau(**{"monitor": "m", **arguments})


@pytest.mark.parametrize(
    ("schedule", "metrics", "message"),
    [
        (Constant(), [1.0], "metrics: no schedule of this option follows a metric; leave metrics out"),
        (Plateau("m"), {"n": [1.0]}, "metrics: a plateau follows m, which is not among them; got 'n'; add m"),
        (Plateau("m"), {}, "metrics: a plateau follows m, which is not among them; got none; add m"),
    ],
)
def test_metrics_that_do_not_fit(schedule, metrics, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        over(schedule, steps_per_epoch=1, metrics=metrics)


def test_metrics_need_epochs():
    with pytest.raises(SolverError, match=re.escape("metrics: needs the length of an epoch")):
        over(Plateau("m"), metrics=[1.0])


def test_what_a_plateau_leaves_is_not_known_beforehand():
    plateau = Plateau("m", factor=0.5, patience=0, until=5)
    with pytest.raises(SolverError, match=r"schedules\.lr\[1\]\.value: there is no phase before .* a Plateau"):
        over([plateau, Constant("previous")], metrics=[1.0] * 5, steps_per_epoch=1)
    with pytest.raises(SolverError, match=r"Warmup\.of: holds a Plateau, whose value where they meet"):
        Warmup(Linear(start=0.0, until=5), Product([Constant(), Plateau("m")]), "interpolate")
