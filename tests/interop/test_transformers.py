"""Recipes of transformers give what transformers gives, worked out here by its formulas, and read as a human writes."""

import json
import math

import numpy as np
import pytest

from lightning_solver import SolverError
from lightning_solver.interop.transformers import from_transformers
from lightning_solver.interop.transformers.policies import POLICIES

RATES = [0.1, 0.01, 0.05]


def cls(name, **arguments):
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


HOLD = cls("Constant", value="previous")


def ramp(steps):
    return cls("Linear", start=0.0, until=steps)


def half(x, low=0.0):
    """A half cosine from 1 to ``low``; ``x`` may go on beyond 1."""
    return low + (1 - low) * (1 + math.cos(math.pi * x)) / 2


def function(name, warmup=None, total=None, **own):
    given = {"name": name, "num_warmup_steps": warmup, "num_training_steps": total, "scheduler_specific_kwargs": own}
    return {"get_scheduler": {key: value for key, value in given.items() if value not in (None, {})}}


def check(config, factor, steps, schedules, facts=None):
    """The native form, and ``factor`` of the step for every group."""
    imported = from_transformers(config, facts=facts)
    assert imported.spec.to_dict()["schedules"] == {"lr": schedules}
    expected = [[factor(t) * rate for rate in RATES] for t in range(steps)]
    np.testing.assert_allclose(imported.spec.curve("lr", RATES, total_steps=steps), expected, rtol=1e-9, atol=1e-12)
    return imported.notes


# ------------------------------------------------------------------ every schedule, over its own length and beyond it


def linear(t, w=10, n=50):
    return t / w if t < w else max(0, (n - t) / (n - w))


def warm(t, w, rest):
    return t / w if t < w else rest(t - w)


WAVES = [cls("Cosine", until="50%"), cls("Cosine", start=0.0, end=1.0)]
UP_AGAIN = cls("Cycle", of=[cls("Cosine", start=0.0, end=1.0, until="50%"), cls("Cosine")], every=80)


