"""Configs of timm read as specs: what the YAML says, the numbers by timm's formulas written anew, and what is refused."""

import json
import math

import numpy as np
import pytest
import yaml

from lightning_solver import SolverError
from lightning_solver.interop.timm import from_timm

UPDATES = 4  # of an epoch


def said(imported):
    """The schedules in one line: ``Staircase(of=Cosine())``."""
    return written(imported.spec.to_dict()["schedules"]["lr"])


def written(data):
    if isinstance(data, dict) and "class_path" in data:
        arguments = ", ".join(f"{key}={written(value)}" for key, value in data.get("init_args", {}).items())
        return f"{data['class_path']}({arguments})"
    if isinstance(data, list):
        return f"[{', '.join(map(written, data))}]"
    return repr(data)


def rates(imported, epochs, bases=(0.1,), scales=(1.0,), metrics=None):
    groups = [{"lr": base, "lr_scale": scale} for base, scale in zip(bases, scales)]
    spec, total = imported.spec, epochs * UPDATES
    return spec.curve("lr", groups, total_steps=total, steps_per_epoch=UPDATES, metrics=metrics)


def factory(**keywords):
    return {"create_scheduler_v2": keywords}


def scheduler(name, **arguments):
    return {"type": name, **arguments}


def cosine(x, top, low):
    return low + (top - low) * (1 + math.cos(math.pi * x)) / 2


