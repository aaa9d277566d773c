"""Averages of MMCV and MMEngine configs: the figures of the real hooks, what the others do, and what is said of it."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.averaging import EMA, SWA, ExponentialWarmup, PowerWarmup, SlowStart, UpdateBN
from lightning_solver.interop import from_mmcv, from_mmengine

CASES = json.loads((Path(__file__).parent.parent / "golden" / "averages_openmmlab.json").read_text())
IMPORTERS = {"mmcv1": from_mmcv, "mmengine": from_mmengine}
MOVED = [case for case in CASES if "raises" not in case]


def read(case, **options):
    return IMPORTERS[case["peer"]](case["config"], facts=case["setting"], **options)


def only(spec):
    (average,) = spec.averages.values()
    return average


# ------------------------------------------------------------------ figures of the real ones


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("case", MOVED, ids=lambda case: case["id"])
def test_the_peer_gave_the_same(case, known):
    setting = case["setting"]
    tensor = torch.tensor(setting["initial"], dtype=torch.float64)
    average = only(read(case).spec).over([tensor], total_steps=setting["total_iters"] if known else None)
    for weights, value in zip(setting["weights"], case["values"], strict=True):
        tensor.copy_(torch.tensor(weights, dtype=torch.float64))
        average.update()
        torch.testing.assert_close(average.values[0], torch.tensor(value, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", MOVED, ids=lambda case: case["id"])
def test_nothing_is_left_over_and_the_spec_is_plain_data(case):
    spec = read(case, strict=True).spec
    assert SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert list(spec.averages) == ["swa" if isinstance(only(spec), SWA) else "ema"]


def test_an_argument_that_the_hook_refuses_is_named_with_the_one_that_is_meant():
    (case,) = [case for case in CASES if "raises" in case]
    assert "start_iters" in case["raises"]
    imported = read(case)
    note = "custom_hooks[0].start_iters: is not mapped: EMAHook has no such argument; did you mean begin_iter?"
    assert note in imported.notes
    assert imported.unmapped == ("custom_hooks[0].start_iters",)
    with pytest.raises(SolverError, match=r"custom_hooks\[0\].start_iters: is not mapped"):
        read(case, strict=True)


# ------------------------------------------------------------------ MMEngine


def engine(*hooks, facts=None, strict=True, **config):
    return from_mmengine({"custom_hooks": list(hooks), **config}, facts=facts, strict=strict)


def ema(**arguments):
    return {"type": "EMAHook", **arguments}


ENGINE = {
    "plain": (ema(), {"ema": EMA(decay=0.9998, buffers="copy")}),
    "scoped": (
        ema(type="mmpretrain.EMAHook", momentum=4e-5, priority="ABOVE_NORMAL"),
        EMA(decay=1 - 4e-5, buffers="copy"),
    ),
    "buffers": (ema(update_buffers=True, momentum=0.1), EMA(decay=0.9)),
    "every few": (ema(interval=3, momentum=0.1), EMA(decay=0.9, every=3, decay_per="update", buffers="copy")),
    "an iteration": (ema(begin_iter=7, momentum=0.5), EMA(decay=0.5, start=7, buffers="copy")),
    "an epoch": (ema(begin_epoch=4, momentum=0.5), EMA(decay=0.5, start="3ep+1st", buffers="copy")),
    "the first epoch": (ema(begin_epoch=1, momentum=0.5), EMA(decay=0.5, buffers="copy")),
    "annealed": (
        ema(ema_type="MomentumAnnealingEMA", gamma=10, momentum=0.25),
        EMA(decay=0.75, warmup=PowerWarmup(10.0, 1.0), buffers="copy"),
    ),
    "of MMDetection": (
        ema(ema_type="mmdet.ExpMomentumEMA", momentum=0.25, update_buffers=True),
        EMA(decay=0.75, warmup=ExponentialWarmup(2000.0)),
    ),
    "equal": (ema(ema_type="StochasticWeightAverage"), {"swa": SWA(start=1, every=1, buffers="copy")}),
    "on the cpu": (ema(device="cpu", momentum=0.5), EMA(decay=0.5, device="cpu", buffers="copy")),
    "both validated": (
        ema(momentum=0.5, evaluate_on_origin=True),
        EMA(decay=0.5, buffers="copy", evaluate_live=True),
    ),
    "not validated": (ema(momentum=0.5, evaluate_on_ema=False), EMA(decay=0.5, buffers="copy", evaluated=False)),
}


@pytest.mark.parametrize("name", ENGINE)
def test_a_hook_of_mmengine(name):
    hook, wanted = ENGINE[name]
    assert engine(hook).spec.averages == (wanted if isinstance(wanted, dict) else {"ema": wanted})


def test_the_hook_may_be_a_default_one_or_python_text():
    wanted = engine(ema(momentum=0.1)).spec.averages
    hooks = {"timer": {"type": "IterTimerHook"}, "ema": ema(momentum=0.1), "logger": None}
    imported = from_mmengine({"default_hooks": hooks, "param_scheduler": []})
    assert imported.spec.averages == wanted
    assert imported.unmapped == ("default_hooks.timer",)
    text = "custom_hooks = [dict(type=EMAHook, momentum=0.1)]\nparam_scheduler = []"
    assert from_mmengine(text, strict=True).spec.averages == wanted
    average = "student = Net()\nema = ExponentialMovingAverage(student, 0.1)"
    assert from_mmengine(average).spec.averages == wanted
    assert from_mmengine("ExponentialMovingAverage(model, 0.1, 1)", strict=True).spec.averages == wanted


def test_hooks_beside_it_are_named():
    imported = engine(ema(), {"type": "mmdet.NumClassCheckHook"}, strict=False)
    assert imported.unmapped == ("custom_hooks[1]",)
    assert "custom_hooks[1]: NumClassCheckHook is not part of the schedules" in imported.notes
    plain = from_mmengine({"default_hooks": {"timer": {"type": "IterTimerHook"}}, "param_scheduler": []})
    assert plain.unmapped == ("default_hooks",)
    assert plain.spec.averages == {}


def test_an_equal_average_of_every_few_steps_ends_on_its_grid():
    hook = ema(ema_type="StochasticWeightAverage", interval=4, begin_iter=2)
    imported = engine(hook, facts={"total_iters": 12})
    assert imported.spec.averages == {"swa": SWA(start=2, every=4, until=10, buffers="copy")}
    assert engine(hook, facts={"total_iters": 14}).spec.averages == {"swa": SWA(start=2, every=4, buffers="copy")}
    later = ema(ema_type="StochasticWeightAverage", interval=4, begin_epoch=2)
    facts = {"epochs": 3, "iters_per_epoch": 5}
    assert engine(later, facts=facts).spec.averages["swa"].until == 14
    unknown = engine(hook, strict=False)
    assert unknown.unmapped == ("custom_hooks[0].interval",)
    assert "the weights at the end of the run are taken in too" in unknown.notes[0]


def by_batches(hook, weights, per_step, total):
    """What an average that counts batches is before each further step."""
    value, seen = weights[0], []
    for batch in range(1, total * per_step + per_step):
        value = hook(value, weights[batch // per_step], batch)
        if (batch + 1) % per_step == 0:
            seen.append(value)
    return seen


def ours(average, weights, total, run=None):
    tensor = torch.tensor([weights[0]], dtype=torch.float64)
    averaged = average.over([tensor], run=run or RunLength(total_steps=total))
    seen = [averaged.values[0].item()]
    for weight in weights[1 : total + 1]:
        tensor.fill_(weight)
        averaged.update()
        seen.append(averaged.values[0].item())
    return seen


WEIGHTS = [(-1.7) ** (i % 5) + i for i in range(40)]


@pytest.mark.parametrize("interval", [1, 2, 4, 8])
@pytest.mark.parametrize("begin", [0, 5, 8])
def test_batches_that_are_accumulated_are_one_update(interval, begin):
    def hook(value, weight, batch):
        first = max(begin, 1)
        if batch <= first:
            return weight
        return value + 0.125 * (weight - value) if (batch - first) % interval == 0 else value

    imported = engine(
        ema(momentum=0.125, interval=interval, begin_iter=begin),
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 4},
    )
    average = only(imported.spec)
    assert average.decay == pytest.approx(0.875 ** max(4 // interval, 1), rel=1e-15)
    assert (average.start, average.every) == (begin // 4, max(interval // 4, 1))
    assert any("counts batches, 4 of which make one optimiser step" in note for note in imported.notes)
    assert ours(average, WEIGHTS, 30) == pytest.approx(by_batches(hook, WEIGHTS, 4, 30), rel=1e-12)


@pytest.mark.parametrize("per_step", [1, 2, 3, 4])
def test_an_epoch_begins_in_the_middle_of_a_step(per_step):
    def hook(value, weight, batch):
        return weight if batch <= 2 * 7 + 1 else value + 0.125 * (weight - value)

    facts = {"batches_per_step": per_step}
    average = only(engine(ema(momentum=0.125, begin_epoch=3), facts=facts).spec)
    run = RunLength(total_steps=20, steps_per_epoch=Fraction(7, per_step))
    wanted = by_batches(hook, WEIGHTS, per_step, 20)
    got = ours(average, WEIGHTS, 20, run)
    assert got[-len(wanted) :] == pytest.approx(wanted, rel=1e-12)


INEXACT = {
    "intervals that do not fit": (
        ema(interval=3, momentum=0.1),
        "interval",
        "neither 2 batches of a step nor interval",
    ),
    "falling by batch": (ema(ema_type="ExpMomentumEMA"), "gamma", "moves with every batch"),
    "annealing by batch": (ema(ema_type="MomentumAnnealingEMA"), "gamma", "moves with every batch"),
    "buffers": (ema(update_buffers=True), "update_buffers", "buffers that change with every batch"),
    "equal": (ema(ema_type="StochasticWeightAverage"), "", "the weights with which the average begins"),
}


@pytest.mark.parametrize("name", INEXACT)
def test_what_has_no_exact_counterpart_is_said_and_refused_if_strict(name):
    hook, key, words = INEXACT[name]
    path = f"custom_hooks[0]{'.' if key else ''}{key}"
    imported = engine(hook, facts={"batches_per_step": 2}, strict=False)
    assert imported.unmapped == (path,)
    assert any(note.startswith(f"{path}: ") and words in note for note in imported.notes)
    assert imported.spec.averages
    assert engine(hook).unmapped == ()


BAD_ENGINE = {
    "both begins": (ema(begin_iter=3, begin_epoch=2), r"begin_epoch: cannot stand beside begin_iter"),
    "momentum 0": (ema(momentum=0), r"momentum: must be above 0 and below 1"),
    "momentum 1": (ema(momentum=1.0), r"momentum: must be above 0 and below 1"),
    "interval 0": (ema(interval=0), r"interval: must be at least 1"),
    "interval 1.5": (ema(interval=1.5), r"interval: must be a whole number"),
    "gamma": (ema(ema_type="MomentumAnnealingEMA", gamma=0), r"gamma: must be above 0"),
    "begin": (ema(begin_iter=-1), r"begin_iter: must be at least 0"),
    "beyond": (ema(begin_iter=51), r"begin_iter: lies beyond the end of the run; got 51; give at most 50"),
    "beyond epochs": (ema(begin_epoch=6), r"begin_epoch: lies beyond the end of the run"),
}


@pytest.mark.parametrize("name", BAD_ENGINE)
def test_what_mmengine_refuses_is_an_error(name):
    hook, message = BAD_ENGINE[name]
    with pytest.raises(SolverError, match=r"custom_hooks\[0\]\." + message):
        engine(hook, facts={"epochs": 5, "iters_per_epoch": 10})


def test_a_loop_that_counts_iterations_has_one_epoch():
    loop = {"by_epoch": False, "max_iters": 50}
    with pytest.raises(
        SolverError, match="begin_epoch: an IterBasedTrainLoop has one epoch only; got 2; give begin_iter"
    ):
        engine(ema(begin_epoch=2), train_cfg=loop)
    assert only(engine(ema(begin_epoch=1), train_cfg=loop).spec).start == 1


def test_two_averages_would_both_take_the_place_of_the_weights():
    with pytest.raises(SolverError, match=r"custom_hooks\[1\]: is a second average"):
        engine(ema(), ema(momentum=0.1))
    with pytest.raises(SolverError, match="average: must be one average"):
        from_mmengine({"average": "ExponentialMovingAverage(model); StochasticWeightAverage(model)"})


@pytest.mark.parametrize("importer", [from_mmengine, from_mmcv])
def test_hooks_are_a_list(importer):
    with pytest.raises(SolverError, match=r"custom_hooks: must be a list; got \{'type': 'EMAHook'\}"):
        importer({"custom_hooks": {"type": "EMAHook"}})


@pytest.mark.parametrize(
    ("kind", "words"),
    [("CosineEMA", "is not known"), ("MomentumAnealingEMA", "did you mean MomentumAnnealingEMA")],
)
def test_an_average_that_is_not_known(kind, words):
    imported = engine(ema(ema_type=kind, momentum=0.1), strict=False)
    assert imported.spec.averages == {}
    assert "custom_hooks[0].ema_type" in imported.unmapped
    assert any(words in note for note in imported.notes)
    with pytest.raises(SolverError, match="is not a class of averages that is read"):
        from_mmengine({"average": f"{kind}(model)"})


def test_arguments_of_another_class_are_named():
    imported = engine(ema(ema_type="StochasticWeightAverage", momentum=0.1, gama=3), strict=False)
    assert imported.unmapped == ("custom_hooks[0].momentum", "custom_hooks[0].gama")
    direct = from_mmengine({"average": "ExponentialMovingAverage(model, momentun=0.1)"})
    assert direct.unmapped == ("average.momentun",)
    assert (
        "average.momentun: is not mapped: ExponentialMovingAverage has no such argument; did you mean momentum"
        in str(direct.notes)
    )


# ------------------------------------------------------------------ statistics of batch norms


@pytest.mark.parametrize("importer", [from_mmengine, from_mmcv])
def test_statistics_are_estimated_anew_before_validation(importer):
    config = {"custom_hooks": [{"type": "PreciseBNHook", "num_samples": 1000, "priority": "ABOVE_NORMAL"}, ema()]}
    imported = importer(config, facts={"samples_per_iter": 64}, strict=True)
    assert only(imported.spec).update_bn == UpdateBN(batches=15, at="validation")
    assert any("estimates the statistics of the trained weights" in note for note in imported.notes)
    few = importer(config, facts={"samples_per_iter": 64, "iters_per_epoch": 15}, strict=True)
    assert only(few.spec).update_bn == UpdateBN(at="validation")
    open_ = importer(config)
    assert only(open_.spec).update_bn == UpdateBN(at="validation")
    assert open_.unmapped == ("custom_hooks[0].num_samples",)
    with pytest.raises(SolverError, match="num_samples: is less than one batch; got 1000; give at least 1024"):
        importer(config, facts={"samples_per_iter": 1024})


def test_statistics_of_the_trained_weights_are_not_estimated():
    facts = {"samples_per_iter": 8}
    for hooks in ([{"type": "PreciseBNHook"}], [{"type": "PreciseBNHook"}, ema(evaluate_on_ema=False)]):
        imported = engine(*hooks, facts=facts, strict=False)
        assert (
            "custom_hooks[0]: is not mapped: statistics are estimated anew for averaged weights only" in imported.notes
        )
        assert all(not average.update_bn for average in imported.spec.averages.values())
    often = engine({"type": "PreciseBNHook", "interval": 2, "numsamples": 3}, ema(), facts=facts, strict=False)
    assert often.unmapped == ("custom_hooks[0].numsamples", "custom_hooks[0].interval")


# ------------------------------------------------------------------ MMCV


def mmcv(*hooks, facts=None, strict=True, **config):
    return from_mmcv({"custom_hooks": list(hooks), **config}, facts=facts, strict=strict)


def linear(**arguments):
    return {"type": "LinearMomentumEMAHook", **arguments}


MMCV = {
    "plain": (ema(), EMA(decay=0.9998, first="blend", buffers="copy")),
    "a careful beginning": (
        ema(momentum=0.5, warm_up=20, priority="HIGH"),
        EMA(decay=0.5, first="blend", buffers="copy", warmup=SlowStart(20.0)),
    ),
    "which never acts": (ema(momentum=0.25, warm_up=4, priority=49), EMA(decay=0.75, first="blend", buffers="copy")),
    "of MMDetection": (linear(momentum=0.25, warm_up=4, priority=49), EMA(decay=0.75, first="blend")),
    "of MMDetection, parameters": (
        linear(warm_up=4, skip_buffers=True),
        EMA(decay=0.9998, first="blend", buffers="copy"),
    ),
    "of MMDetection, now and then": (
        linear(momentum=0.5, interval=2, warm_up=2),
        EMA(decay=0.75, start=2, every=2, decay_per="update", first="blend", before="hold"),
    ),
    "after validation": (
        ema(momentum=0.25, warm_up=2, priority="VERY_LOW"),
        EMA(decay=0.75, first="blend", buffers="copy", evaluated=False),
    ),
}


@pytest.mark.parametrize("name", MMCV)
def test_a_hook_of_mmcv(name):
    hook, wanted = MMCV[name]
    assert mmcv(hook).spec.averages == {"ema": wanted}


def test_a_runner_that_counts_iterations_validates_the_trained_weights():
    imported = mmcv(ema(), runner={"type": "IterBasedRunner", "max_iters": 50})
    assert only(imported.spec).evaluated is False
    assert any("an IterBasedRunner never puts the average" in note for note in imported.notes)


@pytest.mark.parametrize("kind", ["EMAHook", "LinearMomentumEMAHook"])
@pytest.mark.parametrize("per_step", [1, 2, 4])
@pytest.mark.parametrize("interval", [1, 2, 4, 8])
@pytest.mark.parametrize("warm_up", [10, 1])
def test_the_hooks_of_mmcv_by_batches(kind, per_step, interval, warm_up):
    """The formulas of both hooks, ``i`` being the number of batches before this one."""

    def hook(value, weight, batch):
        i = batch - 1
        share = min(0.75**interval, (1 + i) / (warm_up + i))
        due = i % interval == 0 if kind == "EMAHook" else (i + 1) % interval == 0
        return value + share * (weight - value) if due else value

    facts = {"batches_per_step": per_step}
    given = {"type": kind, "momentum": 0.75, "interval": interval, "warm_up": warm_up, "priority": 40}
    given |= {"skip_buffers": True} if kind != "EMAHook" else {}
    imported = mmcv(given, facts=facts, strict=False)
    acts = 0.75**interval > 1 / warm_up
    relative = per_step > 1 or (kind != "EMAHook" and interval > 1)
    assert imported.unmapped == (("custom_hooks[0].warm_up",) if acts and relative else ())
    if imported.unmapped:
        return
    wanted = by_batches(hook, WEIGHTS, per_step, 30)
    got = ours(only(imported.spec), WEIGHTS, 30)
    assert got[-len(wanted) :] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("per_step", [1, 2, 4])
@pytest.mark.parametrize("interval", [1, 2, 4, 8])
def test_a_share_that_falls_exponentially_by_batches(per_step, interval):
    def share(t):
        return 0.875 * math.exp(-(1 + t) / 20) + 0.125

    def old(value, weight, batch):  # MMDetection 2.x: batches before this one
        return value + share(batch - 1) * (weight - value) if batch % interval == 0 else value

    def new(value, weight, batch):  # MMDetection 3.x: updates before this one
        if batch == 1:
            return weight
        return value + share(batch - 1) * (weight - value) if (batch - 1) % interval == 0 else value

    facts, given = {"batches_per_step": per_step}, {"momentum": 0.125, "interval": interval}
    hooks = {
        old: mmcv({"type": "ExpMomentumEMAHook", "total_iter": 20, **given}, facts=facts, strict=False),
        new: engine(ema(ema_type="ExpMomentumEMA", gamma=20, **given), facts=facts, strict=False),
    }
    for hook, imported in hooks.items():
        exact = interval % per_step == 0
        keys = {"custom_hooks[0].total_iter", "custom_hooks[0].gamma", "custom_hooks[0].skip_buffers"}
        assert not set(imported.unmapped) - keys
        assert exact == (not set(imported.unmapped) - {"custom_hooks[0].skip_buffers"})
        if exact:
            wanted = by_batches(hook, WEIGHTS, per_step, 30)
            assert ours(only(imported.spec), WEIGHTS, 30)[-len(wanted) :] == pytest.approx(wanted, rel=1e-12)


BAD_MMCV = {
    "total_iter": ({"type": "ExpMomentumEMAHook", "total_iter": 0}, "total_iter: must be above 0"),
    "momentum": (ema(momentum=0.0), "momentum: must be above 0 and below 1"),
    "warm-up": (ema(warm_up=0), "warm_up: must be above 0"),
    "priority": (ema(priority="HIHG"), "priority: is not a priority; got 'HIHG'; did you mean HIGH"),
    "priority number": (ema(priority=101), "priority: is not a priority; got 101"),
}


@pytest.mark.parametrize("name", BAD_MMCV)
def test_what_mmcv_refuses_is_an_error(name):
    hook, message = BAD_MMCV[name]
    with pytest.raises(SolverError, match=r"custom_hooks\[0\]\." + message):
        mmcv(hook)


def test_what_is_left_over_in_mmcv_is_named():
    imported = mmcv(ema(resume_from="a.pth", skip_buffers=True, momentun=1), {"type": "SyncBuffersHook"}, strict=False)
    assert imported.unmapped == (
        "custom_hooks[1]",
        "custom_hooks[0].resume_from",
        "custom_hooks[0].skip_buffers",
        "custom_hooks[0].momentun",
    )
    with pytest.raises(SolverError, match=r"custom_hooks\[1\]: is a second average"):
        mmcv(ema(), linear())


# ------------------------------------------------------------------ what is said of the rest


def test_where_an_average_lies_and_how_it_is_loaded():
    notes = engine(ema(device="cuda:0", strict_load=False)).notes
    assert "custom_hooks[0].device: an average lies beside the weights, or on the cpu" in notes
    assert "custom_hooks[0].strict_load: an average that is resumed always has to fit here" in notes
    assert not any("strict_load" in note for note in engine(ema(strict_load=True)).notes)


def test_hooks_that_are_calls_name_their_arguments():
    assert engine_text("EMAHook(momentum=0.1)").spec.averages == engine(ema(momentum=0.1)).spec.averages
    with pytest.raises(SolverError, match=r"custom_hooks\[0\]: has arguments without a name"):
        engine_text("EMAHook('ExponentialMovingAverage')")
    unread = from_mmengine("custom_hooks = [hook if late else None]")
    assert "custom_hooks[0]: this hook is not part of the schedules" in unread.notes


def engine_text(call):
    return from_mmengine(f"custom_hooks = [{call}]", strict=True)