@pytest.mark.parametrize(
    ("config", "steps", "schedules", "factor"),
    [
        (function("constant"), 20, cls("Constant"), lambda t: 1),
        (
            function("constant_with_warmup", 7),
            20,
            [ramp(7), cls("Constant")],
            lambda t: min(t / 7, 1),
        ),
        (function("linear", 10, 50), 50, [ramp(10), cls("Linear", end=0.0)], linear),
        (function("linear", 10, 50), 70, [ramp(10), cls("Linear", end=0.0, until=50), HOLD], linear),
        (function("linear", 10, 50), 30, [ramp(10), cls("Linear", end=0.0, until=50), HOLD], linear),
        (function("linear", 0, 50), 50, cls("Linear", end=0.0), lambda t: 1 - t / 50),
        (function("cosine", 10, 50), 50, [ramp(10), cls("Cosine")], lambda t: warm(t, 10, lambda s: half(s / 40))),
        (
            function("cosine", 10, 50),
            120,
            [ramp(10), cls("Cosine", until=50), UP_AGAIN],
            lambda t: warm(t, 10, lambda s: half(s / 40)),
        ),
        (
            function("cosine", 10, 50, num_cycles=2),
            50,
            [ramp(10), cls("Cycle", of=WAVES, every=20)],
            lambda t: warm(t, 10, lambda s: half(s / 10)),
        ),
        (
            function("cosine", 0, 50, num_cycles=0.25),
            50,
            [cls("Cosine", until=100), UP_AGAIN | {"init_args": UP_AGAIN["init_args"] | {"every": 200}}],
            lambda t: half(t / 100),
        ),
        (function("cosine", 5, 50, num_cycles=0), 50, [ramp(5), cls("Constant")], lambda t: min(t / 5, 1)),
        (
            function("cosine_with_restarts", 10, 50),
            50,
            [ramp(10), cls("Cosine")],
            lambda t: warm(t, 10, lambda s: half(s / 40)),
        ),
        (
            function("cosine_with_restarts", 5, 60, num_cycles=2),
            80,
            [ramp(5), cls("Cycle", of=cls("Cosine"), every="27.5st", until=60), cls("Constant", value=0.0)],
            lambda t: warm(t, 5, lambda s: half(s / 27.5 % 1) if s < 55 else 0),
        ),
        (
            function("cosine_with_restarts", 0, 50, num_cycles=2.5),
            50,
            cls("Cycle", of=cls("Cosine"), every=20),
            lambda t: half(t / 20 % 1),
        ),
        (
            function("inverse_sqrt", 16),
            100,
            [ramp(16), cls("Inverse", every=16, power=0.5)],
            lambda t: warm(t, 16, lambda s: math.sqrt(16 / (16 + s))),
        ),
        (
            function("inverse_sqrt", 5, timescale=30),
            60,
            [ramp(5), cls("Inverse", every=30, power=0.5)],
            lambda t: warm(t, 5, lambda s: math.sqrt(30 / (30 + s))),
        ),
        (
            function("inverse_sqrt", 0),
            60,
            cls("Inverse", every=10000, power=0.5),
            lambda t: math.sqrt(10000 / (10000 + t)),
        ),
        (
            function("cosine_with_min_lr", 10, 50, min_lr_rate=0.2),
            50,
            [ramp(10), cls("Cosine", end=0.2)],
            lambda t: warm(t, 10, lambda s: half(s / 40, 0.2)),
        ),
        (
            function("cosine_warmup_with_min_lr", 10, 50, min_lr_rate=0.2),
            50,
            cls("Shift", of=[ramp(10), cls("Cosine", end=0.2)], earlier=1),
            lambda t: (t + 1) / 10 if t < 10 else half((t - 9) / 40, 0.2),
        ),
        (
            function("cosine_warmup_with_min_lr", 0, 40, min_lr_rate=0.2),
            40,
            cls("Shift", of=cls("Cosine", end=0.2), earlier=1),
            lambda t: half((t + 1) / 40, 0.2),
        ),
        (
            function("cosine_warmup_with_min_lr", 11, 50, min_lr_rate=0.2, warmup_lr_rate=0.5),
            50,
            [cls("Linear", start=0.5, until=10), cls("Cosine", end=0.2, until=49), HOLD],
            lambda t: 0.5 + 0.5 * t / 10 if t < 11 else half((t - 10) / 39, 0.2),
        ),
        (
            function("cosine_warmup_with_min_lr", 1, 50, min_lr_rate=0.2, warmup_lr_rate=0.5),
            50,
            [
                cls("Constant", value=0.5, until=1),
                cls("Over", of=cls("Cosine", end=0.2), begin=0, end=49, until=49),
                HOLD,
            ],
            lambda t: half(t / 49, 0.2) if t else 0.5,
        ),
    ],
)
def test_a_schedule(config, steps, schedules, factor):
    total = config["get_scheduler"].get("num_training_steps")
    check(config, factor, steps, schedules, facts={} if total in (None, steps) else {"total_iters": steps})


@pytest.mark.parametrize(
    ("own", "end", "native"),
    [
        ({"lr_end": 0.02, "power": 2.0}, 0.1, cls("Polynomial", power=2.0, end=0.1)),
        ({"lr_end": 0.02}, 0.1, cls("Linear", end=0.1)),
        ({}, 5e-7, cls("Linear", end=5e-7)),
    ],
)
def test_polynomial_ends_relative_to_the_optimiser_s_own_rate(own, end, native):
    power = own.get("power", 1)
    config = function("polynomial", 10, 50, **own)
    facts = {"optimizer_default_lr": 0.2}
    curve = lambda t: warm(t, 10, lambda s: end + (1 - end) * max(1 - s / 40, 0) ** power)  # noqa: E731
    notes = check(config, curve, 50, [ramp(10), native], facts)
    assert any("lr_end: is" in note and "own rate of 0.2" in note for note in notes)
    held = native | {"init_args": native["init_args"] | {"until": 50}}
    check(config, curve, 60, [ramp(10), held, HOLD], {**facts, "total_iters": 60})