RAMP = "Linear(start={'scaled': 1e-05}, until='5ep')"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (factory(), "Staircase(of=Cosine())"),
        (factory(step_on_epochs=False), "Cosine()"),
        (factory(k_decay=0.5), "Staircase(of=Cosine(time_power=0.5))"),
        (factory(warmup_epochs=5), f"Staircase(of=Warmup(ramp={RAMP}, of=Cosine(), meets='beneath'))"),
        (factory(warmup_epochs=5, warmup_prefix=True), f"Staircase(of=[{RAMP}, Cosine()])"),
        (factory(warmup_epochs=5, warmup_prefix=True, step_on_epochs=False), f"[{RAMP}, Cosine()]"),
        (
            factory(num_epochs=100, cooldown_epochs=10, min_lr=1e-5),
            "Staircase(of=[Cosine(end={'scaled': 1e-05}, until='100ep'), Constant(value='previous')])",
        ),
        (factory(sched="poly", decay_rate=1), "Staircase(of=Linear(end=0.0))"),
        (factory(sched="poly"), "Staircase(of=Polynomial(power=0.1))"),
        (factory(sched="poly", decay_rate=0.9, k_decay=2), "Staircase(of=Polynomial(power=0.9, time_power=2.0))"),
        (factory(sched="poly", decay_rate=0, num_epochs=9), "Staircase(of=Constant())"),
        (
            factory(sched="tanh", warmup_epochs=5),
            f"Staircase(of=Warmup(ramp={RAMP}, of=Tanh(), meets='interpolate'))",
        ),
        (factory(sched="tanh"), "Staircase(of=Warmup(ramp=Constant(until='1ep'), of=Tanh(), meets='beneath'))"),
        (
            factory(sched="tanh", num_epochs=20, cooldown_epochs=2, warmup_epochs=5, warmup_prefix=True, min_lr=0.01),
            f"Staircase(of=[{RAMP}, Tanh(end={{'scaled': 0.01}}, until='25ep'), Constant(value={{'scaled': 0.01}})])",
        ),
        (
            factory(num_epochs=10, cycle_limit=3, cycle_mul=2, cycle_decay=0.5),
            "Staircase(of=Cycle(of=Cosine(), every='10ep', grow=2, decay=0.5, times=3))",
        ),
        (
            factory(sched="tanh", num_epochs=10, cycle_limit=2, cooldown_epochs=1, warmup_epochs=5),
            f"Staircase(of=Warmup(ramp={RAMP}, of=[Cycle(of=Tanh(), every='10ep', decay=0.1, times=2, until='20ep'),"
            " Constant(value=0.0)], meets='interpolate'))",
        ),
        (factory(sched="step"), "Step(every='90ep')"),
        (factory(sched="step", decay_epochs=2.4, decay_rate=0.97), "Staircase(of=Step(every='2.4ep', gamma=0.97))"),
        (factory(sched="step", decay_rate=0), "[Constant(until='90ep'), Constant(value=0.0)]"),
        (
            factory(sched="step", warmup_epochs=5),
            f"Staircase(of=Warmup(ramp={RAMP}, of=Step(every='90ep'), meets='beneath'))",
        ),
        (factory(sched="step", warmup_epochs=5, warmup_prefix=True), f"Staircase(of=[{RAMP}, Step(every='90ep')])"),
        (factory(sched="multistep"), "MultiStep(at=['89ep', '179ep', '269ep'])"),
        (
            factory(sched="multistep", decay_milestones=[6, 13], step_on_epochs=False),
            "MultiStep(at=['6ep-1st', '13ep-1st'])",
        ),
        (
            factory(sched="multistep", decay_milestones=[8], warmup_epochs=5, warmup_prefix=True),
            f"Staircase(of=[{RAMP}, MultiStep(at=['12ep'])])",
        ),
        (factory(sched="multistep", decay_milestones=[]), "Constant()"),
        (factory(sched="constant"), "Constant()"),
        (factory(sched="constant", warmup_epochs=5), f"Staircase(of=[{RAMP}, Constant()])"),
        (
            factory(sched="wsd", num_epochs=105, warmup_epochs=5),
            f"Staircase(of=[{RAMP}, Constant(until='85ep'), Polynomial(time_power=0.5)])",
        ),
        (
            factory(
                sched="wsd", num_epochs=100, warmup_epochs=5, warmup_prefix=True, decay_fn="cosine", decay_epochs=10
            ),
            f"Staircase(of=[{RAMP}, Constant(until='95ep'), Cosine()])",
        ),
        (
            factory(sched="rsqrt", num_epochs=55, warmup_epochs=5, step_on_epochs=False),
            f"[{RAMP}, Product(factors=[[Constant(until='45ep'), Linear(end=0.0)], Inverse(every='5ep', power=0.5)])]",
        ),
        (
            factory(sched="plateau", warmup_epochs=5, min_lr=1e-6, patience_epochs=3),
            "[Staircase(of=Linear(start={'scaled': 1e-05}), until='5ep'),"
            " Plateau(monitor='top1', mode='max', patience=3, min={'absolute': 1e-06})]",
        ),
        (
            factory(num_epochs=100, noise=[0.4, 0.9], noise_pct=0.5, noise_std=0.2, noise_seed=1),
            "Staircase(of=Product(factors=[Cosine(), [Constant(until='40ep'),"
            " Noise(limit=0.5, std=0.2, seed=1, every='1ep', until='90ep'), Constant()]]))",
        ),
        (
            factory(sched="step", noise=0.5, step_on_epochs=False),
            "Product(factors=[Step(every='90ep'), [Constant(until='150ep'), Noise()]])",
        ),
        (
            scheduler("CosineLRScheduler", t_initial=20),
            "Staircase(of=[Cosine(until='20ep'), Constant(value='previous')])",
        ),
        (
            scheduler("CosineLRScheduler", t_initial=200, t_in_epochs=False, warmup_t=50, warmup_prefix=True),
            "[Linear(start=0.0, until=50), Cosine(until=250), Constant(value='previous')]",
        ),
        (
            scheduler("PolyLRScheduler", t_initial=20, t_in_epochs=False),
            "[Polynomial(power=0.5, until=20), Constant(value='previous')]",
        ),
        (
            scheduler("TanhLRScheduler", t_initial=9, lb=-4, ub=4, warmup_t=1, t_in_epochs=False),
            "Warmup(ramp=Linear(start=0.0, until=1), of=[Tanh(lower=-4.0, upper=4.0, until=9), Constant(value=0.0)],"
            " meets='interpolate')",
        ),
        (scheduler("StepLRScheduler", decay_t=30), "Constant()"),
        (
            scheduler("StepLRScheduler", decay_t=3, decay_rate=0.5, warmup_t=2),
            "Staircase(of=[Linear(start=0.0, until='2ep'), Step(every='3ep', gamma=0.5)])",
        ),
        (
            scheduler("MultiStepLRScheduler", decay_t=[50, 80], decay_rate=0.1, t_in_epochs=False),
            "MultiStep(at=[49, 79])",
        ),
        (
            scheduler("PlateauLRScheduler", cooldown_t=2, threshold=0.1),
            "Plateau(monitor='top1', mode='max', threshold=0.1, cooldown=2)",
        ),
        (
            scheduler("WSDLRScheduler", t_initial=20, decay_t=20, decay_fn="power", decay_power=2, t_in_epochs=False),
            "[Polynomial(time_power=2.0, until=20), Constant(value='previous')]",
        ),
        (
            scheduler(
                "WSDLRScheduler",
                t_initial=20,
                decay_t=5,
                stable_fn="power",
                stable_timescale=3,
                stable_power=1,
                t_in_epochs=False,
            ),
            "Product(factors=[[Constant(until=15), Polynomial(time_power=0.5, until=20), Constant(value='previous')], Inverse(every=3)])",
        ),
    ],
)
def test_what_the_yaml_says(config, expected):
    assert said(from_timm(config)) == expected


