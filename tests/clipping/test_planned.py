"""What a plan says of clippings: which tensors, in which groups, by which limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, RunLength, SolverError, SolverSpec
from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, GroupNorm, Value, ZClip
from lightning_solver.clipping.clip import numbered_clips
from lightning_solver.clipping.planned import plan_clips
from lightning_solver.plan import make_plan
from lightning_solver.schedules import Constant, Cosine, Linear


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
        self.frozen = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        self.frozen.requires_grad_(False)


def planned(clip: Any, net: nn.Module | None = None, total: int = 10, **options: Any) -> Any:
    spec = SolverSpec(OptimizerSpec("SGD", {"lr": 0.1, "weight_decay": 0.01}), clip=clip, **options)
    return make_plan(spec, net or Net(), RunLength(total, 5))


def test_one_or_several_or_none_are_numbered() -> None:
    one, two = Value(1.0), AGC()
    assert numbered_clips(None, "clip") == []
    assert numbered_clips(one, "clip") == [(one, "clip")]
    assert numbered_clips((one, two), "solver.clip") == [(one, "solver.clip[0]"), (two, "solver.clip[1]")]
    assert planned(None).clips == ()


def test_a_clipping_is_for_all_that_is_trained_by_the_groups_of_the_optimiser() -> None:
    net = Net()
    plan = planned(GroupNorm(1.0), net, rules=[{"kind": "norm", "weight_decay": 0.0}], default_rules=False)
    (clip,) = plan.clips
    assert clip.everything
    assert clip.curve is None
    assert set(clip.names) == {name for name, p in net.named_parameters() if p.requires_grad}
    assert len(clip.groups) == len(plan.groups) == 2
    for own, group in zip(clip.groups, plan.groups):
        assert [id(tensor) for tensor in own] == [id(tensor) for tensor in group.tensors]
    flat = [tensor for group in clip.groups for tensor in group]
    named = dict(net.named_parameters())
    assert [id(named[name]) for name in clip.names] == [id(tensor) for tensor in flat]


def test_selectors_leave_groups_out_that_have_nothing_for_it() -> None:
    rules = [{"kind": "norm", "weight_decay": 0.0}]
    plan = planned(GroupNorm(1.0, of={"kind": "norm"}), rules=rules, default_rules=False)  # type: ignore[arg-type]
    (clip,) = plan.clips
    assert not clip.everything
    assert sorted(clip.names) == ["backbone.1.bias", "backbone.1.weight"]
    assert len(clip.groups) == 1


def test_the_last_parameters_are_left_out_of_the_plan() -> None:
    (clip,) = planned(AGC(spare_last=2)).clips
    assert [name for name in clip.names if name.startswith("head")] == []
    assert len(clip.names) == 4


def test_clippings_keep_their_order_and_their_limits() -> None:
    clips: list[Clip] = [
        Value(0.5, schedule=Linear(start=1.0, end=0.5)),
        AGC(factor=0.02),
        AutoClip(),
        ZClip(max_norm=4.0, schedule=[Constant(1.0, until="1ep"), Cosine(end=0.5)]),
        ZClip(),
    ]
    plan = planned(clips)
    assert [type(clip.clip) for clip in plan.clips] == [Value, AGC, AutoClip, ZClip, ZClip]
    assert [clip.curve is None for clip in plan.clips] == [False, True, True, False, True]
    limits = plan.limits(np.arange(10))
    assert limits.shape == (10, 5)
    for column, clip in zip(limits.T, plan.clips):
        by_step = [np.nan if clip.limit(step) is None else clip.limit(step) for step in range(10)]
        np.testing.assert_array_equal(column, by_step)
        np.testing.assert_array_equal(column, clip.clip.limits(total_steps=10, steps_per_epoch=5))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (GlobalNorm(1.0, of={"match": "neck.*"}), r"^clip\.of\.match: "),  # type: ignore[arg-type]
        ([Value(1.0), GlobalNorm(1.0, of={"match": "neck.*"})], r"^clip\[1\]\.of\.match: "),  # type: ignore[arg-type]
        ([Value(1.0), AGC(unless={"match": "*"})], r"^clip\[1\]: is for no parameter that is trained"),  # type: ignore[arg-type]
        ([Value(1.0), AGC(schedule=Constant(0.0))], r"^clip\[1\]\.schedule: is not above 0 at step 0; got 0"),
        (AGC(schedule=[Constant(until=30), Cosine()]), r"^clip\.schedule\[0\]"),
        (GlobalNorm(1.0, of={"match": "frozen.*"}), r"^clip\.of"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_found_before_the_first_step(clip: Any, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        planned(clip)


def test_what_is_built_clips_what_was_planned() -> None:
    net = Net()
    (clip,) = planned(GlobalNorm(1.0, unless={"ndim": 1}), net).clips  # type: ignore[arg-type]
    clipper = clip.build()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    found = clipper.apply(limit=clip.limit(0))
    assert float(found.norm) == pytest.approx(2.0 * 36**0.5)  # type: ignore[arg-type]
    left = {name for name, p in net.named_parameters() if p.grad is not None and (p.grad == 2.0).all()}
    assert left == {name for name, p in net.named_parameters()} - {"backbone.0.weight", "head.weight"}
    assert clip.build() is not clipper


def test_each_build_learns_by_itself() -> None:
    (clip,) = planned(AutoClip(percentile=50)).clips
    one, other = clip.build(), clip.build()
    for tensor in clip.groups[0]:
        tensor.grad = torch.ones_like(tensor)
    one.apply()
    assert len(one.state_dict()["norms"]) == 1
    assert len(other.state_dict()["norms"]) == 0


def test_notes_are_added_to_those_of_the_plan() -> None:
    net = Net()
    notes = ["before"]
    trained = [p for p in net.parameters() if p.requires_grad]
    names = {id(p): name for name, p in net.named_parameters()}
    (clip,) = plan_clips(AGC(), net, [trained[:2], trained[2:]], RunLength(10), names=names, notes=notes)
    assert notes[0] == "before"
    assert [len(group) for group in clip.groups] == [2, 4]