def test_min_lr_is_relative_to_the_optimiser_s_own_rate():
    own = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.01}, "max_steps": 40}
    curve = lambda t: half(t / 40, 0.05)  # noqa: E731
    check({**own, "learning_rate": 0.2}, curve, 40, cls("Cosine", end=0.05))
    check({**own, "learning_rate": 3.0}, curve, 40, cls("Cosine", end=0.05), {"optimizer_default_lr": 0.2})
    own["lr_scheduler_kwargs"] = {"min_lr": 1e-5}
    notes = check(own, lambda t: half(t / 40, 0.2), 40, cls("Cosine", end=0.2))
    assert any("default of 5e-5" in note for note in notes)


SHAPES = {
    "linear": (lambda x: x, lambda x: 1 - x, {}, "Linear"),
    "cosine": (lambda x: 1 - half(x), half, {}, "Cosine"),
    "1-sqrt": (lambda x: 1 - math.sqrt(1 - x), lambda x: 1 - math.sqrt(x), {"power": 0.5}, "Polynomial"),
}


@pytest.mark.parametrize("rising", SHAPES)
@pytest.mark.parametrize("falling", SHAPES)
def test_warmup_stable_decay(rising, falling):
    low, up, down = 0.1, SHAPES[rising], SHAPES[falling]

    def factor(t):
        if t < 10:
            return low + (1 - low) * up[0](t / 10)
        return 1 if t < 40 else low + (1 - low) * down[1]((t - 40) / 20) if t < 60 else low

    own = {"num_decay_steps": 20, "warmup_type": rising, "decay_type": falling, "min_lr_ratio": low}
    first = cls(up[3], **up[2], start=low, **({} if rising == "linear" else {"end": 1.0}), until=10)
    last = {"end": low, **({"time_power": 0.5} if falling == "1-sqrt" else {})}
    config = function("warmup_stable_decay", 10, 60, **own)
    check(config, factor, 60, [first, cls("Constant", until=40), cls(down[3], **last)])
    phases = [first, cls("Constant", until=40), cls(down[3], **last, until=60), cls("Constant", value=low)]
    check(config, factor, 70, phases, {"total_iters": 70})
    check(function("warmup_stable_decay", 10, num_stable_steps=30, **own), factor, 70, phases)


def test_a_decay_that_begins_inside_the_warm_up():
    config = function("warmup_stable_decay", 30, 40, num_decay_steps=20, decay_type="linear")
    shapes = [ramp(30), cls("Over", of=cls("Linear", end=0.0), begin=20, end=40)]
    check(config, lambda t: t / 30 if t < 30 else (40 - t) / 20, 40, shapes)
    config = function("warmup_stable_decay", 30, 40, num_decay_steps=50, decay_type="linear")
    begun = cls("Shift", of=cls("Over", of=cls("Linear", end=0.0), begin=0, end=50), earlier=10)
    check(config, lambda t: t / 30 if t < 30 else (40 - t) / 50, 40, [ramp(30), begun])
    config = function("warmup_stable_decay", 30, 40, num_decay_steps=5, num_stable_steps=-10)
    check(config, lambda t: t / 30 if t < 30 else 0, 40, [ramp(30), cls("Constant", value=0.0)])


@pytest.mark.parametrize(
    ("cycles", "native"),
    [
        (1, cls("Cycle", of=WAVES, every=20)),
        (0.25, cls("Over", of=cls("Cosine"), end=80)),
        (0, cls("Constant")),
    ],
)
def test_a_decay_by_other_waves(cycles, native):
    config = function("warmup_stable_decay", 10, 60, num_decay_steps=20, num_cycles=cycles)
    factor = lambda t: t / 10 if t < 10 else 1 if t < 40 else half(2 * cycles * (t - 40) / 20)  # noqa: E731
    check(config, factor, 60, [ramp(10), cls("Constant", until=40), native])


# ------------------------------------------------------------------ quirks