def test_the_forms_are_one():
    """The keywords of the factory, its call, the arguments of the script, with dashes or not."""
    expected = f"Staircase(of=Warmup(ramp={RAMP}, of=Cosine(), meets='beneath'))"
    for config in (
        {"num_epochs": 100, "warmup_epochs": 5},
        "create_scheduler_v2(optimizer, 'cosine', 100, warmup_epochs=5, updates_per_epoch=len(loader))",
        "scheduler = timm.scheduler.create_scheduler_v2(optimizer, num_epochs=100, warmup_epochs=5)",
        {"create_scheduler_v2": "create_scheduler_v2(optimizer, warmup_epochs=5)"},
        {"epochs": 100},
        {"sched": "cosine", "epochs": 100, "warmup-epochs": 5, "lr-noise": None},
        {"--sched": "cosine", "--epochs": 100},
        {"create_scheduler": {"sched": "cosine"}},
    ):
        assert said(from_timm(config)) == expected, config
    same = "Staircase(of=[Cosine(end={'scaled': 0.1}, until='20ep'), Constant(value='previous')])"
    for config in (
        "CosineLRScheduler(optimizer, 20, 0.1)",
        {"CosineLRScheduler": {"t_initial": 20, "lr_min": 0.1}},
        {"class_path": "timm.scheduler.CosineLRScheduler", "init_args": {"t_initial": 20, "lr_min": 0.1}},
    ):
        assert said(from_timm(config)) == same


def test_defaults_of_the_script_differ():
    step = {"sched": "step", "warmup_epochs": 0}
    assert (
        said(from_timm({**step, "epochs": 100})) == said(from_timm({**step, "num_epochs": 100})) == "Step(every='90ep')"
    )
    assert said(from_timm({"create_scheduler": step})) == "Step(every='30ep')"
    cycles = {"warmup_epochs": 0, "sched": "cosine"}
    assert "decay=0.5" in said(from_timm({**cycles, "lr_cycle_limit": 2}))
    assert "decay=0.1" in said(from_timm({**cycles, "cycle_limit": 2}))
    assert "seed=3" in said(from_timm({"sched": "step", "seed": 3, "lr_noise": 0.5}))
    imported = from_timm({"sched": "cosine"})
    assert "Warmup" not in said(imported)
    assert "warms up for 0 epochs" in imported.notes[0]


def test_files(tmp_path):
    args = {"sched": "cosine", "epochs": 50, "warmup_lr": 1e-6, "min_lr": 1e-5, "model": "vit", "lr_noise": None}
    expected = (
        "Staircase(of=Warmup(ramp=Linear(start={'scaled': 1e-06}, until='5ep'), of=Cosine(end={'scaled': 1e-05}), "
        "meets='beneath'))"
    )
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(args))
    (tmp_path / "args.yml").write_text("sched: cosine\nepochs: 50\nwarmup-lr: 1e-6\nmin-lr: 1e-5\nmodel: vit\n")
    (tmp_path / "args.json").write_text(json.dumps(args))
    (tmp_path / "args.py").write_text("\n".join(f"{key} = {value!r}" for key, value in args.items()))
    (tmp_path / "call.py").write_text(
        "from timm.scheduler import CosineLRScheduler\n"
        "steps = 50\n"
        "scheduler = CosineLRScheduler(optimizer, steps, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)\n"
    )
    for name in ("args.yaml", "args.yml", "args.json", "args.py"):
        assert said(from_timm(tmp_path / name)) == expected, name
    assert said(from_timm(str(tmp_path / "call.py"), facts={"epochs": 50})) == expected


