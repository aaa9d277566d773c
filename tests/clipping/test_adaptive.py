"""Limits that are learnt: ``AutoClip`` beside numpy's percentile, ``ZClip`` beside its algorithm in plain numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_solver.clipping import AutoClip, Clip, ZClip
from lightning_solver.clipping.clipper import Clipper

SOME = settings(max_examples=60, deadline=None)
NORMS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


class Steps:
    """A clipping over two parameters, whose gradients are given norms."""

    def __init__(self, clip: Clip, dtype: torch.dtype = torch.float64) -> None:
        self.parameters = [nn.Parameter(torch.zeros(3, 2, dtype=dtype)), nn.Parameter(torch.zeros(4, dtype=dtype))]
        self.clipper: Clipper = clip.over(self.parameters)

    def norm_after(self, norm: float, limit: float | None = None) -> float:
        """What is left of a gradient of a norm."""
        for parameter in self.parameters:
            parameter.grad = torch.full_like(parameter, norm / math.sqrt(10))
        self.found = self.clipper.apply(limit=limit)
        return math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.parameters if p.grad is not None))

    def over(self, norms: Sequence[float]) -> list[float]:
        return [self.norm_after(norm) for norm in norms]


def resumed(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# ---------------------------------------------------------------------- AutoClip


def by_percentile(norms: Sequence[float], percentile: float, window: int) -> list[float]:
    """Seetharaman et al.: the limit is a percentile of the norms so far, the present one included."""
    found = []
    for step, norm in enumerate(norms):
        limit = float(np.percentile(norms[max(0, step + 1 - window) : step + 1], percentile))
        found.append(norm if norm <= limit else limit)
    return found


@SOME
@given(norms=NORMS, percentile=st.sampled_from([1.0, 10.0, 33.3, 50.0, 90.0, 100.0]), window=st.integers(1, 35))
def test_the_limit_is_a_percentile_of_the_latest_norms(norms: list[float], percentile: float, window: int) -> None:
    steps = Steps(AutoClip(percentile=percentile, window=window))
    for norm, should in zip(norms, by_percentile(norms, percentile, window)):
        assert steps.norm_after(norm) == pytest.approx(should, rel=1e-9, abs=1.01e-6)
        assert float(steps.found.clipped_norm) == pytest.approx(should, rel=1e-9, abs=1.01e-6)  # type: ignore[arg-type]
        assert float(steps.found.norm) == pytest.approx(norm, rel=1e-12)  # type: ignore[arg-type]


def test_the_percentile_is_numpys_digit_by_digit() -> None:
    norms = np.random.default_rng(0).lognormal(size=200)
    steps = Steps(AutoClip(percentile=37.5, window=50))
    for step, norm in enumerate(norms):
        steps.norm_after(float(norm))
        limit = np.percentile(norms[max(0, step - 49) : step + 1], 37.5)
        assert float(steps.found.limit) == pytest.approx(limit, rel=1e-12)  # type: ignore[arg-type]


def test_a_norm_at_the_percentile_is_left_alone() -> None:
    """However small it is; a division by the norm and 1e-6 would take half of it away."""
    steps = Steps(AutoClip(percentile=100))
    for norm in (1e-6, 1e-7, 1e-6):
        steps.norm_after(norm)
        assert float(steps.found.share) == 0.0  # type: ignore[arg-type]
        assert float(steps.found.clipped_norm) == float(steps.found.norm)  # type: ignore[arg-type]


def test_a_share_says_whether_it_clipped() -> None:
    steps = Steps(AutoClip(percentile=50))
    shares = []
    for norm in (1.0, 1.0, 5.0, 0.5):
        steps.norm_after(norm)
        shares.append(float(steps.found.share))  # type: ignore[arg-type]
    assert shares == [0.0, 0.0, 1.0, 0.0]


def test_the_order_of_the_norm_is_kept_to() -> None:
    steps = Steps(AutoClip(percentile=50, norm_type="inf"))
    steps.norm_after(math.sqrt(10))
    assert float(steps.found.norm) == pytest.approx(1.0)  # type: ignore[arg-type]
    steps = Steps(AutoClip(percentile=50, norm_type=1.0))
    steps.norm_after(math.sqrt(10))
    assert float(steps.found.norm) == pytest.approx(10.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_norms_that_are_not_finite_are_not_remembered(number: float) -> None:
    norms = [3.0, 1.0, 2.0, 5.0, 4.0, 2.5]
    clean, broken = Steps(AutoClip(percentile=60, window=3)), Steps(AutoClip(percentile=60, window=3))
    broken.norm_after(number)
    for norm in norms:
        assert clean.norm_after(norm) == broken.norm_after(norm)
        broken.norm_after(number)
    same(clean.clipper.state_dict(), broken.clipper.state_dict())
    assert math.isnan(broken.found.norm) or math.isinf(broken.found.norm)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- ZClip


class Published:
    """Algorithm 1 of Kumar et al. 2025 with reciprocal clipping, on numbers."""

    def __init__(self, clip: ZClip) -> None:
        self.clip, self.first, self.mean, self.variance = clip, list[float](), math.nan, math.nan
        self.spikes = 0

    def norm_after(self, norm: float) -> float:
        clip, most = self.clip, math.inf if self.clip.max_norm is None else self.clip.max_norm
        if len(self.first) < clip.warmup:
            self.first.append(norm)
            if len(self.first) == clip.warmup:
                self.mean = math.fsum(self.first) / clip.warmup
                self.variance = math.fsum((x - self.mean) ** 2 for x in self.first) / clip.warmup
            return min(norm, most)
        deviation = math.sqrt(self.variance)
        z = (norm - self.mean) / (deviation + 1e-6)
        reached = norm
        if z > clip.threshold:
            self.spikes += 1
            reached = clip.factor * (self.mean + clip.threshold * deviation * clip.threshold / z)
        self.mean = clip.decay * self.mean + (1 - clip.decay) * reached
        self.variance = clip.decay * self.variance + (1 - clip.decay) * (reached - self.mean) ** 2
        return min(norm, reached, most)


def spiky(length: int, seed: int = 0) -> list[float]:
    numbers = np.random.default_rng(seed)
    norms = 1.0 + 0.1 * numbers.standard_normal(length)
    norms[numbers.random(length) < 0.15] *= 8.0
    return [float(norm) for norm in norms]


ZCLIPS = [
    ZClip(),
    ZClip(warmup=5),
    ZClip(warmup=2, decay=0.5, threshold=1.0),
    ZClip(warmup=10, max_norm=1.05),
    ZClip(warmup=10, factor=0.5),
    ZClip(warmup=10, factor=0.7, max_norm=0.9, threshold=3.0),
]


@pytest.mark.parametrize("clip", ZCLIPS, ids=lambda clip: clip.describe())
@pytest.mark.parametrize("seed", [0, 1])
def test_spikes_are_scaled_down_as_published(clip: ZClip, seed: int) -> None:
    steps, plain = Steps(clip), Published(clip)
    for norm in spiky(120, seed):
        assert steps.norm_after(norm) == pytest.approx(plain.norm_after(norm), rel=3e-6)
    assert plain.spikes > 3
    state = steps.clipper.state_dict()
    assert state["mean"] == pytest.approx(plain.mean, rel=1e-12)
    assert state["variance"] == pytest.approx(plain.variance, rel=1e-9)


@SOME
@given(norms=NORMS, which=st.integers(0, len(ZCLIPS) - 1))
def test_any_norms_are_scaled_as_published(norms: list[float], which: int) -> None:
    steps, plain = Steps(ZCLIPS[which]), Published(ZCLIPS[which])
    for norm in norms:
        assert steps.norm_after(norm) == pytest.approx(plain.norm_after(norm), rel=1e-6, abs=1.1e-6)


@pytest.mark.parametrize("norm", [1e-3, 0.1, 100.1, 3e4])
def test_norms_that_do_not_change_are_no_spikes_in_single_precision_either(norm: float) -> None:
    """Their deviation is 0: what single precision rounds away must not look like one."""
    steps = Steps(ZClip(warmup=3), torch.float32)
    for _ in range(60):
        steps.norm_after(norm)
        assert float(steps.found.share) == 0.0  # type: ignore[arg-type]


def test_in_the_first_steps_nothing_is_clipped_but_by_the_greatest_norm() -> None:
    assert Steps(ZClip(warmup=4)).over([1.0, 9.0, 2.0, 700.0]) == pytest.approx([1.0, 9.0, 2.0, 700.0], rel=1e-12)
    found = Steps(ZClip(warmup=4, max_norm=1.5)).over([1.0, 9.0, 2.0, 700.0])
    assert found == pytest.approx([1.0, 1.5, 1.5, 1.5], rel=1e-6)


def test_a_limit_that_is_given_takes_the_place_of_the_greatest_norm() -> None:
    steps = Steps(ZClip(warmup=4, max_norm=100.0))
    assert steps.norm_after(9.0, limit=2.0) == pytest.approx(2.0, rel=1e-6)
    assert float(steps.found.limit) == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("clip", ZCLIPS[1:3], ids=lambda clip: clip.describe())
def test_norms_that_are_not_finite_do_not_enter_the_statistics(clip: ZClip, number: float) -> None:
    clean, broken = Steps(clip), Steps(clip)
    for norm in spiky(40):
        broken.norm_after(number)
        assert clean.norm_after(norm) == broken.norm_after(norm)
    same(clean.clipper.state_dict(), broken.clipper.state_dict())


# ---------------------------------------------------------------------- going on


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


LEARNING = [*ZCLIPS[:4], AutoClip(percentile=30), AutoClip(percentile=30, window=7), AutoClip(window=1, percentile=50)]


@pytest.mark.parametrize("clip", LEARNING, ids=lambda clip: clip.describe())
@pytest.mark.parametrize("at", [1, 7, 26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_that_goes_on_is_bitwise_a_straight_one(clip: Clip, at: int, dtype: torch.dtype) -> None:
    norms = spiky(40)
    straight, first, second = Steps(clip, dtype), Steps(clip, dtype), Steps(clip, dtype)
    should = straight.over(norms)
    assert first.over(norms[:at]) == should[:at]
    state = first.clipper.state_dict()
    kept = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    second.clipper.load_state_dict(resumed(state))
    assert second.over(norms[at:]) == should[at:]
    same(straight.clipper.state_dict(), second.clipper.state_dict())
    first.over(norms[at:])
    same(state, kept)  # what was stored does not move on


@pytest.mark.parametrize("clip", LEARNING, ids=lambda clip: clip.describe())
def test_loading_takes_the_place_of_what_was_learnt_and_leaves_the_file_alone(clip: Clip) -> None:
    norms = spiky(60)
    straight, other = Steps(clip), Steps(clip)
    straight.over(norms[:30])
    state = straight.clipper.state_dict()
    other.over(spiky(45, seed=9))
    other.clipper.load_state_dict(state)
    again = resumed(state)
    assert other.over(norms[30:]) == straight.over(norms[30:])
    same(state, again)


def test_a_window_of_another_length_goes_on_with_the_latest_norms() -> None:
    norms = [float(n) for n in range(1, 13)]
    for now, kept in ((5, norms[-5:]), (20, norms[-10:])):
        steps, other = Steps(AutoClip(percentile=40, window=10)), Steps(AutoClip(percentile=40, window=now))
        steps.over(norms)
        other.clipper.load_state_dict(steps.clipper.state_dict())
        other.norm_after(0.5)
        should = np.percentile([*kept, 0.5][-now:], 40)
        assert float(other.found.limit) == pytest.approx(should)  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "now"), [(4, 9), (9, 4)])
def test_another_warm_up_goes_on_with_the_norms_that_there_were(before: int, now: int) -> None:
    norms = spiky(40)
    one, other, straight = Steps(ZClip(warmup=before)), Steps(ZClip(warmup=now)), Steps(ZClip(warmup=now))
    one.over(norms[:3])
    other.clipper.load_state_dict(one.clipper.state_dict())
    other.over(norms[3:])
    straight.over(norms)
    same(other.clipper.state_dict(), straight.clipper.state_dict())


def test_a_longer_warm_up_keeps_statistics_that_were_there() -> None:
    one, other = Steps(ZClip(warmup=4)), Steps(ZClip(warmup=9))
    one.over(spiky(6))
    other.clipper.load_state_dict(one.clipper.state_dict())
    for norm in (1.0, 50.0, 1.1):
        assert other.norm_after(norm) == one.norm_after(norm)
    assert other.norm_after(50.0) < 2.0


def test_a_shorter_warm_up_than_what_has_passed_ends_with_the_next_step() -> None:
    one, other = Steps(ZClip(warmup=9)), Steps(ZClip(warmup=4))
    one.over([1.0, 1.1, 0.9, 1.0, 1.1, 0.9])
    other.clipper.load_state_dict(one.clipper.state_dict())
    assert other.over([1.0, 1.0]) == pytest.approx([1.0, 1.0])
    assert other.norm_after(50.0) < 2.0


def test_what_learns_nothing_stores_nothing() -> None:
    from lightning_solver.clipping import AGC, GlobalNorm, GroupNorm, ParameterNorm, Value

    for clip in (AGC(), GlobalNorm(1.0), GroupNorm(1.0), ParameterNorm(1.0), Value(1.0)):
        steps = Steps(clip)
        steps.over([1.0, 2.0])
        assert steps.clipper.state_dict() == {}
        steps.clipper.load_state_dict({})


def test_a_state_is_on_the_cpu_and_of_plain_data() -> None:
    for clip in LEARNING:
        steps = Steps(clip)
        steps.over(spiky(10))
        for value in steps.clipper.state_dict().values():
            assert isinstance(value, (int, float)) or value.device.type == "cpu"


def test_what_is_learnt_moves_to_where_the_gradients_are() -> None:
    """Gradients on the meta device: nothing of what was learnt may stay behind."""
    for clip in (AutoClip(), ZClip(warmup=3)):
        steps = Steps(clip)
        steps.over([1.0, 2.0])
        meta = clip.over([nn.Parameter(torch.zeros(3, device="meta"))])
        meta.load_state_dict(steps.clipper.state_dict())
        meta.groups[0][0].grad = torch.ones(3, device="meta")
        found = meta.apply()
        assert found.clipped_norm is not None
        assert found.clipped_norm.device.type == "meta"