@pytest.mark.parametrize(
    ("name", "schedules", "tail"),
    [
        ("linear", [ramp(20), cls("Constant", value=0.0)], [0, 0, 0]),
        (
            "cosine",
            [ramp(20), cls("Cosine", until=21), UP_AGAIN | {"init_args": UP_AGAIN["init_args"] | {"every": 2}}],
            [1, 0, 1],
        ),
        ("cosine_with_restarts", [ramp(20), cls("Cosine", until=21), cls("Constant", value=0.0)], [1, 0, 0]),
    ],
)
def test_a_warm_up_that_takes_all_the_steps(name, schedules, tail):
    check(function(name, 20, 20), lambda t: t / 20, 20, ramp(20) | {"init_args": {"start": 0.0}})
    check(function(name, 20, 20), lambda t: t / 20 if t < 20 else tail[t - 20], 23, schedules, {"total_iters": 23})


def test_a_warm_up_longer_than_the_schedule():
    check(
        function("linear", 20, 10),
        lambda t: t / 20 if t < 20 else 0,
        25,
        [ramp(20), cls("Constant", value=0.0)],
        {"total_iters": 25},
    )
    facts = {"optimizer_default_lr": 0.1}
    config = function("polynomial", 20, 10, lr_end=0.01)
    check(
        config,
        lambda t: t / 20 if t < 20 else 0.1,
        25,
        [ramp(20), cls("Constant", value=0.1)],
        {**facts, "total_iters": 25},
    )
    check(
        function("polynomial", 20, 20, lr_end=0.01),
        lambda t: t / 20,
        20,
        ramp(20) | {"init_args": {"start": 0.0}},
        facts,
    )
    with pytest.raises(SolverError, match="num_training_steps: transformers divides by zero"):
        from_transformers(function("polynomial", 20, 20, lr_end=0.01), facts={**facts, "total_iters": 25})


def test_a_restart_that_rounding_delays():
    """49 * (1 / 49) is less than 1 in floating point: the first restart comes a step late."""
    config = function("cosine_with_restarts", 0, 98, num_cycles=49)
    values = from_transformers(config).spec.curve("lr", [1.0], total_steps=98)[:, 0]
    assert values[:6] == pytest.approx([half(49 * (t / 98) % 1) for t in range(6)], abs=1e-12)
    assert values[:4] == pytest.approx([1, 0.5, 0, 0.5], abs=1e-12)
    assert values == pytest.approx([half(49 * (t / 98) % 1) for t in range(98)], abs=1e-12)


def test_a_cosine_that_ends_with_its_warm_up():
    config = function("cosine_warmup_with_min_lr", 1, 2, min_lr_rate=0.2, warmup_lr_rate=0.5)
    phases = [cls("Constant", value=0.5, until=1), cls("Constant", value=0.2)]
    check(config, lambda t: (0.5, 0.2)[t], 2, phases)


def test_fractional_steps():
    config = function("linear", 2.5, 10)
    check(config, lambda t: t / 2.5 if t < 2.5 else (10 - t) / 7.5, 10, [ramp("2.5st"), cls("Linear", end=0.0)])
    config = function("linear", 2, 7.5)
    check(
        config,
        lambda t: t / 2 if t < 2 else max(0, (7.5 - t) / 5.5),
        9,
        [ramp(2), cls("Linear", end=0.0, until="7.5st"), HOLD],
    )


def test_arguments_of_a_constant_have_no_effect():
    notes = from_transformers(function("constant", 5, lr_end=3)).notes
    assert "get_scheduler.scheduler_specific_kwargs: has no effect with constant, as in transformers" in notes
    assert any(note.startswith("warmup: has no effect with constant") for note in notes)


# ------------------------------------------------------------------ TrainingArguments


