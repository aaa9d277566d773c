"""Clipping and accumulation of timm's functions and of ``train.py`` as a spec: what the real ones gave."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_solver import SolverError, SolverSpec
from lightning_solver.clipping import AGC, GlobalNorm, Value
from lightning_solver.interop import from_timm

CASES = json.loads((Path(__file__).parent.parent / "golden" / "clip_timm.json").read_text())
SCHEDULE = {"sched": "cosine", "epochs": 10}


def gradients(case, clip):
    """The gradients of a case after a clipping."""
    setting = case["setting"]
    values = setting.get("params", setting["grads"])
    tensors = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    for tensor, gradient in zip(tensors, setting["grads"], strict=True):
        tensor.grad = torch.tensor(gradient, dtype=torch.float64)
    clip.apply(tensors)
    return [tensor.grad for tensor in tensors]


def check_golden(case, clip):
    for found, value in zip(gradients(case, clip), case["values"], strict=True):
        torch.testing.assert_close(found, torch.tensor(value, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["config", "config_py"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_timm_gave_the_same(case, form):
    imported = from_timm(case[form], facts=case["setting"] if "epochs" in case["setting"] else None, strict=True)
    check_golden(case, imported.spec.clip)
    assert SolverSpec.from_dict(json.loads(json.dumps(imported.spec.to_dict()))) == imported.spec


def test_a_golden_case_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check_golden(CASES[0], AGC(spare_last=2))


@pytest.mark.parametrize(
    ("arguments", "clip"),
    [
        ({"clip_grad": 1.0}, GlobalNorm(1.0)),
        ({"clip_grad": 5, "clip_mode": "norm"}, GlobalNorm(5.0)),
        ({"clip-grad": 0.1, "clip-mode": "value"}, Value(0.1)),
        ({"--clip-grad": "2e-2", "--clip-mode": "agc"}, AGC(0.02, spare_last=2)),
        ({"clip_grad": None, "clip_mode": "norm"}, None),
    ],
)
def test_arguments_of_the_script(arguments, clip):
    alone = from_timm(arguments, strict=True) if clip is not None else None
    assert alone is None or alone.spec == from_timm({"clip": "dispatch_clip_grad(p, 1)"}).spec.replace(clip=clip)
    for more in (SCHEDULE, {"opt": "sgd", "lr": 0.1, "opt_kwargs": {}}, {"model_ema": True}):
        imported = from_timm({**more, **arguments}, strict=True)
        assert imported.spec.clip == clip
        assert imported.spec == from_timm({**more, "clip_grad": None}).spec.replace(clip=clip)


def test_the_script_s_agc_spares_the_last_two_tensors_of_the_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    imported = from_timm({"clip_grad": 0.01, "clip_mode": "agc", **SCHEDULE})
    imported.spec.clip.apply(model)
    whole = [bool((parameter.grad == 5.0).all()) for parameter in model.parameters()]
    assert whole == [False, False, False, False, True, True]
    assert any(note.startswith("clip_mode: agc spares the last two parameters") for note in imported.notes)


@pytest.mark.parametrize("key", ["clip_mode", "clip-mode"])
def test_a_mode_without_a_limit_clips_nothing(key):
    imported = from_timm({**SCHEDULE, key: "agc"}, strict=True)
    assert imported.spec.clip is None
    assert "clip_mode: has no effect without clip_grad, as in timm" in imported.notes


@pytest.mark.parametrize(
    ("steps", "accumulate"), [(1, None), (4, 4), (0, None), (-3, None)], ids=["one", "four", "none", "below"]
)
def test_accumulation(steps, accumulate):
    imported = from_timm({**SCHEDULE, "grad_accum_steps": steps}, strict=True)
    assert imported.spec == from_timm({**SCHEDULE, "clip_grad": None}).spec.replace(accumulate=accumulate)


def steps_of_timm(batches, size):
    """The batches after which the loop of train.py steps in an epoch (0-based)."""
    rest, counted = batches % size, size
    for batch in range(batches):
        if batch == batches - 1 or (batch + 1) % counted == 0:
            yield batch
        if batch >= batches - rest:
            counted = rest


@pytest.mark.parametrize("size", range(2, 9))
def test_where_timm_makes_a_step_too_many_it_is_said(size):
    for batches in range(1, 40):
        config = {**SCHEDULE, "grad_accum_steps": size}
        notes = from_timm(config, facts={"iters_per_epoch": batches}, strict=True).notes
        odd = len(list(steps_of_timm(batches, size))) != -(-batches // size)
        assert any("timm's loop makes two steps" in note for note in notes) == odd


def test_what_contradicts_the_facts():
    config = {**SCHEDULE, "grad_accum_steps": 2}
    with pytest.raises(SolverError, match=r"^grad_accum_steps: contradicts the facts; got 2, and facts 3"):
        from_timm(config, facts={"batches_per_step": 3})
    assert from_timm(config, facts={"batches_per_step": 2}, strict=True).spec.accumulate == 2


def test_the_rate_for_a_number_of_samples_counts_accumulated_ones():
    spec = from_timm({"opt": "sgd", "lr_base": 0.1, "grad_accum_steps": 4, "clip_grad": 1.0}, strict=True).spec
    assert (spec.base_batch_size, spec.accumulate) == (256, 4)


def test_lamb_keeps_its_own_clipping():
    config = {"opt": "lamb", "lr": 0.1, "opt_kwargs": {"max_grad_norm": 2.0}, "clip_grad": 1.0}
    spec = from_timm(config, strict=True).spec
    assert spec.optimizer.args["max_grad_norm"] == 2.0
    assert spec.clip == GlobalNorm(1.0)
    assert from_timm({**config, "clip_grad": None}, strict=True).spec.clip is None


FACTORY = {"create_optimizer_v2": {"opt": "adamw", "lr": 0.1}}


@pytest.mark.parametrize(
    "more",
    [
        {"clip": "dispatch_clip_grad(model.parameters(), value=2.0)"},
        {"clip": {"type": "dispatch_clip_grad", "value": 2.0}},
        {"clip": {"dispatch_clip_grad": {"value": 2.0}}},
        {"dispatch_clip_grad": {"value": 2.0, "mode": "norm"}},
        {"clip": "torch.nn.utils.clip_grad_norm_(parameters, 2.0)"},
        {"clip_grad": 2.0},
        {"clip-grad": 2.0, "clip-mode": "norm"},
    ],
)
def test_beside_a_factory(more):
    for others in (FACTORY, {**FACTORY, "create_scheduler_v2": {"sched": "cosine", "num_epochs": 9}}):
        imported = from_timm({**others, **more}, strict=True)
        assert imported.spec == from_timm(others).spec.replace(clip=GlobalNorm(2.0))
    averaged = from_timm({"average": "ModelEmaV3(model, decay=0.9)", **more}, strict=True).spec
    assert averaged.clip == GlobalNorm(2.0)
    assert set(averaged.averages) == {"ema"}


SCRIPT = """
optimizer = create_optimizer_v2(model, 'sgd', lr=0.1)
scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=10)
factor = 0.02
for epoch in range(epochs):
    for batch in loader:
        loss = model(batch)
        {}
