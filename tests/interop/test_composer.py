"""Recipes of Composer give what Composer gives, worked out here by its formulas, and read as a human writes."""

import json
import math

import numpy as np
import pytest

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.composer import from_composer
from lightning_solver.interop.composer.schedulers import CLASSES

RATES = [0.1, 0.01, 0.05]


def cls(name, **arguments):
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


HOLD = cls("Constant", value="previous")


def ramp(until, **more):
    return cls("Linear", start=0.0, **more, until=until)


def late(*phases):
    return cls("Shift", of=list(phases) if len(phases) > 1 else phases[0], later=1)


def half(x, low=0.0):
    return low + (1 - low) * (1 + math.cos(math.pi * min(x, 1))) / 2


def warm(t, w, rest, top=1.0):
    return top * t / w if t < w else rest(t - w)


def check(config, factor, steps, schedules, facts=None, *, epoch=10, shift=1, first=None):
    """The native form, and ``factor`` of the time of the clock, which the rates are ``shift`` batches behind."""
    imported = from_composer(config, facts=facts)
    assert imported.spec.to_dict()["schedules"] == {"lr": schedules}
    run = RunLength(total_steps=steps, steps_per_epoch=epoch, samples_per_step=4)
    expected = [[factor(max(t - shift, 0)) * rate for rate in RATES] for t in range(steps)]
    if first is not None:
        expected[0] = [first * rate for rate in RATES]
    np.testing.assert_allclose(imported.spec.curve("lr", RATES, run=run), expected, rtol=1e-9, atol=1e-12)
    return imported.notes


def run(schedulers, longest="10ep", **more):
    return {"schedulers": schedulers, "max_duration": longest, **more}


# ------------------------------------------------------------------ every class