@pytest.mark.parametrize(
    ("fields", "warmup"),
    [
        ({"warmup_steps": 10}, 10),
        ({"warmup_steps": 10.0}, 10),
        ({"warmup_steps": 10.9}, 10),
        ({"warmup_steps": 0.07}, 6),
        ({"warmup_ratio": 0.07}, 6),
        ({"warmup_ratio": "7e-2"}, 6),
        ({"warmup_ratio": 0.3, "warmup_steps": 10}, 10),
        ({}, 0),
    ],
)
def test_the_length_of_the_warm_up(fields, warmup):
    config = {"TrainingArguments": {"max_steps": 80, **fields}}
    phases = [ramp(warmup), cls("Linear", end=0.0)] if warmup else cls("Linear", end=0.0)
    notes = check(config, lambda t: linear(t, warmup, 80), 80, phases)
    assert "TrainingArguments.max_steps: the schedule is made for 80 steps: Trainer(max_steps=80)" in notes


def test_a_run_in_epochs():
    config = {"lr_scheduler_type": "cosine", "num_train_epochs": 2.5, "warmup_steps": 4}
    imported = from_transformers(config)
    assert imported.spec.to_dict()["schedules"] == {"lr": [ramp(4), cls("Cosine")]}
    assert imported.notes == ("num_train_epochs: the schedule is made for 2.5 epochs: Trainer(max_epochs=2.5)",)
    # 11 batches, 3 a step: 4 steps an epoch, and 10 in all.
    facts = {"iters_per_epoch": 11}
    config |= {"gradient_accumulation_steps": 3, "warmup_steps": 0.25}
    notes = check(config, lambda t: warm(t, 3, lambda s: half(s / 7)), 10, [ramp(3), cls("Cosine")], facts)
    assert any("gradient_accumulation_steps: where the model takes num_items_in_batch" in note for note in notes)
    phases = [ramp(3), cls("Cosine", until=10), UP_AGAIN | {"init_args": UP_AGAIN["init_args"] | {"every": 14}}]
    check(config, lambda t: warm(t, 3, lambda s: half(s / 7)), 15, phases, {**facts, "total_iters": 15})
    check(config, lambda t: warm(t, 5, lambda s: half(s / 15)), 20, [ramp(5), cls("Cosine")], {"total_iters": 20})
    assert any("3 epochs" in note for note in from_transformers({"lr_scheduler_type": "linear"}).notes)


@pytest.mark.parametrize(
    ("name", "own", "warmup", "schedules"),
    [
        ("cosine", {"num_cycles": 1}, 6, [ramp(6), cls("Cycle", of=WAVES, every="100%-6st")]),
        ("cosine", {"num_cycles": 2}, 0, cls("Cycle", of=WAVES, every="50%")),
        ("cosine_with_restarts", {"num_cycles": 3}, 6, [ramp(6), cls("Cycle", of=cls("Cosine"), every="100/3%-2st")]),
        (
            "cosine_warmup_with_min_lr",
            {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
            6,
            [cls("Linear", start=0.2, until=5), cls("Cosine", end=0.1, until="100%-1st"), HOLD],
        ),
        ("warmup_stable_decay", {"num_decay_steps": 9}, 6, [ramp(6), cls("Constant", until="100%-9st"), cls("Cosine")]),
        ("warmup_stable_decay", {"num_decay_steps": 0}, 6, [ramp(6), cls("Constant")]),
    ],
)
def test_a_run_of_unknown_length(name, own, warmup, schedules):
    config = {"lr_scheduler_type": name, "lr_scheduler_kwargs": own, "warmup_steps": warmup}
    imported = from_transformers(config)
    assert imported.spec.to_dict()["schedules"] == {"lr": schedules}
    known = from_transformers(config, facts={"total_iters": 47})
    values = [spec.curve("lr", RATES, total_steps=47) for spec in (imported.spec, known.spec)]
    np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)


def test_what_only_the_length_of_the_run_tells():
    for fields in ({"warmup_steps": 0.1}, {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 0.7}}):
        with pytest.raises(SolverError, match=r"facts=\{'total_iters'"):
            from_transformers(fields)


