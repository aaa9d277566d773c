"""The kinds of clipping as plain data: what is refused, how they are written, read, described and scheduled."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lightning_solver import SolverError, SolverSpec
from lightning_solver.clipping import (
    AGC,
    AutoClip,
    Clip,
    GlobalNorm,
    GroupNorm,
    NonFinite,
    ParameterNorm,
    Value,
    ZClip,
)
from lightning_solver.durations import RunLength
from lightning_solver.plain import subclasses
from lightning_solver.rule import Selector
from lightning_solver.schedules import Constant, Cosine, Linear, Plateau

NORMS = (GlobalNorm, GroupNorm, ParameterNorm)
SELECTED: dict[str, Any] = {"of": {"match": "backbone.*"}, "unless": [{"kind": "norm"}, {"ndim": 1}]}
EACH = [
    GlobalNorm(max_norm=1.0),
    GlobalNorm(max_norm=35, norm_type=1.0, eps=0.0, **SELECTED),
    GroupNorm(max_norm=0.5, norm_type="inf", schedule=Linear(start=1.0, end=0.5)),
    ParameterNorm(max_norm=2.0, norm_type=3.0, unless={"kind": "head"}),
    Value(max_value=0.5, schedule=[Linear(start=1.0, end=0.5, until="50%"), Cosine(end=0.1)]),
    AGC(),
    AGC(factor=0.1, eps=0.0, norm_type="inf", spare_last=2),
    AutoClip(percentile=50, window=7, norm_type=1.0),
    ZClip(),
    ZClip(threshold=3.0, decay=0.9, warmup=2, max_norm=1.0, factor=0.5, schedule=Cosine(end=0.1)),
]


def name_of(clip: Clip) -> str:
    return f"{type(clip).__name__}-{clip.describe()}"


# ---------------------------------------------------------------------- what is refused

LIMITED = [(cls, "max_norm") for cls in NORMS] + [(Value, "max_value"), (AGC, "factor"), (ZClip, "max_norm")]
POSITIVE = "{0}: must be above 0; got {1!r}; correct it, or leave the clipping out"


@pytest.mark.parametrize("limit", [0.0, -1.0])
@pytest.mark.parametrize(("cls", "field"), LIMITED)
def test_a_limit_that_is_not_above_0_is_refused(cls: type[Clip], field: str, limit: float) -> None:
    with pytest.raises(SolverError) as error:
        cls(**{field: limit})
    assert str(error.value) == POSITIVE.format(f"{cls.__name__}.{field}", limit)


@pytest.mark.parametrize("cls", [*NORMS, AGC, AutoClip])
@pytest.mark.parametrize("order", [0.0, -2.0])
def test_an_order_that_is_not_above_0_is_refused(cls: type[Clip], order: float) -> None:
    with pytest.raises(SolverError) as error:
        cls(norm_type=order, **limit_of(cls))
    assert str(error.value) == f"{cls.__name__}.norm_type: must be above 0, or inf; got {order!r}; correct it"


@pytest.mark.parametrize("cls", [*NORMS, AGC])
def test_what_is_added_to_norms_must_not_be_negative(cls: type[Clip]) -> None:
    with pytest.raises(SolverError) as error:
        cls(eps=-1e-6, **limit_of(cls))
    assert str(error.value) == f"{cls.__name__}.eps: must not be negative; got -1e-06; correct it"


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (AGC, {"spare_last": -1}, "AGC.spare_last: must not be negative; got -1; correct it"),
        (
            AutoClip,
            {"percentile": 0},
            "AutoClip.percentile: is out of range; got 0.0; give a value above 0, at most 100",
        ),
        (
            AutoClip,
            {"percentile": 100.5},
            "AutoClip.percentile: is out of range; got 100.5; give a value above 0, at most 100",
        ),
        (AutoClip, {"window": 0}, "AutoClip.window: must be at least 1; got 0; correct it"),
        (ZClip, {"threshold": 0.0}, "ZClip.threshold: must be above 0; got 0.0; correct it"),
        (ZClip, {"decay": 0.0}, "ZClip.decay: must be above 0 and below 1; got 0.0; correct it"),
        (ZClip, {"decay": 1.0}, "ZClip.decay: must be above 0 and below 1; got 1.0; correct it"),
        (ZClip, {"warmup": 1}, "ZClip.warmup: must be at least 2; got 1; correct it"),
        (ZClip, {"factor": 0.0}, "ZClip.factor: must be above 0 and at most 1; got 0.0; correct it"),
        (ZClip, {"factor": 1.5}, "ZClip.factor: must be above 0 and at most 1; got 1.5; correct it"),
        (NonFinite, {"in_a_row": 0}, "NonFinite.in_a_row: must be at least 1; got 0; correct it"),
        (
            AutoClip,
            {"schedule": Cosine()},
            "AutoClip.schedule: has nothing to move: this kind finds its limit itself; leave the schedule out",
        ),
        (
            ZClip,
            {"schedule": Cosine()},
            "ZClip.schedule: has nothing to move: this kind finds its limit itself; leave the schedule out",
        ),
        (
            AGC,
            {"schedule": []},
            "AGC.schedule: has no phases; got []; give at least one, or leave it out",
        ),
        (AGC, {"unless": []}, "AGC.unless: is empty; got []; leave it out"),
        (
            AGC,
            {"schedule": [Cosine(until="50%"), Plateau(monitor="loss")]},
            "AGC.schedule: a limit cannot follow a metric; got 'Plateau'; use a schedule of the number of the step",
        ),
        (GlobalNorm, {"max_norm": math.inf}, "GlobalNorm.max_norm: must be a finite number; got inf; give a finite"),
        (GlobalNorm, {"max_norm": "1"}, "GlobalNorm.max_norm: must be a number; got '1' (str); correct it"),
        (GlobalNorm, {"max_norm": True}, "GlobalNorm.max_norm: must be a number; got True (bool); correct it"),
        (GlobalNorm, {"max_norm": 1.0, "norm_type": "max"}, "GlobalNorm.norm_type: unknown value; got 'max'"),
        (AGC, {"spare_last": 1.5}, "AGC.spare_last: must be a whole number; got 1.5 (float); correct it"),
        (AGC, {"of": {"match": []}}, "match: is empty; got []; give at least one, or leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused(cls: type[Clip], given: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError) as error:
        cls(**given)
    assert message in str(error.value)


@pytest.mark.parametrize("cls", [*NORMS, Value])
def test_a_limit_has_no_default(cls: type[Clip]) -> None:
    with pytest.raises(TypeError, match="max_"):
        cls()
    with pytest.raises(SolverError, match=rf"^solver.clip.init_args: {cls.__name__} needs max_"):
        SolverSpec.from_dict({"clip": {"class_path": cls.__name__}})


def test_a_policy_is_one_of_three() -> None:
    with pytest.raises(SolverError, match=r"NonFinite.policy: unknown value; got 'skipp'; did you mean skip"):
        NonFinite(policy="skipp")  # type: ignore[arg-type]
    assert [NonFinite(policy=policy).policy for policy in ("error", "skip", "zero")] == ["error", "skip", "zero"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"class_path": "GlobalNrom"}, "solver.clip.class_path: there is no Clip of this name; got 'GlobalNrom'"),
        ({"class_path": "Clip"}, "solver.clip.class_path: there is no Clip of this name; got 'Clip'"),
        ({"max_norm": 1.0}, "solver.clip.max_norm: unknown key"),
        (
            {"class_path": "GlobalNorm", "init_args": {"max_nrom": 1.0}},
            "solver.clip.init_args.max_nrom: unknown key; got 'max_nrom'; did you mean max_norm",
        ),
        (
            {"class_path": "GlobalNorm", "init_args": {"max_norm": 0}},
            "solver.clip.init_args.max_norm: must be above 0",
        ),
        (
            [{"class_path": "AGC"}, {"class_path": "Value", "init_args": {"max_value": -1}}],
            "solver.clip[1].init_args.max_value: must be above 0",
        ),
        ([], "solver.clip: is empty; got []; give at least one, or leave it out"),
    ],
)
def test_a_block_is_read_strictly(block: Any, message: str) -> None:
    with pytest.raises(SolverError) as error:
        SolverSpec.from_dict({"clip": block})
    assert message in str(error.value)


def test_a_limit_is_no_option_of_the_optimiser() -> None:
    with pytest.raises(SolverError, match=r"schedules.clip: the limit of a clipping .*; write it as schedule: of the"):
        SolverSpec(clip=GlobalNorm(max_norm=1.0), schedules={"clip": Cosine()})


# ---------------------------------------------------------------------- written and read


@pytest.mark.parametrize("clip", EACH, ids=name_of)
def test_what_is_written_is_read_back(clip: Clip) -> None:
    spec = SolverSpec(clip=clip)
    written = spec.to_dict()
    assert SolverSpec.from_dict(written) == spec
    assert SolverSpec.from_dict(yaml.safe_load(yaml.safe_dump(written))) == spec
    assert written["clip"]["class_path"] == type(clip).__name__
    assert hash(spec.clip) == hash(SolverSpec.from_dict(written).clip)


def test_several_are_written_as_a_list_and_keep_their_order() -> None:
    spec = SolverSpec(clip=EACH)
    written = yaml.safe_load(yaml.safe_dump(spec.to_dict()))
    assert [block["class_path"] for block in written["clip"]] == [type(clip).__name__ for clip in EACH]
    assert SolverSpec.from_dict(written) == spec
    assert spec.clip == tuple(EACH)


def test_only_what_is_not_at_its_default_is_written() -> None:
    written = SolverSpec(clip=[AGC(), GlobalNorm(max_norm=1)], nonfinite=NonFinite()).to_dict()
    assert written["clip"] == [{"class_path": "AGC"}, {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0}}]
    assert written["nonfinite"] == {}
    assert SolverSpec.from_dict(written).nonfinite == NonFinite()
    assert "clip" not in SolverSpec().to_dict()


def test_yaml_names_kinds_by_their_short_names() -> None:
    text = """
    clip:
      - class_path: AGC
        init_args: {factor: 0.02, unless: {kind: head}}
      - class_path: GlobalNorm
        init_args:
          max_norm: 1
          norm_type: inf
          of: {match: [backbone.*, neck.*], ndim: 2}
          schedule: {class_path: Cosine, init_args: {end: 0.5}}
    """
    spec = SolverSpec.from_dict(yaml.safe_load(text))
    assert spec.clip == (
        AGC(factor=0.02, unless=Selector(kind="head")),
        GlobalNorm(
            max_norm=1.0,
            norm_type="inf",
            of=Selector(match=["backbone.*", "neck.*"], ndim=2),
            schedule=Cosine(end=0.5),
        ),
    )


def test_the_short_names_are_those_of_the_public_kinds() -> None:
    ours = {name for name, cls in subclasses(Clip).items() if cls.__module__.startswith("lightning_solver.")}
    assert ours == {"GlobalNorm", "GroupNorm", "ParameterNorm", "Value", "AGC", "AutoClip", "ZClip"}


def test_what_all_kinds_share_is_given_by_name() -> None:
    assert [field.name for field in fields(Clip)] == ["of", "unless", "schedule"]
    with pytest.raises(TypeError, match="positional"):
        Value(0.5, {"match": "*"})  # type: ignore[misc]


# ---------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (GlobalNorm(max_norm=1), "GlobalNorm (max_norm 1)"),
        (GlobalNorm(max_norm=35, norm_type="inf", eps=0), "GlobalNorm (max_norm 35, norm_type inf, eps 0)"),
        (Value(max_value=0.5, of={"match": "a.*"}), "Value (max_value 0.5) of match a.*"),
        (AGC(), "AGC"),
        (AGC(spare_last=2, unless={"kind": "head"}), "AGC (spare_last 2) unless kind head"),
        (AutoClip(window=7), "AutoClip (window 7)"),
        (ZClip(max_norm=1e-3), "ZClip (max_norm 0.001)"),
        (
            ZClip(max_norm=1.0, schedule=Cosine(), **SELECTED),
            "ZClip (max_norm 1) of match backbone.* unless kind norm unless ndim 1, scheduled",
        ),
    ],
)
def test_a_kind_says_what_is_not_at_its_default(clip: Clip, words: str) -> None:
    assert clip.describe() == words


# ---------------------------------------------------------------------- the limit over a run


def limit_of(cls: type[Clip]) -> dict[str, Any]:
    return {"max_norm": 1.0} if cls in NORMS else {}


@pytest.mark.parametrize("clip", EACH, ids=name_of)
def test_the_limit_is_one_number_a_step(clip: Clip) -> None:
    limits = clip.limits(total_steps=10)
    assert limits.shape == (10,)
    assert limits.dtype == np.float64
    if clip.schedule is None:
        assert (limits == clip.limit).all() if clip.limit is not None else np.isnan(limits).all()


def test_a_schedule_gives_factors_of_the_limit() -> None:
    given = Value(max_value=0.5, schedule=Linear(start=1.0, end=0.2))
    np.testing.assert_allclose(given.limits(total_steps=5), 0.5 * np.linspace(1.0, 0.2, 6)[:-1], rtol=1e-15)
    assert Value(max_value=0.5, schedule=Constant(2.0)).limits(total_steps=2).tolist() == [1.0, 1.0]


def test_phases_follow_one_another_and_may_be_in_epochs() -> None:
    phases = [Constant(4.0, until="1ep"), Linear(start=4.0, end=1.0, until="2ep"), Constant(1.0)]
    limits = GlobalNorm(max_norm=0.5, schedule=phases).limits(total_steps=12, steps_per_epoch=4)
    assert limits[:4].tolist() == [2.0] * 4
    assert limits[8:].tolist() == [0.5] * 4
    assert (np.diff(limits[3:9]) <= 0).all()


def test_a_step_has_the_same_limit_alone_as_among_all() -> None:
    clip = AGC(factor=0.3, schedule=[Linear(start=0.1, end=1.0, until="30%"), Cosine(end=0.5)])
    curve = clip.curve(RunLength(50))
    assert curve is not None
    assert [curve.at(step)[0] for step in range(50)] == clip.limits(total_steps=50).tolist()


def test_without_a_schedule_there_is_no_curve() -> None:
    assert AGC().curve(RunLength(5)) is None
    assert AutoClip().curve(RunLength(5)) is None


@pytest.mark.parametrize(
    ("schedule", "step"),
    [
        (Linear(start=0.0, end=1.0), 0),
        ((Linear(start=1.0, end=0.0, until="50%"), Constant("previous")), 5),
        (Constant(0.0), 0),
    ],
)
def test_a_limit_that_reaches_0_is_refused_before_the_run(schedule: Any, step: int) -> None:
    clip = GlobalNorm(max_norm=2.0, schedule=schedule)
    with pytest.raises(SolverError, match=rf"^clip\[1\].schedule: is not above 0 at step {step}; got .*stay above 0"):
        clip.curve(RunLength(10), "clip[1]")


def test_a_schedule_that_does_not_fit_the_run_is_refused() -> None:
    clip = GlobalNorm(max_norm=2.0, schedule=[Constant(1.0, until=20), Cosine()])
    with pytest.raises(SolverError, match=r"^clip.schedule\[0\]"):
        clip.curve(RunLength(10))


def test_a_run_without_an_end_has_a_limit_at_each_step() -> None:
    phases = [Linear(start=0.5, end=1.0, until=10), Constant(1.0)]
    curve = GlobalNorm(max_norm=2.0, schedule=phases).curve(RunLength(None))
    assert curve is not None
    assert curve.at(0)[0] == 1.0
    assert curve.at(10**6)[0] == 2.0


def test_a_gradient_is_clipped_by_the_limit_of_the_kind_or_the_one_that_is_given() -> None:
    weight = nn.Parameter(torch.zeros(2))
    for limit, expected in ((None, 1.0), (2.0, 2.0)):
        weight.grad = torch.tensor([3.0, 4.0])
        clipped = GlobalNorm(max_norm=1.0).over([weight]).apply(limit=limit)
        assert clipped.limit == expected
        assert float(weight.grad.norm()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clip", [AutoClip(), ZClip()])
def test_what_learns_is_not_applied_once(clip: AutoClip | ZClip) -> None:
    with pytest.raises(SolverError, match=r"Clip\.apply: learns from step to step, .*clipper = clip\.over\(model\)"):
        clip.apply([torch.zeros(2, requires_grad=True)])


@pytest.mark.parametrize("written", ["inf", float("inf")])
def test_the_greatest_value_is_written_as_torch_or_yaml_write_it(written: object) -> None:
    assert GlobalNorm(1.0, written) == GlobalNorm(1.0, "inf")  # type: ignore[arg-type]