@pytest.mark.parametrize(
    ("schedulers", "schedules", "factor"),
    [
        ("ConstantScheduler()", cls("Constant"), lambda t: 1),
        ("ConstantScheduler(0.3)", cls("Constant", value=0.3), lambda t: 0.3),
        (
            "ConstantScheduler(0.3, '25ba')",
            late(cls("Constant", value=0.3, until=25), cls("Constant")),
            lambda t: 0.3 if t < 25 else 1,
        ),
        ("StepScheduler('3ep', 0.5)", late(cls("Step", every="3ep", gamma=0.5)), lambda t: 0.5 ** (t // 30)),
        ("StepScheduler(step_size='7ba')", late(cls("Step", every=7)), lambda t: 0.1 ** (t // 7)),
        (
            "MultiStepScheduler(['9ep', '6ep'], gamma=0.2)",
            late(cls("MultiStep", at=["6ep", "9ep"], gamma=0.2)),
            lambda t: 0.2 ** ((t >= 60) + (t >= 90)),
        ),
        (
            "MultiStepScheduler(['20ba', '0.5dur', '2ep', '80sp', '400ep'])",
            late(
                cls(
                    "Product",
                    factors=[
                        cls("MultiStep", at=[20, "50%", "400ep"]),
                        cls("MultiStep", at=["2ep"]),
                        cls("MultiStep", at=[20]),
                    ],
                )
            ),
            lambda t: 0.1 ** (3 * (t >= 20) + (t >= 50)),
        ),
        ("MultiStepScheduler([])", cls("Constant"), lambda t: 1),
        (
            "LinearScheduler(alpha_i=0.5, alpha_f=0.1)",
            late(cls("Linear", start=0.5, end=0.1)),
            lambda t: 0.5 - 0.4 * t / 100,
        ),
        (
            "LinearScheduler(t_max='0.8dur')",
            late(cls("Linear", end=0.0, until="80%"), HOLD),
            lambda t: 1 - min(t / 80, 1),
        ),
        ("LinearScheduler(t_max='150ba')", late(cls("Linear", end=0.0, until=150), HOLD), lambda t: 1 - t / 150),
        (
            "LinearScheduler(t_max='150sp')",
            late(cls("Linear", end=0.0, until="37.5st"), HOLD),
            lambda t: 1 - min(t / 37.5, 1),
        ),
        ("ExponentialScheduler(0.9)", late(cls("Exponential", gamma=0.9, every="1ep")), lambda t: 0.9 ** (t / 10)),
        (
            "ExponentialScheduler(gamma=0.5, decay_period='8ba')",
            late(cls("Exponential", gamma=0.5, every=8)),
            lambda t: 0.5 ** (t / 8),
        ),
        ("CosineAnnealingScheduler()", late(cls("Cosine")), lambda t: half(t / 100)),
        ("CosineAnnealingScheduler(t_max='10ep')", late(cls("Cosine")), lambda t: half(t / 100)),
        (
            "CosineAnnealingScheduler('70ba', 0.2)",
            late(cls("Cosine", end=0.2, until=70), HOLD),
            lambda t: half(t / 70, 0.2),
        ),
        (
            "CosineAnnealingWarmRestartsScheduler('2ep', alpha_f=0.1)",
            late(cls("Cycle", of=cls("Cosine", end=0.1), every="2ep")),
            lambda t: half(t % 20 / 20, 0.1),
        ),
        ("PolynomialScheduler(2)", late(cls("Polynomial", power=2.0)), lambda t: (1 - t / 100) ** 2),
        (
            "PolynomialScheduler(power=1, alpha_f=0.2)",
            late(cls("Linear", end=0.2)),
            lambda t: 0.2 + 0.8 * (1 - t / 100),
        ),
        ("PolynomialScheduler(0, '30ba')", cls("Constant"), lambda t: 1),
        (
            "MultiStepWithWarmupScheduler('2ep', milestones=['1ep', '5ep'], gamma=0.3)",
            late(ramp("2ep"), cls("MultiStep", at=["1ep", "5ep"], gamma=0.3)),
            lambda t: t / 20 if t < 20 else 0.3 ** (1 + (t >= 50)),
        ),
        ("ConstantWithWarmupScheduler('15ba')", late(ramp(15), cls("Constant")), lambda t: min(t / 15, 1)),
        (
            "ConstantWithWarmupScheduler('15ba', alpha=0.5, t_max='120ba')",
            late(ramp(15, end=0.5), cls("Constant", value=0.5)),
            lambda t: min(t / 15, 1) / 2,
        ),
        (
            "LinearWithWarmupScheduler(t_warmup='0.1dur', alpha_i=0.8, alpha_f=0.2)",
            late(ramp("10%", end=0.8), cls("Linear", start=0.8, end=0.2)),
            lambda t: warm(t, 10, lambda s: 0.8 - 0.6 * s / 90, 0.8),
        ),
        (
            "CosineAnnealingWithWarmupScheduler('10ba', '1dur', 0.1)",
            late(ramp(10), cls("Cosine", end=0.1)),
            lambda t: warm(t, 10, lambda s: half(s / 90, 0.1)),
        ),
        (
            "CosineAnnealingWithWarmupScheduler(t_warmup='13ba', t_max='12ep')",
            late(ramp(13), cls("Cosine", until="12ep"), HOLD),
            lambda t: warm(t, 13, lambda s: half(s / 107)),
        ),
        (
            "PolynomialWithWarmupScheduler(t_warmup='1ep')",
            late(ramp("1ep"), cls("Polynomial", power=2.0)),
            lambda t: warm(t, 10, lambda s: (1 - s / 90) ** 2),
        ),
        ("CosineAnnealingWithWarmupScheduler('0ba')", late(cls("Cosine")), lambda t: half(t / 100)),
        ("CosineAnnealingWithWarmupScheduler('1dur')", late(cls("Linear", start=0.0)), lambda t: t / 100),
        ("LinearWithWarmupScheduler('120ba')", late(ramp(120), cls("Constant")), lambda t: t / 120),
    ],
)
def test_a_class(schedulers, schedules, factor):
    facts = {"iters_per_epoch": 10, "samples_per_iter": 4}
    notes = check(run(schedulers), factor, 100, schedules, facts)
    assert any("one batch late" in note for note in notes) == (schedules["class_path"] == "Shift")


@pytest.mark.parametrize(
    ("multiple", "lengths", "native"),
    [
        (2.0, [15, 30, 60], [cls("Cycle", of=cls("Cosine"), every="3ep", grow=2)]),
        (
            1.5,
            [15, 22, 33, 49],
            [cls("Cosine", until=15), cls("Cosine", until=37), cls("Cosine", until=70), cls("Cosine", until=119), HOLD],
        ),
        (2.4, [15, 36, 86], [cls("Cosine", until=15), cls("Cosine", until=51), cls("Cosine", until=137), HOLD]),
        (1.2, [15, 18, 21, 25, 30], [*(cls("Cosine", until=end) for end in (15, 33, 54, 79, 109)), HOLD]),
    ],
)
def test_restarts(multiple, lengths, native):
    """Every cycle is rounded down by itself."""

    def factor(t):
        for length in lengths:
            if t < length:
                return half(t / length)
            t -= length
        raise AssertionError

    config = run(f"CosineAnnealingWarmRestartsScheduler(t_0='3ep', t_mult={multiple})", "21ep")
    check(config, factor, 105, late(*native), {"iters_per_epoch": 5}, epoch=5)


def test_restarts_that_grow_by_a_fraction_that_comes_out_even():
    config = run("CosineAnnealingWarmRestartsScheduler(t_0='16ba', t_mult=1.5)", "100ba")
    starts = [(0, 16), (16, 24), (40, 36), (76, 54)]
    factor = lambda t: next(half((t - begin) / size) for begin, size in reversed(starts) if t >= begin)  # noqa: E731
    check(config, factor, 100, late(cls("Cycle", of=cls("Cosine"), every=16, grow=1.5)))


def test_restarts_that_shrink():
    config = run("CosineAnnealingWarmRestartsScheduler(t_0='8ba', t_mult=0.5)", "14ba")
    arcs = [cls("Cosine", until=end) for end in (8, 12, 14)]
    starts = [(0, 8), (8, 4), (12, 2)]
    factor = lambda t: next(half((t - begin) / size) for begin, size in reversed(starts) if t >= begin)  # noqa: E731
    check(config, factor, 14, late(*arcs[:2], cls("Cosine")))
    with pytest.raises(
        SolverError, match=r"t_mult: lets the cycles shrink to nothing at batch 15, where Composer fails"
    ):
        from_composer({**config, "max_duration": "16ba"})


def inverse_sqrt(t, w, scale, end, cooldown, floor, last):
    decay = lambda s: floor + (1 - floor) / math.sqrt(1 + (s - w) / scale)  # noqa: E731
    begin = max(end - cooldown, w)
    if t < w:
        return t / w
    return decay(t) if t < begin else decay(begin) + min((t - begin) / cooldown, 1) * (last - decay(begin))


def test_llm_foundry_s_inverse_square_root():
    scheduler = {"name": "inv_sqrt_with_warmup", "t_warmup": "10ba", "t_scale": "10ba", "t_cooldown": "20ba"}
    factor = lambda t: inverse_sqrt(t, 10, 10, 100, 20, 0, 0)  # noqa: E731
    decay = cls("Inverse", every=10, power=0.5, until=80)
    fall = cls("Linear", start="previous", end=0.0)
    check({"scheduler": scheduler, "max_duration": "100ba"}, factor, 100, late(ramp(10), decay, fall))
    factor = lambda t: inverse_sqrt(t, 10, 10, 100, 20, 0.2, 0.1)  # noqa: E731
    decay = cls(
        "Sum", terms=[cls("Constant", value=0.2), cls("Inverse", every="1ep", power=0.5, start=0.8)], until="8ep"
    )
    fall = cls("Linear", start="previous", end=0.1)
    scheduler = {
        "t_warmup": "1ep",
        "t_scale": "1ep",
        "t_cooldown": "2ep",
        "alpha_f_decay": 0.2,
        "alpha_f_cooldown": 0.1,
    }
    config = {"scheduler": {"name": "InverseSquareRootWithWarmupScheduler", **scheduler}, "max_duration": "10ep"}
    check(config, factor, 100, late(ramp("1ep"), decay, fall))
    config = {
        "scheduler": {"name": "inv_sqrt_with_warmup", **scheduler, "t_cooldown": "9.5e0ep"},
        "max_duration": "10ep",
    }
    with pytest.raises(SolverError, match="t_cooldown: must be a whole number of ep"):
        from_composer(config)
    config["scheduler"]["t_cooldown"] = "10ep"  # all that is left after the warm-up, and more
    factor = lambda t: inverse_sqrt(t, 10, 10, 100, 100, 0.2, 0.1)  # noqa: E731
    check(config, factor, 100, late(ramp("1ep"), cls("Linear", end=0.1, until="11ep"), HOLD))


# ------------------------------------------------------------------ the clock


def test_a_step_every_epoch_looks_at_the_end_of_the_epoch():
    config = run("CosineAnnealingScheduler()", step_schedulers_every_batch=False)
    notes = check(config, lambda t: half(t // 10 * 10 / 100), 100, cls("Staircase", of=cls("Cosine")), shift=0)
    assert "step_schedulers_every_batch: the rate changes from epoch to epoch" in notes


def test_the_last_of_several_decides():
    text = "[ExponentialScheduler(gamma=0.9), LinearScheduler(alpha_i=0.1, alpha_f=1.0, t_max='20ba')]"
    schedules = late(cls("Linear", start=0.1, until=20), HOLD)
    notes = check(run(text), lambda t: 0.1 + 0.9 * min(t / 20, 1), 100, schedules)
    assert any("the last of several schedulers decides, LinearScheduler" in note for note in notes)
    with pytest.raises(SolverError, match=r"schedulers\[0\].gamma: must be > 0"):  # but all are read
        from_composer(run(text.replace("0.9", "-0.9")))


@pytest.mark.parametrize(
    ("arguments", "ratio", "schedules", "factor"),
    [
        ("'16ba'", 0.5, late(ramp(16), cls("Cosine")), lambda t: warm(t, 16, lambda s: half(s / 64))),
        (
            "'16ba', scale_warmup=True",
            0.5,
            late(ramp(8), cls("Constant", until=16), cls("Cosine")),
            lambda t: min(t / 8, 1) if t < 16 else half((t - 16) / 64),
        ),
        (
            "'2ep', scale_warmup=True",
            1.5,
            late(cls("Over", of=cls("Linear", start=0.0), end="3ep", until="2ep"), cls("Cosine")),
            lambda t: t / 30 if t < 20 else half((t - 20) / 220),
        ),
        (
            "'0.1dur', scale_warmup=True",
            0.5,
            late(ramp("10%"), cls("Cosine")),
            lambda t: warm(t, 8, lambda s: half(s / 72)),
        ),
    ],
)
def test_a_scaled_schedule(arguments, ratio, schedules, factor):
    """The warm-up is not scaled, or its slope alone; ``dur`` goes with the scaled run."""
    config = run(f"CosineAnnealingWithWarmupScheduler({arguments})", "16ep", scale_schedule_ratio=ratio)
    check(config, factor, int(160 * ratio), schedules, {"iters_per_epoch": 10})


def test_scaled_lengths_are_cut_off():
    config = run("MultiStepScheduler(['3ep', '5ba', '90sp'])", "9ep", scale_schedule_ratio=0.5)
    facts = {"iters_per_epoch": 7, "samples_per_iter": 4}
    at = [2, 10, "11.25st"]  # 2.5, 10.5 and 45 samples of 4
    check(
        config,
        lambda t: 0.1 ** sum(t >= point for point in (2, 10, 11.25)),
        28,
        late(cls("MultiStep", at=at)),
        facts,
        epoch=7,
    )
    with pytest.raises(SolverError, match=r"milestones\[0\]: is 1.5 epochs, rounded down .*facts=\{'iters_per_epoch'"):
        from_composer(config)


def test_a_share_is_cut_off_in_floating_point():
    """``0.29 * 100`` is a little less than 29."""
    config = run("LinearScheduler(t_max='0.29dur')", "100ba")
    check(config, lambda t: 1 - min(t / 28, 1), 100, late(cls("Linear", end=0.0, until=28), HOLD))
    config = run("LinearScheduler(t_max='0.7dur')", "10ep")
    check(
        config,
        lambda t: 1 - min(t / 48, 1),
        70,
        late(cls("Linear", end=0.0, until=48), HOLD),
        {"iters_per_epoch": 7},
        epoch=7,
    )
    imported = from_composer(config)
    assert imported.spec.to_dict()["schedules"]["lr"] == late(cls("Linear", end=0.0, until="70%"), HOLD)
    assert any("may round it down by one batch more" in note for note in imported.notes)


def test_the_first_rate_comes_from_before_the_run_is_scaled():
    config = run("LinearWithWarmupScheduler('0.1dur')", "10ba", scale_schedule_ratio=0.5)
    phases = [cls("Constant", value=0.0, until=1), cls("Over", of=late(cls("Linear", end=0.0)), begin=0)]
    notes = check(config, lambda t: 1 - t / 5, 5, phases, first=0)
    assert any("before it is scaled" in note for note in notes)
    config |= {"step_schedulers_every_batch": False, "max_duration": "4ep"}
    config["schedulers"] = "LinearWithWarmupScheduler('0.4dur')"
    phases = [
        cls("Constant", value=0.0, until="1ep"),
        cls("Over", of=cls("Staircase", of=cls("Linear", end=0.0)), begin=0),
    ]
    check(config, lambda t: 1 - t / 2, 2, phases, {"iters_per_epoch": 1}, epoch=1, shift=0, first=0)


def test_a_run_in_samples():
    """The run ends with its last batch, the schedule a little before."""
    config = run("LinearScheduler()", "30sp")
    check(
        config,
        lambda t: 1 - min(t / 7.5, 1),
        8,
        late(cls("Linear", end=0.0, until="7.5st"), HOLD),
        {"samples_per_iter": 4},
    )
    check(config, lambda t: 1 - min(t / 7.5, 1), 8, late(cls("Linear", end=0.0, until="30sp"), HOLD))
    config = run("LinearWithWarmupScheduler('0.25dur')", "32sp")
    check(
        config,
        lambda t: warm(t, 2, lambda s: 1 - s / 6),
        8,
        late(ramp("25%"), cls("Linear", end=0.0)),
        {"samples_per_iter": 4},
    )


def test_a_run_of_another_length():
    config, facts = run("LinearWithWarmupScheduler('0.1dur')"), {"iters_per_epoch": 10, "total_iters": 130}
    schedules = late(ramp("1ep"), cls("Linear", end=0.0, until="10ep"), HOLD)
    notes = check(config, lambda t: warm(t, 10, lambda s: 1 - min(s / 90, 1)), 130, schedules, facts)
    assert any("max_duration: is 10ep, but the run has 130 batches" in note for note in notes)


def test_a_run_of_unknown_length():
    config = {"schedulers": "LinearWithWarmupScheduler('0.1dur')"}
    notes = check(config, lambda t: warm(t, 10, lambda s: 1 - s / 90), 100, late(ramp("10%"), cls("Linear", end=0.0)))
    assert any(note.startswith("max_duration: is not given") for note in notes)


@pytest.mark.parametrize(
    ("time", "native"),
    [
        ("3e1ba", 30),
        ("30BA", 30),
        ("3ep", "3ep"),
        ("0.3dur", "30%"),
        ("Time(3, 'ep')", "3ep"),
        ("Time(3, TimeUnit.EPOCH)", "3ep"),
        ("Time.from_epoch(3)", "3ep"),
        ("Time.from_timestring('3ep')", "3ep"),
    ],
)
def test_times(time, native):
    text = time if "(" in time else repr(time)
    config = run(f"LinearScheduler(t_max={text})", "100ba")
    check(config, lambda t: 1 - min(t / 30, 1), 100, late(cls("Linear", end=0.0, until=native), HOLD))


@pytest.mark.parametrize(
    ("longest", "ratio", "note"),
    [
        ("10ep", 1.0, "Trainer(max_epochs=10)"),
        (10, 1.0, "Trainer(max_epochs=10)"),
        ("9ep", 0.5, "Trainer(max_epochs=4)"),
        ("50ba", 0.5, "Trainer(max_steps=25)"),
        ("50sp", 1.0, "as many steps"),
    ],
)
def test_how_long_the_run_has_to_be(longest, ratio, note):
    imported = from_composer(run("ConstantScheduler()", longest, scale_schedule_ratio=ratio))
    assert any(text.startswith("max_duration: ") and note in text for text in imported.notes)


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize(
    "config",
    [
        run("composer.optim.LinearWithWarmupScheduler('10ba', alpha_f=0.1)"),
        run(["LinearWithWarmupScheduler('10ba', alpha_f=0.1)"]),
        run({"type": "LinearWithWarmupScheduler", "t_warmup": "10ba", "alpha_f": 0.1}),
        run({"LinearWithWarmupScheduler": {"t_warmup": "10ba", "alpha_f": 0.1}}),
        run({"linear_decay_with_warmup": {"t_warmup": "10ba", "alpha_f": 0.1}}),
        {"max_duration": "10ep", "scheduler": {"name": "linear_decay_with_warmup", "t_warmup": "10ba", "alpha_f": 0.1}},
        "Trainer(model, max_duration='10ep', schedulers=LinearWithWarmupScheduler('10ba', alpha_f=0.1))",
        "LinearWithWarmupScheduler('10ba', alpha_f=0.1)",
    ],
)
def test_the_forms_of_a_recipe(config):
    schedules = late(ramp(10), cls("Linear", end=0.1))
    check(config, lambda t: warm(t, 10, lambda s: 1 - 0.9 * s / 90), 100, schedules)


def test_files(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "max_duration: 100ba\nscheduler:\n  name: cosine_with_warmup\n  t_warmup: 10ba\n  alpha_f: 0.1\n"
    )
    text = "CosineAnnealingWithWarmupScheduler(t_warmup='10ba', alpha_f=0.1)"
    (tmp_path / "b.json").write_text(json.dumps(run(text, "100ba")))
    (tmp_path / "c.py").write_text(
        f"warmup = 3\nschedule = {text}\ntrainer = Trainer(max_duration='100ba', schedulers=schedule)\n"
    )
    for name in ("a.yaml", "b.json", "c.py"):
        schedules = late(ramp(10), cls("Cosine", end=0.1))
        check(tmp_path / name, lambda t: warm(t, 10, lambda s: half(s / 90, 0.1)), 100, schedules)


def test_no_scheduler():
    imported = from_composer({"schedulers": [], "max_duration": "3ep"})
    assert imported.spec.to_dict().get("schedules", {}) == {}
    assert imported.notes == ("schedulers: there is no scheduler: the learning rate stays as it is",)


def test_schedulers_of_torch():
    config = run("[ExponentialLR(optimizer, 0.9), MultiStepLR(optimizer, milestones=[5, 9])]", "12ep")
    imported = from_composer(config)
    values = imported.spec.curve("lr", RATES, total_steps=48, steps_per_epoch=4)
    expected = [[rate * 0.9**e * 0.1 ** ((e >= 5) + (e >= 9)) for rate in RATES] for e in range(12) for _ in range(4)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert "schedulers: schedulers of torch are stepped once per epoch" in imported.notes
    config |= {"step_schedulers_every_batch": True, "scale_schedule_ratio": 0.5}
    values = from_composer(config).spec.curve("lr", RATES, total_steps=24, steps_per_epoch=4)
    expected = [[rate * 0.9 ** (2 * t) * 0.1 ** ((t >= 2) + (t >= 4)) for rate in RATES] for t in range(24)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


# ------------------------------------------------------------------ notes and mistakes


def test_what_is_not_mapped():
    config = run("ConstantScheduler()", optimizers="opt", device_train_microbatch_size=4, seed=3, evl_interval=1)
    imported = from_composer(config)
    assert imported.unmapped == ("optimizers", "seed", "evl_interval")
    assert "evl_interval: is not mapped; did you mean eval_interval?" in imported.notes
    assert any("device_train_microbatch_size: divides a batch to save memory" in note for note in imported.notes)
    with pytest.raises(SolverError, match="optimizers: is not mapped; got 3 such keys"):
        from_composer(config, strict=True)
    assert from_composer(run("ConstantScheduler()"), strict=True).unmapped == ()


WARM = "CosineAnnealingWithWarmupScheduler"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (3, "config: is not a Composer recipe"),
        ({"lr_scheduler_type": "linear"}, "is not for from_composer: .* use interop.from_transformers"),
        (
            run("CosineAnealingScheduler()"),
            "schedulers: there is no such scheduler; .* did you mean CosineAnnealingScheduler",
        ),
        (run("StepScheduler()"), "schedulers.step_size: is missing"),
        (run("ExponentialScheduler()"), "schedulers.gamma: is missing"),
        (run("PolynomialScheduler()"), "schedulers.power: is missing"),
        (run("StepScheduler('1ep', gamma=0)"), "schedulers.gamma: must be > 0"),
        (run("MultiStepScheduler('1ep')"), "schedulers.milestones: must be a list"),
        (run("LinearScheduler(alpha_f=-1)"), "schedulers.alpha_f: must be at least 0"),
        (run("lambda state: 1.0"), "schedulers: a scheduler that is a function is not read"),
        (run([abs]), "schedulers: a scheduler that is a function is not read"),
        (run("my_scheduler"), "there is no such scheduler; got 'my_scheduler'"),
        (run("[StepLR(optimizer, 3), ConstantScheduler()]"), "mixes schedulers of torch and of Composer"),
        (run("OneCycleLR(optimizer, 3)", scale_schedule_ratio=0.5), "scale_schedule_ratio: cannot scale OneCycleLR"),
        (run("LinearScheduler(t_max='10')"), "schedulers.t_max: is not a time of Composer; got '10'"),
        (run("LinearScheduler(t_max=10)"), "schedulers.t_max: is not a time of Composer; got 10"),
        (run("LinearScheduler(t_max='xba')"), "schedulers.t_max: is not a time of Composer"),
        (run("LinearScheduler(t_max='1.5ba')"), "schedulers.t_max: must be a whole number of ba"),
        (run("LinearScheduler(t_max='-1ba')"), "schedulers.t_max: must not be negative"),
        (run("LinearScheduler(t_max='100tok')"), "schedulers.t_max: is in tokens"),
        (run("LinearScheduler(t_max='100sec')"), "schedulers.t_max: is in seconds"),
        (run("LinearScheduler(t_max='0ba')"), "schedulers.t_max: comes to nothing, by which Composer divides"),
        ({"schedulers": "LinearScheduler(t_max='1.5dur')"}, "schedulers.t_max: is more than the whole run"),
        (run("ConstantScheduler()", "0ep"), "max_duration: is no length of a run"),
        (run("ConstantScheduler()", "0.5dur"), "max_duration: is no length of a run"),
        (run("ConstantScheduler()", "2000tok"), "max_duration: is in tokens"),
        (run("ConstantScheduler()", "1ep", scale_schedule_ratio=0.5), "max_duration: is nothing once scaled by 0.5"),
        (run("ConstantScheduler()", scale_schedule_ratio=0), "scale_schedule_ratio: must be > 0"),
        (run([], scale_schedule_ratio=2), "scale_schedule_ratio: has no effect without schedulers"),
        (
            run("ConstantScheduler()", step_schedulers_every_batch="no"),
            "step_schedulers_every_batch: must be true or false",
        ),
        (run(f"{WARM}('10sp')"), "schedulers.t_max: must be in the unit of t_warmup"),
        (run(f"{WARM}('1ep', '9ep')"), r"schedulers.t_max: must be at least max_duration \(10ep\)"),
        (run(f"{WARM}('1ep', '0.9dur')"), "schedulers.t_max: must be at least max_duration"),
        (run(f"{WARM}('1ba', '90ba')", "100ba"), "schedulers.t_max: must be at least max_duration"),
        (run(f"{WARM}('2ep', '10ep')", scale_schedule_ratio=0.5), "schedulers.t_max: must be at least max_duration"),
        (run(f"{WARM}('1ba', scale_warmup=True)", scale_schedule_ratio=0.5), "schedulers.t_warmup: comes to nothing"),
        (run("MultiStepScheduler(['2ep', '15ba'])"), r"milestones: are to be sorted, .*facts=\{'iters_per_epoch'"),
        (run("MultiStepScheduler(['2ba', '15sp'])"), r"milestones: are to be sorted, .*facts=\{'samples_per_iter'"),
        (run("CosineAnnealingWarmRestartsScheduler('1ep', 1.5)"), r"t_mult: rounds .*facts=\{'iters_per_epoch'"),
        (run("CosineAnnealingWarmRestartsScheduler('9ba', 1.5)"), r"t_mult: rounds .*facts=\{'total_iters'"),
        (run("CosineAnnealingWarmRestartsScheduler('9sp', 1.5)"), r"t_mult: rounds .*facts=\{'samples_per_iter'"),
        (
            run({"name": "inv_sqrt_with_warmup", "t_warmup": "1ba", "t_scale": "1ba", "t_cooldown": "1ba"}),
            "schedulers.t_warmup: must be in the unit of max_duration; got ba",
        ),
        (
            run("InverseSquareRootWithWarmupScheduler('1ep', '1ep', '1ep', alpha_f_cooldown=0.5)"),
            "schedulers.alpha_f_decay: lies below alpha_f_cooldown",
        ),
        (
            run("InverseSquareRootWithWarmupScheduler('1ep', '1ep', '1ep', '9sp')"),
            "schedulers.t_max: must be in the unit of max",
        ),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(SolverError, match=message):
        from_composer(config)


def test_what_composer_compares_by_the_length_of_an_epoch():
    facts = {"iters_per_epoch": 10}
    with pytest.raises(SolverError, match="t_max: must be at least max_duration"):
        from_composer(run(f"{WARM}('1ba', '99ba')"), facts=facts)
    schedules = late(ramp(30), cls("Cosine"))
    check(run(f"{WARM}('30ba', '100ba')"), lambda t: warm(t, 30, lambda s: half(s / 70)), 100, schedules, facts)


def test_every_class_is_named_once():
    assert len(CLASSES) == 14