def test_a_plateau():
    own = {"factor": 0.5, "patience": 0, "min_lr": 1e-3, "cooldown": 1}
    config = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": own,
        "eval_strategy": "epoch",
        "max_steps": 5,
    }
    imported = from_transformers(config)
    plateau = cls("Plateau", monitor="eval_loss", factor=0.5, patience=0, cooldown=1, min={"absolute": 0.001})
    assert imported.spec.to_dict()["schedules"] == {"lr": plateau}
    losses = [1.0, 2.0, 2.0, 2.0, 2.0]
    values = imported.spec.curve("lr", [1.0], total_steps=5, steps_per_epoch=1, metrics=losses)[:, 0]
    assert values.tolist() == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert any("follows eval_loss" in note for note in imported.notes)


def test_the_mode_of_a_plateau_is_not_that_of_the_best_model():
    config = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "metric_for_best_model": "accuracy",
    }
    imported = from_transformers(config)
    assert imported.spec.to_dict()["schedules"] == {"lr": cls("Plateau", monitor="eval_accuracy")}
    assert any("not greater_is_better: the mode of the plateau is min" in note for note in imported.notes)
    imported = from_transformers({**config, "lr_scheduler_kwargs": {"mode": "max"}})
    assert imported.spec.to_dict()["schedules"] == {"lr": cls("Plateau", monitor="eval_accuracy", mode="max")}
    assert not any("greater_is_better" in note for note in imported.notes)


def test_a_plateau_with_a_lowest_rate_for_each_group():
    imported = from_transformers(function("reduce_lr_on_plateau", min_lr=[0.0, 0.01]))
    each = [cls("Plateau", monitor="eval_loss"), cls("Plateau", monitor="eval_loss", min={"absolute": 0.01})]
    assert imported.spec.to_dict()["schedules"] == {"lr": cls("PerGroup", of=each)}


# ------------------------------------------------------------------ forms, notes, mistakes


@pytest.mark.parametrize(
    "config",
    [
        "get_linear_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=50)",
        "scheduler = transformers.get_linear_schedule_with_warmup(optimizer, 10, 5 * 10)",
        "get_scheduler('linear', optimizer, 10, 50)",
        "get_scheduler(name=SchedulerType.LINEAR, optimizer=opt, num_warmup_steps=10, num_training_steps=50)",
        "TrainingArguments('out', warmup_steps=10, max_steps=50)",
        "args = Seq2SeqTrainingArguments(lr_scheduler_type='linear', warmup_steps=10, max_steps=50)",
        {"get_linear_schedule_with_warmup": {"num_warmup_steps": 10, "num_training_steps": 50}},
        {"TrainingArguments": {"warmup_steps": 10, "max_steps": 50, "num_train_epochs": 3}},
        {"warmup_steps": 10, "max_steps": 50, "lr_scheduler_kwargs": "{}"},
    ],
)
def test_the_forms_of_a_recipe(config):
    check(config, linear, 50, [ramp(10), cls("Linear", end=0.0)])


def test_files(tmp_path):
    phases = [ramp(10), cls("Linear", end=0.0)]
    fields = {"lr_scheduler_type": "linear", "warmup_steps": 10, "max_steps": 50}
    (tmp_path / "a.json").write_text(json.dumps(fields))
    (tmp_path / "b.yaml").write_text("lr_scheduler_type: linear\nwarmup_steps: 10\nmax_steps: 50\n")
    (tmp_path / "c.py").write_text(
        "import transformers\nsteps = 50\nmodel = make(3)\nargs = transformers.TrainingArguments('o', max_steps=steps, warmup_steps=10)\n"
    )
    for name in ("a.json", "b.yaml", "c.py"):
        check(tmp_path / name, linear, 50, phases)
    assert "steps: is not part of the schedules" in from_transformers(tmp_path / "c.py").notes