def test_the_run_of_the_facts_decides_over_ends():
    config = factory(num_epochs=20)
    assert said(from_timm(config, facts={"epochs": 20})) == "Staircase(of=Cosine())"
    longer = from_timm(config, facts={"total_iters": 100, "iters_per_epoch": 4})
    assert said(longer) == "Staircase(of=[Cosine(until='20ep'), Constant(value='previous')])"
    assert any("the run is 25 epochs long, not 20" in note for note in longer.notes)
    assert said(from_timm(config, facts={"epochs": 10})) == "Staircase(of=Cosine(until='20ep'))"
    assert (
        said(from_timm({"sched": "cosine", "epochs": 20, "warmup_epochs": 0, "stop_epoch": 5}))
        == "Staircase(of=Cosine(until='20ep'))"
    )
    by_class = scheduler("CosineLRScheduler", t_initial=20, t_in_epochs=False)
    assert said(from_timm(by_class, facts={"total_iters": 20})) == "Cosine()"
    assert said(from_timm(by_class, facts={"epochs": 5, "iters_per_epoch": 4})) == "Cosine()"


@pytest.mark.parametrize(
    ("config", "epochs"),
    [
        (factory(num_epochs=20, cooldown_epochs=5), 25),
        (factory(num_epochs=20, cooldown_epochs=5, warmup_epochs=3, warmup_prefix=True), 28),
        (factory(num_epochs=10, cycle_limit=3), 30),
        (factory(num_epochs=10, cycle_limit=3, cycle_mul=1.5), 47),
        (factory(num_epochs=10, cycle_limit=3, cycle_mul=1.5, step_on_epochs=False), 47),
        (factory(sched="step", num_epochs=10, cooldown_epochs=5, warmup_epochs=3, warmup_prefix=True), 13),
        (factory(sched="wsd", num_epochs=10, cooldown_epochs=5, warmup_epochs=3), 15),
        (factory(sched="none", num_epochs=10), 10),
        ({"sched": "cosine", "epochs": 10, "stop_epoch": 4}, 4),
    ],
)
def test_the_length_of_the_run_is_noted(config, epochs):
    assert any(f"Trainer(max_epochs={epochs})" in note for note in from_timm(config).notes)


# ------------------------------------------------------------------ numbers


def stair(value, epochs):
    return np.repeat([[value(e, b) for b in (0.1, 0.01)] for e in range(epochs)], UPDATES, axis=0)


def smooth(value, epochs):
    return np.array([[value(t, b) for b in (0.1, 0.01)] for t in range(epochs * UPDATES)])


def warm(t, b, w, start):
    return start + t * (b - start) / w