"""


@pytest.mark.parametrize(
    ("statement", "clip"),
    [
        ("utils.dispatch_clip_grad(model.parameters(), value=factor)", GlobalNorm(0.02)),
        ("dispatch_clip_grad(model.parameters(), factor, 'value')", Value(0.02)),
        ("dispatch_clip_grad(model.parameters(), factor, mode='norm', norm_type=3)", GlobalNorm(0.02, 3.0)),
        ("dispatch_clip_grad(model_parameters(model, exclude_head=True), factor, 'agc')", AGC(0.02, spare_last=2)),
        ("dispatch_clip_grad(model_parameters(model), factor, mode='agc')", AGC(0.02)),
        (
            "dispatch_clip_grad(model_parameters(m, exclude_head='agc' in args.clip_mode), factor, 'agc')",
            AGC(0.02, spare_last=2),
        ),
        ("adaptive_clip_grad(list(model.parameters())[:-3], eps=1e-2)", AGC(0.01, 0.01, spare_last=3)),
        ("adaptive_clip_grad(model.stem.parameters())", AGC(of={"match": "stem.*"})),
        (
            "loss_scaler(loss, optimizer, clip_grad=0.5, clip_mode='value', parameters=model.parameters())",
            Value(0.5),
        ),
        (
            "loss_scaler(loss, optimizer, 0.5, 'agc', model_parameters(model, exclude_head=True))",
            AGC(0.5, spare_last=2),
        ),
        ("loss_scaler(loss, optimizer)", None),
    ],
)
@pytest.mark.parametrize("written", ["text", "file"])
def test_a_call_wherever_it_stands(statement, clip, written, tmp_path):
    config = SCRIPT.format(statement)
    if written == "file":
        path = tmp_path / "train.py"
        path.write_text(config)
        config = str(path)
    spec = from_timm(config).spec
    assert spec.clip == clip
    assert spec.optimizer.name == "SGD"
    assert set(spec.schedules) == {"lr"}


def test_a_condition_is_said():
    config = "if need_update:\n    dispatch_clip_grad(model.parameters(), value=1.0)"
    imported = from_timm(config, strict=True)
    assert imported.spec.clip == GlobalNorm(1.0)
    assert imported.notes == ("dispatch_clip_grad: stands under a condition that is taken to hold: need_update",)


@pytest.mark.parametrize(
    ("config", "unmapped"),
    [
        ("dispatch_clip_grad(model.parameters(), value=args.clip_grad)", "dispatch_clip_grad.value"),
        ("dispatch_clip_grad(model.parameters(), 1.0, mode=args.clip_mode)", "dispatch_clip_grad.mode"),
        ("adaptive_clip_grad(model.parameters(), eps=args.eps)", "adaptive_clip_grad.eps"),
        ("dispatch_clip_grad(chosen(model), 1.0)", "dispatch_clip_grad.parameters"),
        ("dispatch_clip_grad(model_parameters(model, True), 1.0)", "dispatch_clip_grad.parameters"),
        ("adaptive_clip_grad(model.stem.parameters()[:-2])", "adaptive_clip_grad.parameters"),
        ("adaptive_clip_grad(**options)", "adaptive_clip_grad"),
    ],
)
def test_what_cannot_be_told_is_not_mapped(config, unmapped):
    imported = from_timm(config)
    assert imported.spec.clip is None
    assert imported.unmapped == (unmapped,)
    with pytest.raises(SolverError, match="is not mapped"):
        from_timm(config, strict=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SCHEDULE, "clip_grad": 0.0}, r"^clip_grad: must be above 0.*; got 0\.0; correct it, or leave"),
        ({**SCHEDULE, "clip_grad": -1}, "^clip_grad: must be above 0.*; got -1"),
        ({**SCHEDULE, "clip_grad": "often"}, "^clip_grad: must be a number; got 'often'"),
        ({**SCHEDULE, "clip_grad": 1.0, "clip_mode": "norms"}, "^clip_mode: unknown value; got 'norms'; did you mean"),
        ({**SCHEDULE, "grad_accum_steps": 2.5}, r"^grad_accum_steps: must be a whole number; got 2\.5"),
        ("dispatch_clip_grad(parameters, 0)", r"^dispatch_clip_grad\.value: must be above 0"),
        ("dispatch_clip_grad(parameters)", r"^dispatch_clip_grad\.value: is missing"),
        ("dispatch_clip_grad(parameters, 1.0, 'nrm')", r"^dispatch_clip_grad\.mode: unknown value; got 'nrm'"),
        ("dispatch_clip_grad(parameters, 1.0, norm_type=0)", r"norm_type: is not an order of a norm; got 0"),
        ("adaptive_clip_grad(parameters, eps=-1)", r"^adaptive_clip_grad\.eps: must be at least 0"),
        ({"clip": "clip_gradients(1.0)"}, "^clip: is not a function that clips gradients; got 'clip_gradients'"),
        (
            {**FACTORY, "clip_grad": 1.0, "clip": "dispatch_clip_grad(parameters, 2.0)"},
            r"^clip_grad: gradients are clipped by a call too; got GlobalNorm \(max_norm 1\); give clip_grad, or the",
        ),
        (
            {**SCHEDULE, "clip_grad": 1.0, "clip": "dispatch_clip_grad(parameters, 2.0)"},
            "^clip_grad: gradients are clipped by a call too",
        ),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(SolverError, match=message):
        from_timm(config)


def test_a_misspelt_key_has_the_nearest_name():
    imported = from_timm({**SCHEDULE, "clip_grid": 1.0})
    assert imported.unmapped == ("clip_grid",)
    assert "clip_grid: is not part of the schedules; did you mean clip_grad?" in imported.notes