def test_what_is_not_mapped():
    config = {
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-4,
        "adam_beta1": 0.8,
        "logging_steps": 5,
        "warmup_step": 3,
        "max_steps": 5,
    }
    imported = from_transformers(config)
    assert imported.unmapped == ("logging_steps", "warmup_step")
    assert "logging_steps: is not part of the schedules" in imported.notes
    assert "warmup_step: is not mapped; did you mean warmup_steps?" in imported.notes
    with pytest.raises(SolverError, match="logging_steps: is not mapped; got 2 such keys"):
        from_transformers(config, strict=True)
    assert from_transformers({"lr_scheduler_type": "linear", "max_steps": 5}, strict=True).unmapped == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (3, "config: is not a transformers recipe"),
        ("StepLR(optimizer, 3)", "config: needs one call that makes a schedule; got StepLR"),
        ("TrainingArguments()\nTrainingArguments()", "needs one call that makes a schedule; got TrainingArguments, Tr"),
        ({"param_scheduler": []}, "is not for from_transformers: .* use interop.from_mmengine"),
        ({"max_duration": "3ep"}, "use interop.from_composer"),
        (
            {"lr_scheduler_type": "cosin"},
            "lr_scheduler_type: there is no such schedule; got 'cosin'; did you mean cosine",
        ),
        ({"lr_scheduler_type": "greedy"}, "raises the rate whenever a metric improves"),
        ({"lr_scheduler_kwargs": "{"}, "lr_scheduler_kwargs: is not JSON"),
        ({"lr_scheduler_kwargs": [1]}, "lr_scheduler_kwargs: must be a mapping"),
        ({"lr_scheduler_kwargs": {"last_epoch": 3}}, "lr_scheduler_kwargs.last_epoch: is not read; got 3"),
        ({"max_steps": 0}, "max_steps: must be a whole number of steps"),
        ({"num_train_epochs": 0}, "num_train_epochs: must be > 0"),
        ({"warmup_steps": -1}, "warmup_steps: must be at least 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio: must lie between 0 and 1"),
        ({"warmup_steps": "ten"}, "warmup_steps: must be a number; got 'ten'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "eval_strategy: reduce_lr_on_plateau needs evaluations"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": False},
            "eval_strategy: reduce_lr_on_plateau needs",
        ),
        (function("linear", 3), "get_scheduler.num_training_steps: is missing"),
        (function("linear", None, 3), "get_scheduler.num_warmup_steps: is missing"),
        (function("linear", 3, -1), "get_scheduler.num_training_steps: must be > 0"),
        ({"get_scheduler": {"num_warmup_steps": 3}}, "get_scheduler.name: is missing"),
        ({"get_scheduler": {"nam": "linear"}}, "get_scheduler.name: is missing"),
        ("get_constant_schedule(optimizer, 3, 4)", "has too many arguments"),
        (function("inverse_sqrt", 3, timescale=0), "kwargs.timescale: must be > 0"),
        (
            function("polynomial", 3, 9),
            "kwargs.lr_end: is relative to the optimiser's own rate, .*'optimizer_default_lr'",
        ),
        (function("cosine_with_min_lr", 3, 9), "kwargs.min_lr: needs one of min_lr and min_lr_rate; got neither"),
        (function("cosine_with_min_lr", 3, 9, min_lr=0, min_lr_rate=0), "min_lr: needs one of .*; got 0 and 0"),
        (function("cosine_warmup_with_min_lr", 3.5, 9, min_lr_rate=0), "num_warmup_steps: must be a whole number"),
        (function("warmup_stable_decay", 3, 9), "kwargs.num_decay_steps: is missing"),
        (function("warmup_stable_decay", 3, num_decay_steps=9), "num_stable_steps: needs one of"),
        (function("warmup_stable_decay", 3, 9, num_decay_steps=2, decay_type="cosin"), "decay_type: unknown value"),
        (function("reduce_lr_on_plateau", factor=1.0), "kwargs.factor: must lie between 0 and 1"),
        (function("reduce_lr_on_plateau", mode="mini"), "kwargs.mode: unknown value; got 'mini'; did you mean min"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(SolverError, match=message):
        from_transformers(config)


def test_an_end_above_the_optimiser_s_own_rate():
    with pytest.raises(
        SolverError, match=r"lr_end: must be below the optimiser's own rate; got 0.2, with a rate of 0.1"
    ):
        from_transformers(function("polynomial", 3, 9, lr_end=0.2), facts={"optimizer_default_lr": 0.1})


def test_every_schedule_has_a_function_of_its_own():
    assert len({policy.function for policy in POLICIES.values()}) == len(POLICIES) == 12