@pytest.mark.parametrize(
    ("config", "epochs", "expected"),
    [
        (  # the curve beneath the warm-up, which jumps at its end
            factory(num_epochs=10, warmup_epochs=4, warmup_lr=0.02, min_lr=0.001),
            10,
            stair(lambda e, b: warm(e, b, 4, 0.02) if e < 4 else cosine(e / 10, b, 0.001), 10),
        ),
        (
            factory(num_epochs=10, warmup_epochs=4, warmup_prefix=True, step_on_epochs=False, cooldown_epochs=2),
            16,
            smooth(lambda t, b: warm(t, b, 16, 1e-5) if t < 16 else cosine(min((t - 16) / 40, 1), b, 0), 16),
        ),
        (
            factory(num_epochs=8, cycle_limit=2, cycle_decay=0.5, min_lr=0.02),
            17,
            stair(lambda e, b: cosine(e % 8 / 8, b * 0.5 ** (e // 8), 0.02) if e < 16 else 0.02, 17),
        ),
        (  # a warm-up over more than a cycle
            factory(sched="poly", decay_rate=1.0, num_epochs=4, cycle_limit=2, cycle_decay=0.5, warmup_epochs=5),
            8,
            stair(lambda e, b: warm(e, b, 5, 1e-5) if e < 5 else b * 0.5 * (1 - (e - 4) / 4), 8),
        ),
        (
            factory(sched="poly", decay_rate=0, num_epochs=3, cooldown_epochs=1, min_lr=0.001),
            4,
            stair(lambda e, b: b if e < 3 else 0.001, 4),
        ),
        (  # the very first epoch has the base rate, as the constructor wrote it
            factory(sched="tanh", num_epochs=6),
            6,
            stair(lambda e, b: b if e == 0 else b * (1 - math.tanh(-7 * (1 - e / 6) + 3 * e / 6)) / 2, 6),
        ),
        (factory(cycle_limit=0, num_epochs=3, min_lr=0.001), 3, stair(lambda e, b: b if e == 0 else 0.001, 3)),
        (
            factory(sched="multistep", decay_milestones=[1, 4], num_epochs=6),
            6,
            stair(lambda e, b: b * 0.1 ** ((e >= 1) + (e >= 3)), 6),
        ),
        (  # a milestone twice, and a list out of order, which timm searches as if it were sorted
            factory(sched="multistep", decay_milestones=[3, 3, 6], decay_rate=0.5, num_epochs=8),
            8,
            stair(lambda e, b: b * (1, 0.25, 0.125)[(e >= 2) + (e >= 5)], 8),
        ),
        (
            factory(sched="multistep", decay_milestones=[6, 3], num_epochs=8),
            8,
            stair(lambda e, b: b if e < 2 else b * 0.01, 8),
        ),
        (  # 11 // 1.1 is 9 in floating point
            factory(sched="step", decay_epochs=1.1, decay_rate=0.9, num_epochs=12),
            12,
            stair(lambda e, b: b * 0.9 ** (e // 1.1), 12),
        ),
        (  # 1-sqrt over a rounded part of what the warm-up leaves; a group below min_lr is held there
            factory(sched="wsd", num_epochs=12, warmup_epochs=2, decay_epochs=0.33, min_lr=0.02),
            13,
            stair(
                lambda e, b: (
                    warm(e, b, 2, 1e-5)
                    if e < 2
                    else 0.02 + (max(b, 0.02) - 0.02) * (1 - math.sqrt(min(max(e - 9, 0) / 3, 1)))
                ),
                13,
            ),
        ),
        (
            scheduler(
                "WSDLRScheduler", t_initial=10, decay_t=4, decay_fn="exp", decay_ratio=0.2, lr_min=0.001, warmup_t=2
            ),
            14,
            stair(
                lambda e, b: (
                    warm(e, b, 2, 0) if e < 2 else 0.001 + (b - 0.001) * (0.2 ** min(max(e - 8, 0) / 4, 1) - 0.2) / 0.8
                ),
                14,
            ),
        ),
        (  # the stable phase goes on falling, and stops at lr_min
            scheduler(
                "WSDLRScheduler",
                t_initial=10,
                decay_t=4,
                decay_fn="linear",
                stable_fn="rsqrt",
                stable_timescale=3,
                lr_min=0.006,
            ),
            11,
            stair(
                lambda e, b: 0.006 + (max(b * (1 + e / 3) ** -0.5, 0.006) - 0.006) * (1 - min(max(e - 6, 0) / 4, 1)),
                11,
            ),
        ),
        (  # half an epoch of warm-up: epoch 0 alone has its start
            scheduler("CosineLRScheduler", t_initial=6, warmup_t=0.5, warmup_lr_init=0.001),
            6,
            stair(lambda e, b: 0.001 if e == 0 else cosine(e / 6, b, 0), 6),
        ),
    ],
)
def test_the_numbers(config, epochs, expected):
    facts = {"epochs": epochs, "iters_per_epoch": UPDATES, "total_iters": epochs * UPDATES, "base_lr": [0.1, 0.01]}
    values = rates(from_timm(config, facts=facts), epochs, (0.1, 0.01), (1.0, 1.0))
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_lr_scale_reaches_the_ends_too():
    values = rates(from_timm(factory(num_epochs=10, warmup_epochs=4, min_lr=0.001)), 10, (0.1, 0.1), (1.0, 0.25))
    np.testing.assert_allclose(values[:, 1], values[:, 0] * 0.25, rtol=1e-12)


def test_a_cycle_whose_beginning_is_rounded_away():
    """log(243, 3) is a little less than 5: epoch 121 is the end of the fifth cycle for timm, not the top of the sixth."""
    imported = from_timm(
        factory(num_epochs=1, cycle_mul=3.0, cycle_limit=6, cycle_decay=0.5, step_on_epochs=False),
        facts={"iters_per_epoch": 1},
    )
    values = imported.spec.curve("lr", [0.1], total_steps=364, steps_per_epoch=1)[:, 0]
    assert values[40] == pytest.approx(0.1 * 0.5**4)
    assert values[121] == 0
    assert values[122] == pytest.approx(cosine(1 / 243, 0.1 * 0.5**5, 0))
    assert any("rounding" in note for note in imported.notes)


def test_cycles_that_shrink():
    values = rates(from_timm(factory(num_epochs=4, cycle_mul=0.5, cycle_limit=2, cycle_decay=0.5)), 6)[::UPDATES, 0]
    assert values.tolist() == pytest.approx([*(cosine(e / 4, 0.1, 0) for e in range(4)), 0.05, 0.025])


def test_noise_is_the_same_factor_for_all_groups():
    plain, noisy = (
        rates(from_timm(factory(sched="step", num_epochs=9, warmup_epochs=3, noise=noise)), 9, (0.1, 0.01), (1, 1))
        for noise in (None, 0.0)
    )
    factors = (noisy / plain)[::UPDATES]
    np.testing.assert_allclose(factors[:, 0], factors[:, 1])
    assert factors[0, 0] == 1  # nothing is drawn for the first epoch
    assert (np.abs(factors[1:, 0] - 1) > 1e-6).all()
    assert (np.abs(factors[1:, 0] - 1) < 0.67).all()
    # torch.randn of the seeds 43, 44 and 45, the first number of each within the limit
    np.testing.assert_allclose(factors[1:4, 0] - 1, NOISE, rtol=1e-12)
    assert rates(from_timm(factory(sched="step", num_epochs=9, noise=[0.5, 0.2])), 9).tolist() == [[0.1]] * 36
    imported = from_timm(factory(sched="step", noise=0.5, noise_std=0))
    assert said(imported) == "Step(every='90ep')"


NOISE = [-0.6484010815620422, 0.058945026248693466, 0.031175758689641953]


def test_the_plateau_waits_for_the_warm_up():
    config = factory(sched="plateau", num_epochs=8, warmup_epochs=2, warmup_lr=0.01, patience_epochs=0, decay_rate=0.5)
    # the metrics of the first two epochs count for nothing; the third sets the mark
    values = rates(from_timm(config), 8, metrics=[0.9, 0.9, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3])[::UPDATES, 0]
    assert values.tolist() == pytest.approx([0.01, 0.055, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_the_plateau_of_a_warm_up_that_ends_within_an_epoch():
    """It goes on from where the last whole epoch of the warm-up was."""
    imported = from_timm(
        scheduler("PlateauLRScheduler", warmup_t=2.5, warmup_lr_init=0.01, noise_range_t=1, noise_type="uniform")
    )
    assert "start={'base': 0.8, 'scaled': 0.00" in said(imported)
    assert "Constant(until='3ep'), Noise(distribution='uniform', every='1ep')" in said(imported)


def test_the_floor_of_the_plateau_is_absolute():
    config = factory(sched="plateau", num_epochs=4, patience_epochs=0, min_lr=0.02)
    values = rates(from_timm(config), 4, (0.1, 0.1), (1.0, 0.5), metrics=[0.5] * 4)[-1]
    assert values.tolist() == pytest.approx([0.02, 0.02])


def test_the_name_of_the_metric():
    assert "monitor='loss', " not in said(from_timm({"sched": "plateau", "eval_metric": "top5"}))
    assert "Plateau(monitor='loss')" in said(from_timm({"sched": "plateau", "eval_metric": "loss"}))
    assert "monitor='acc'" in said(from_timm(factory(sched="plateau"), facts={"metrics": {"acc": [0.1]}}))
    assert "monitor='top1', factor" in said(from_timm(factory(sched="plateau", plateau_mode="min", decay_rate=0.5)))


def test_no_schedule():
    """timm leaves lr_scale without effect then."""
    imported = from_timm(factory(sched="none"))
    assert not imported.spec.schedules
    assert any("lr_scale" in note for note in imported.notes)
    imported = from_timm(factory(sched="none"), facts={"lr_scale": [0.5, 1.0], "base_lr": [0.1, 0.2]})
    assert rates(imported, 1, (0.1, 0.2), (0.5, 1.0))[0].tolist() == [0.1, 0.2]
    assert not from_timm(factory(sched="none"), facts={"lr_scale": [1.0], "base_lr": [0.1]}).spec.schedules


def test_min_lr_above_a_rate_needs_to_be_known():
    config = factory(sched="wsd", min_lr=0.01)
    assert any("base_lr" in note for note in from_timm(config).notes)
    assert "Clip" not in said(from_timm(config, facts={"base_lr": [0.1]}))
    assert "min={'scaled': 0.01}" in said(from_timm(config, facts={"base_lr": [0.1, 0.001]}))
    assert "Clip" in said(from_timm({"sched": "wsd", "min_lr": 0.01, "lr": 0.001}))
    assert "Clip" not in said(from_timm({"sched": "wsd", "min_lr": 0.01, "lr": 0.1}))


def test_lengths_in_updates():
    """Of epochs whose length is known, the decay of wsd is rounded to updates, not epochs."""
    config = factory(sched="wsd", num_epochs=10, decay_epochs=0.25, step_on_epochs=False)
    assert (
        said(from_timm(config, facts={"iters_per_epoch": 7}))
        == "[Constant(until='10ep-18st'), Polynomial(time_power=0.5)]"
    )
    assert (
        said(from_timm(config, facts={"iters_per_epoch": 8})) == "[Constant(until='7.5ep'), Polynomial(time_power=0.5)]"
    )
    accumulated = {"sched": "wsd", "epochs": 10, "warmup_epochs": 0, "decay_epochs": 0.25, "sched_on_updates": True}
    imported = from_timm(
        {**accumulated, "grad_accum_steps": 4}, facts={"iters_per_epoch": 26}
    )  # 7 updates, the last of 2 batches
    assert "10ep-18st" in said(imported)
    config = factory(num_epochs=10, updates_per_epoch=100, warmup_epochs=1, step_on_epochs=False)
    assert "until='1ep'" in said(from_timm(config))
    other = from_timm(config, facts={"iters_per_epoch": 50, "epochs": 10})
    assert (
        said(other) == "Warmup(ramp=Linear(start={'scaled': 1e-05}, until=100), of=Cosine(until=1000), meets='beneath')"
    )
    assert any("the lengths are written in steps" in note for note in other.notes)


# ------------------------------------------------------------------ what is not mapped, and what is refused


def test_what_is_not_mapped_is_noted():
    config = {"sched": "cosine", "epochs": 10, "model": "vit", "opt": "adamw", "warmup_epoch": 3, "reprob": 0.25}
    imported = from_timm(config)
    assert imported.unmapped == ("model", "warmup_epoch", "reprob")
    assert "warmup_epoch: is not part of the schedules; did you mean warmup_epochs?" in imported.notes
    with pytest.raises(SolverError, match=r"model: is not mapped.*3 such keys"):
        from_timm(config, strict=True)
    both = {"create_scheduler_v2": {"num_epochs": 3}, "model": "vit"}
    assert from_timm(both).unmapped == ("model",)
    assert from_timm(factory(num_epochs=3, decay_rate=0.3), strict=True).unmapped == ()  # means nothing to a cosine


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (factory(sched="cosin"), r"create_scheduler_v2\.sched: unknown value; got 'cosin'; did you mean cosine"),
        (factory(sched=None), r"sched: unknown value"),
        (factory(num_epochs=0), r"num_epochs: must be > 0"),
        (factory(min_lr=-0.1), r"min_lr: must be at least 0"),
        (factory(warmup_epochs=-1), r"warmup_epochs: must be at least 0"),
        (factory(warmup_lr="a"), r"warmup_lr: must be a number"),
        (factory(warmup_prefix=1), r"warmup_prefix: must be true or false"),
        (factory(k_decay=0), r"k_decay: must be > 0"),
        (factory(cycle_mul=0), r"cycle_mul: must be > 0"),
        (
            factory(num_epochs=10, cycle_mul=0.5, cycle_limit=2, cooldown_epochs=10),
            r"cycle_mul: shrinks the cycles to nothing",
        ),
        (factory(sched="tanh", cycle_limit=-1), r"cycle_limit: must be at least 0"),
        (factory(sched="poly", decay_rate=-1), r"decay_rate: must be at least 0"),
        (factory(sched="step", decay_epochs=0), r"decay_epochs: must be > 0"),
        (factory(sched="multistep", decay_milestones=30), r"decay_milestones: must be a list of numbers"),
        (factory(sched="wsd", num_epochs=10, decay_epochs=11), r"decay_epochs: the decay must be longer than nothing"),
        (factory(sched="wsd", num_epochs=3, warmup_epochs=3), r"decay_epochs: the decay must be longer than nothing"),
        (factory(sched="wsd", decay_fn="sqrt"), r"decay_fn: unknown value; got 'sqrt'; did you mean 1-sqrt"),
        (factory(sched="rsqrt"), r"stable_timescale: must be > 0; got 0; give warmup_epochs"),
        (factory(sched="wsd", num_epochs=11, step_on_epochs=False), r"facts=\{'iters_per_epoch'"),
        (factory(sched="plateau", step_on_epochs=False), r"sched: a plateau cannot be stepped by updates"),
        (factory(sched="plateau", decay_rate=1.0), r"decay_rate: must lie between 0 and 1"),
        (factory(sched="plateau", plateau_mode="up"), r"plateau_mode: unknown value"),
        (factory(step_on_epochs=False, updates_per_epoch=0), r"updates_per_epoch: must be a whole number > 0"),
        (factory(noise=[]), r"noise: must be a list of at least 1 numbers"),
        (factory(noise=0.5, noise_pct=1.5), r"noise_pct: above 1 makes rates negative"),
        (factory(noise=0.5, noise_pct=0), r"noise_pct: lets timm draw for ever"),
        (factory(noise=0.5, noise_seed=1.5), r"noise_seed: must be a whole number"),
        (scheduler("CosineLRScheduler"), r"CosineLRScheduler\.t_initial: is missing"),
        (scheduler("StepLRScheduler", decay_rate=0.1), r"StepLRScheduler\.decay_t: is missing"),
        (scheduler("MultiStepLRScheduler", decay_t=["a"]), r"decay_t: must be a list of numbers"),
        (scheduler("TanhLRScheduler", t_initial=5, lb=3, ub=1), r"lb: must be below ub"),
        (scheduler("WSDLRScheduler", t_initial=5, decay_t=6), r"decay_t: the decay"),
        (scheduler("WSDLRScheduler", t_initial=5, decay_t=3, decay_ratio=1), r"decay_ratio: must lie between 0 and 1"),
        (scheduler("WSDLRScheduler", t_initial=5, decay_t=3, stable_fn="rsqrt"), r"stable_timescale: must be > 0"),
        (
            scheduler("CosineLRScheduler", t_initial=5, noise_range_t=[1]),
            r"noise_range_t: must be a list of at least 2",
        ),
        (
            scheduler("CosineScheduler", t_initial=5),
            r"config: is not a scheduler of timm; got 'CosineScheduler'; did you mean",
        ),
        ("StepLR(optimizer, 30)", r"config: is not a scheduler of timm"),
        ("create_scheduler(args, optimizer)", r"takes its arguments from an object"),
        ("[CosineLRScheduler(o, 5), StepLRScheduler(o, 5)]", r"config: must be one scheduler"),
        ("CosineLRScheduler(optimizer, t_initial=lambda: 3)", r"t_initial: is not a literal"),
        ("CosineLRScheduler(optimizer, 5, t_initial=5)", r"t_initial: is given twice"),
        ({"create_scheduler": {"epochs": 3}}, r"create_scheduler\.sched: is missing"),
        (
            {"epochs": 3, "num_epochs": 3},
            r"num_epochs: is a keyword of create_scheduler_v2 among arguments of train.py",
        ),
        ({"min-lr": 0, "min_lr": 0}, r"config.min_lr: is given twice"),
        ({"momentum": 0.9}, r"config: has nothing of timm's schedules"),
        ({"lr_config": {"policy": "step"}}, r"is not for from_timm: lr_config .* use interop.from_mmcv"),
        ({"max_duration": "10ep", "schedulers": []}, r"use interop.from_composer"),
        (3, r"config: is not a constructor call"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=message):
        from_timm(config)
