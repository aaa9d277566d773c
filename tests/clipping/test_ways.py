"""What each kind does to gradients and what it measures, beside slow formulas in float64 and beside torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.clipping.ways import scale_each, scale_together

SOME = settings(max_examples=60, deadline=None)
ORDERS: list[Any] = [0.5, 1.0, 2.0, 3.0, "inf"]
SHAPES = [(), (0,), (1,), (3,), (2, 3), (3, 0), (0, 4), (2, 3, 1, 2), (1, 1), (5, 7), (70, 40), (2500,)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def made(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, scales: Sequence[float], seed: int = 0
) -> list[nn.Parameter]:
    """Parameters with gradients of many sizes; every fifth has none."""
    numbers = torch.Generator().manual_seed(seed)
    found = []
    for i, shape in enumerate(shapes):
        parameter = nn.Parameter(torch.randn(shape, generator=numbers).to(dtype))
        if i % 5 != 4:
            parameter.grad = (torch.randn(shape, generator=numbers) * scales[i % len(scales)]).to(dtype)
        found.append(parameter)
    return found


def copies(parameters: Sequence[Tensor]) -> list[nn.Parameter]:
    found = []
    for parameter in parameters:
        twin = nn.Parameter(parameter.detach().clone())
        twin.grad = None if parameter.grad is None else parameter.grad.clone()
        found.append(twin)
    return found


def norm_of(numbers: Sequence[float], order: Any) -> float:
    """The norm of numbers, by its definition."""
    if not numbers:
        return 0.0
    top = max(abs(number) for number in numbers)
    if order == "inf" or top == 0:
        return top
    return top * math.fsum((abs(number) / top) ** order for number in numbers) ** (1 / order)


def flat(tensors: Sequence[Tensor]) -> list[float]:
    return [number for tensor in tensors for number in tensor.double().flatten().tolist()]


def rows(tensor: Tensor) -> list[Tensor]:
    return list(tensor.unbind(0)) if tensor.ndim > 1 else [tensor]


# The reference gives the coefficient of each unit of each gradient: (units as views, their coefficients).


def by_norm(clip: Any, groups: list[list[Tensor]], weights: Any) -> list[tuple[list[Tensor], float]]:
    return [(own, min(1.0, clip.limit / (norm_of(flat(own), clip.norm_type) + clip.eps))) for own in groups if own]


def by_unit(clip: Any, groups: list[list[Tensor]], weights: list[Tensor]) -> list[tuple[list[Tensor], float]]:
    found = []
    for gradient, weight in zip((g for own in groups for g in own), weights):
        for unit, own in zip(rows(gradient), rows(weight)):
            allowed = clip.factor * max(norm_of(flat([own]), clip.norm_type), clip.eps)
            norm = norm_of(flat([unit]), clip.norm_type)
            found.append(([unit], min(1.0, allowed / max(norm, 1e-6))))
    return found


def expected(clip: Any, groups: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], dict[str, float]]:
    """The gradients of all parameters afterwards, in float64, and what is measured."""
    kept = [[p.grad.double().clone() for p in group if p.grad is not None] for group in groups]
    weights = [p.detach().double() for group in groups for p in group if p.grad is not None]
    every = [gradient for group in kept for gradient in group]
    order = getattr(clip, "norm_type", 2.0) if not isinstance(clip, (AGC, Value)) else 2.0
    before = norm_of(flat(every), order)
    if isinstance(clip, Value):
        numbers = flat(every)
        share = sum(abs(number) > clip.limit for number in numbers) / max(len(numbers), 1)
        for gradient in every:
            gradient.clamp_(-clip.limit, clip.limit)
    else:
        if isinstance(clip, AGC):
            scaled = by_unit(clip, kept, weights)
        elif isinstance(clip, ParameterNorm):
            scaled = by_norm(clip, [[gradient] for gradient in every], None)
        elif isinstance(clip, GroupNorm):
            scaled = by_norm(clip, kept, None)
        else:
            scaled = by_norm(clip, [every], None)
        share = sum(coefficient < 1.0 for _, coefficient in scaled) / max(len(scaled), 1)
        for units, coefficient in scaled:
            for unit in units:
                unit.mul_(coefficient)
    return every, {"norm": before, "clipped_norm": norm_of(flat(every), order), "share": share}


def clips(limit: float, order: Any) -> list[Clip]:
    return [
        GlobalNorm(max_norm=limit, norm_type=order),
        GroupNorm(max_norm=limit, norm_type=order),
        ParameterNorm(max_norm=limit, norm_type=order),
        Value(max_value=limit),
        AGC(factor=limit, norm_type=order),
    ]


def check(clip: Clip, groups: Sequence[Sequence[nn.Parameter]], rtol: float, *, measured: bool = True) -> None:
    gradients, figures = expected(clip, groups)
    without = [p for group in groups for p in group if p.grad is None]
    found = clip.apply(groups)
    present = [p.grad for group in groups for p in group if p.grad is not None]
    for gradient, should in zip(present, gradients, strict=True):
        torch.testing.assert_close(gradient.double(), should, rtol=rtol, atol=1e-10 if rtol < 1e-4 else 1e-3 * rtol)
    assert all(parameter.grad is None for parameter in without)
    if measured:
        for name, figure in figures.items():
            assert float(getattr(found, name)) == pytest.approx(figure, rel=max(rtol, 1e-6), abs=1e-9), name
    assert found.limit == clip.limit


@SOME
@given(
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=8),
    dtype=st.sampled_from(DTYPES),
    scales=st.lists(st.sampled_from([1e-3, 0.1, 1.0, 30.0]), min_size=1, max_size=3),
    limit=st.sampled_from([0.01, 0.5, 3.0, 1e4]),
    order=st.sampled_from(ORDERS),
    at=st.integers(0, 8),
    kind=st.integers(0, 4),
)
def test_each_kind_is_its_slow_formula(
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    scales: list[float],
    limit: float,
    order: Any,
    at: int,
    kind: int,
) -> None:
    parameters = made(shapes, dtype, scales)
    groups = [group for group in (parameters[:at], parameters[at:]) if group]
    close = CLOSE[dtype]
    # a share and a norm afterwards are those of the exact coefficients, which rounding of halves does not reach
    check(clips(limit, order)[kind], groups, close, measured=dtype in (torch.float32, torch.float64))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", range(5))
def test_types_are_mixed_within_a_model(kind: int, order: Any) -> None:
    """In float32, half precision and float64 beside one another, each is scaled by the one coefficient."""
    parameters = [p for dtype in DTYPES for p in made([(3, 2), (4,), ()], dtype, [2.0])]
    check(clips(0.7, order)[kind], [parameters[:5], parameters[5:]], 1e-2, measured=False)
    norm = GlobalNorm(max_norm=1.0, norm_type=order).apply(parameters).norm
    assert norm is not None
    assert norm.dtype is torch.float64


# ---------------------------------------------------------------------- beside torch

TORCH = [(torch.float64, 0.0), (torch.float32, 1e-6)]


def equal(one: Sequence[Tensor], other: Sequence[Tensor], rtol: float) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=rtol, atol=0.0, equal_nan=True)


@SOME
@given(
    shapes=st.lists(st.sampled_from([shape for shape in SHAPES if 0 not in shape]), min_size=1, max_size=8),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    limit=st.sampled_from([0.01, 3.0, 1e4]),
    order=st.sampled_from(ORDERS),
    scale=st.sampled_from([1e-20, 1e-6, 1.0, 1e10]),
)
def test_the_norm_of_all_and_of_each_are_clipped_as_torch_does(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, limit: float, order: Any, scale: float
) -> None:
    assume(not (dtype is torch.float32 and scale == 1e-20 and order == 3.0))  # torch's own powers vanish there
    parameters = made(shapes, dtype, [scale])
    for each in (False, True):
        ours, theirs = copies(parameters), copies(parameters)
        found = (ParameterNorm if each else GlobalNorm)(max_norm=limit, norm_type=order).apply(ours)
        rtol = 1e-14 if dtype is torch.float64 else 2e-6
        total = torch.zeros((), dtype=dtype)
        for some in [[p] for p in theirs] if each else [theirs]:
            total = clip_grad_norm_(some, limit, norm_type=float(order))
        equal(ours, theirs, rtol)
        if not each and any(p.grad is not None for p in ours):
            torch.testing.assert_close(found.norm, total, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [0.2, 35.0, 1e5])
def test_in_float64_one_norm_is_clipped_as_torch_does_bit_by_bit(limit: float, order: Any) -> None:
    ours = made(SHAPES[6:] + SHAPES[3:5], torch.float64, [1.0, 20.0])
    ours = [p for p in ours if p.numel()]
    theirs = copies(ours)
    found = GlobalNorm(max_norm=limit, norm_type=order).apply(ours)
    total = clip_grad_norm_(theirs, limit, norm_type=float(order))
    assert found.norm is not None
    assert torch.equal(found.norm, total)
    equal(ours, theirs, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_cut_off_as_torch_does_bit_by_bit(dtype: torch.dtype) -> None:
    ours = made(SHAPES, dtype, [0.1, 1.0])
    theirs = copies(ours)
    Value(max_value=0.3).apply(ours)
    clip_grad_value_(theirs, 0.3)
    equal(ours, theirs, 0.0)


BROKEN = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", BROKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_does_what_it_does_to_torch(dtype: torch.dtype, number: float, order: Any) -> None:
    """A norm that is infinite makes the rest 0 and itself nan; one that is nan makes all nan."""
    for each in (False, True):
        ours = made([(2, 3), (4,), (3000,)], dtype, [1.0])
        assert ours[1].grad is not None
        ours[1].grad[2] = number
        theirs = copies(ours)
        found = (ParameterNorm if each else GlobalNorm)(max_norm=0.5, norm_type=order).apply(ours)
        for some in [[p] for p in theirs] if each else [theirs]:
            clip_grad_norm_(some, 0.5, norm_type=float(order))
        equal(ours, theirs, 2e-6)
        assert found.norm is not None
        assert math.isnan(found.norm) if math.isnan(number) else math.isinf(found.norm)


@pytest.mark.parametrize("number", BROKEN)
def test_values_that_are_infinite_are_cut_off_and_nan_stays(number: float) -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([number, 0.1, 5.0])
    found = Value(max_value=0.5).apply([weight])
    assert weight.grad.tolist()[1:] == pytest.approx([0.1, 0.5])
    assert math.isnan(weight.grad[0]) if math.isnan(number) else weight.grad[0] == math.copysign(0.5, number)
    assert found.share is not None
    assert float(found.share) == pytest.approx((1 + math.isinf(number)) / 3)


@pytest.mark.parametrize("number", BROKEN)
def test_a_unit_that_is_not_finite_leaves_the_others_alone(number: float) -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.tensor([[number, 1.0], [1e-3, 1e-3], [3.0, 4.0]])
    AGC(factor=0.1).apply([weight])
    assert weight.grad[0].isnan().any()
    assert weight.grad[1].tolist() == pytest.approx([1e-3, 1e-3])
    assert float(weight.grad[2].norm()) == pytest.approx(0.1 * math.sqrt(2))


# ---------------------------------------------------------------------- figures of others

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = {
    case["id"]: case for peer in ("torch", "timm") for case in json.loads((GOLDEN / f"clip_{peer}.json").read_text())
}
NATIVE: dict[str, Clip] = {
    "torch/clip/quoted-norm-35": GlobalNorm(max_norm=35),
    "torch/clip/quoted-norm-0.2": GlobalNorm(max_norm=0.2),
    "torch/clip/value-0.5": Value(max_value=0.5),
    "torch/clip/value-5": Value(max_value=5),
    "timm/clip/agc-default": AGC(),
    "timm/clip/agc-0.1": AGC(factor=0.1),
    "timm/clip/agc-l1": AGC(factor=0.05, norm_type=1.0),
    "timm/clip/dispatch-agc": AGC(factor=0.02),
    "timm/clip/dispatch-norm": GlobalNorm(max_norm=1.0),
    "timm/clip/dispatch-value": Value(max_value=0.2),
}


def test_every_figure_has_its_kind() -> None:
    assert NATIVE.keys() == CASES.keys()


def golden(name: str, clip: Clip) -> None:
    case = CASES[name]
    gradients = [torch.tensor(gradient, dtype=torch.float64) for gradient in case["setting"]["grads"]]
    weights = case["setting"].get("params") or [torch.zeros_like(gradient).tolist() for gradient in gradients]
    parameters = [nn.Parameter(torch.tensor(weight, dtype=torch.float64)) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    found = clip.apply(parameters)
    for parameter, values in zip(parameters, case["values"], strict=True):
        torch.testing.assert_close(parameter.grad, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=1e-15)
    if "total_norm" in case:
        assert found.norm is not None
        assert float(found.norm) == pytest.approx(case["total_norm"], rel=1e-12)


@pytest.mark.parametrize("name", NATIVE)
def test_the_figures_of_others_are_met(name: str) -> None:
    golden(name, NATIVE[name])


def test_a_figure_can_be_missed() -> None:
    with pytest.raises(AssertionError, match="not close"):
        golden("timm/clip/agc-0.1", AGC(factor=0.1, norm_type=1.0))


# ---------------------------------------------------------------------- adaptive clipping


def composer_formula(weight: Tensor, gradient: Tensor, factor: float) -> Tensor:
    """Without a least norm: coefficient factor * |w| / |g|, at most 1; of 0 / 0 it is 1."""
    w, g = (t.flatten(1).norm(dim=1) if t.ndim > 1 else t.norm().reshape(1) for t in (weight, gradient))
    found = torch.tensor(
        [1.0 if a == b == 0 else min(1.0, factor * a / b if b else math.inf) for a, b in zip(w.tolist(), g.tolist())],
        dtype=weight.dtype,
    )
    return gradient * (found.reshape(-1, *[1] * (gradient.ndim - 1)) if gradient.ndim > 1 else found[0])


@pytest.mark.parametrize("shape", [(6, 3), (6,), (6, 2, 3, 3)])
def test_without_a_least_norm_a_unit_of_zeros_stays_there(shape: tuple[int, ...]) -> None:
    numbers = torch.Generator().manual_seed(2)
    weight = torch.randn(shape, generator=numbers, dtype=torch.float64)
    gradient = torch.randn(shape, generator=numbers, dtype=torch.float64)
    weight[:2], gradient[1], gradient[2] = 0, 0, 0
    if weight.ndim == 1:
        weight.zero_()
    parameter = nn.Parameter(weight)
    parameter.grad = gradient.clone()
    AGC(factor=0.1, eps=0.0).apply([parameter])
    torch.testing.assert_close(parameter.grad, composer_formula(weight, gradient, 0.1), rtol=1e-12, atol=0)
    assert not parameter.grad[0].any()
    if len(shape) > 1:
        assert parameter.grad[4].any()


def test_weights_of_0_move_on_where_there_is_a_least_norm() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    AGC(factor=0.1, eps=1e-3).apply([weight])
    torch.testing.assert_close(weight.grad, torch.tensor([[0.6e-4, 0.8e-4], [0.0, 0.0]]))


def test_tiny_gradients_are_not_blown_up() -> None:
    weight = nn.Parameter(torch.full((2, 2), 1e-12))
    weight.grad = torch.full((2, 2), 1e-9)
    AGC(factor=1.0).apply([weight])
    assert weight.grad.unique().tolist() == [float(torch.tensor(1e-9))]


def test_units_are_rows_channels_and_whole_vectors() -> None:
    shapes = [(3, 4), (2, 5, 3, 3), (7,), ()]
    parameters = made(shapes, torch.float64, [50.0])
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad += torch.sign(parameter.grad)
    found = AGC(factor=0.01).apply(parameters)
    for parameter in parameters:
        assert parameter.grad is not None
        for unit, weight in zip(rows(parameter.grad), rows(parameter.detach())):
            assert float(unit.norm()) == pytest.approx(0.01 * float(weight.norm()), rel=1e-9)
    assert found.share == 1.0


def test_the_last_parameters_are_spared() -> None:
    for count, spared in ((5, 0), (5, 2), (5, 4)):
        parameters = made([(3, 2)] * 4 + [(2,)], torch.float32, [10.0])
        parameters[4].grad = torch.full((2,), 9.0)
        before = copies(parameters)
        AGC(factor=0.01, spare_last=spared).apply(parameters)
        moved = [not torch.equal(a.grad, b.grad) for a, b in zip(parameters, before) if a.grad is not None and b.grad is not None]  # fmt: skip
        assert moved == [True] * (count - spared) + [False] * spared


# ---------------------------------------------------------------------- sparse, strided and shared memory


def embedded(dtype: torch.dtype = torch.float64, coalesced: bool = False) -> nn.Parameter:
    """A table whose gradient names one row twice."""
    weight = nn.Parameter(torch.linspace(0.1, 1.0, 18, dtype=dtype).reshape(6, 3))
    values = torch.linspace(-2.0, 1.5, 9, dtype=dtype).reshape(3, 3)
    gradient = torch.sparse_coo_tensor(torch.tensor([[4, 1, 4]]), values, (6, 3), check_invariants=True)
    weight.grad = gradient.coalesce() if coalesced else gradient
    return weight


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", range(5))
def test_a_sparse_gradient_is_clipped_like_the_dense_one(kind: int, order: Any, coalesced: bool) -> None:
    sparse = [embedded(coalesced=coalesced), *made([(2, 3), (4,)], torch.float64, [1.0])]
    dense = copies(sparse)
    assert dense[0].grad is not None
    dense[0].grad = dense[0].grad.to_dense()
    clip = clips(0.4, order)[kind]
    one, other = clip.apply([sparse[:2], sparse[2:]]), clip.apply([dense[:2], dense[2:]])
    assert sparse[0].grad is not None
    assert sparse[0].grad.is_sparse
    torch.testing.assert_close(sparse[0].grad.to_dense(), dense[0].grad)
    equal(sparse[1:], dense[1:], 1e-12)
    for name in ("norm", "clipped_norm", "share"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_a_table_of_scalars_and_one_that_is_sparse_in_two_dimensions() -> None:
    indices = torch.tensor([[0, 2, 2], [1, 0, 1]])
    for gradient in (
        torch.sparse_coo_tensor(indices, torch.tensor([3.0, 4.0, 5.0]), (3, 2), check_invariants=True),
        torch.sparse_coo_tensor(torch.tensor([[1, 2]]), torch.tensor([3.0, 4.0]), (3,), check_invariants=True),
    ):
        for clip in clips(0.4, 2.0):
            sparse, dense = (nn.Parameter(torch.ones(gradient.shape)) for _ in range(2))
            sparse.grad, dense.grad = gradient.clone(), gradient.to_dense()
            one, other = clip.apply([sparse]), clip.apply([dense])
            torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
            torch.testing.assert_close(one.share, other.share)


def layouts() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("kind", range(5))
def test_gradients_may_lie_in_memory_as_they_like(kind: int, layout: str) -> None:
    for shape in ((4, 3, 2, 2), (8, 30, 4, 4)):
        straight = made([shape, shape, (5,)], torch.float32, [1.0])
        odd = copies(straight)
        for parameter in odd[:2]:
            assert parameter.grad is not None
            parameter.grad = layouts()[layout](parameter.grad)
            assert not parameter.grad.is_contiguous()
        strides = [p.grad.stride() for p in odd if p.grad is not None]
        one, other = clips(0.3, 2.0)[kind].apply(straight), clips(0.3, 2.0)[kind].apply(odd)
        equal(straight, odd, 1e-6)
        assert [p.grad.stride() for p in odd if p.grad is not None] == strides
        torch.testing.assert_close(one.norm, other.norm)
        torch.testing.assert_close(one.share, other.share)


def test_an_expanded_gradient_is_not_written_to_twice_by_mistake() -> None:
    """Such a gradient has one number for several places: torch refuses to write into it, and so it is here."""
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.ones(1, 3).expand(2, 3)
    with pytest.raises(RuntimeError, match="single memory location"):
        GlobalNorm(max_norm=0.1).apply([weight])


# ---------------------------------------------------------------------- what is left alone

GENEROUS: list[Clip] = [
    *(clip for order in ORDERS for clip in clips(1e12, order) if not isinstance(clip, Value)),
    Value(max_value=6e4),
    ZClip(max_norm=1e12),
    ZClip(),
    AutoClip(percentile=100),
]


@pytest.mark.parametrize("clip", GENEROUS, ids=lambda clip: clip.describe())
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_touched_where_the_limit_is_not_reached(
    clip: Clip, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = made(SHAPES, dtype, [1.0])
    before = copies(parameters)
    places = [(p.grad.data_ptr(), p.grad._version) for p in parameters if p.grad is not None]
    found = clip.over(parameters).apply()
    equal(parameters, before, 0.0)
    after = [(p.grad.data_ptr(), p.grad._version) for p in parameters if p.grad is not None]
    if isinstance(clip, Value):  # which is cut off without a look
        assert [place for place, _ in after] == [place for place, _ in places]
    else:
        assert after == places
    assert found.share == 0.0
    assert found.norm is not None
    torch.testing.assert_close(found.norm, found.clipped_norm)


@pytest.mark.parametrize("kind", range(5))
def test_gradients_are_written_where_they_lie(kind: int) -> None:
    parameters = made(SHAPES, torch.float32, [10.0])
    tensors = [parameter.grad for parameter in parameters]
    places = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    clips(0.01, 2.0)[kind].apply(parameters)
    assert all(parameter.grad is tensor for parameter, tensor in zip(parameters, tensors))
    assert [None if tensor is None else tensor.data_ptr() for tensor in tensors] == places


@pytest.mark.parametrize("kind", range(5))
def test_weights_are_never_written_to_nor_do_gradients_get_a_history(kind: int) -> None:
    parameters = made(SHAPES, torch.float32, [10.0])
    before = [(parameter.detach().clone(), parameter._version) for parameter in parameters]
    clips(0.01, 2.0)[kind].apply(parameters)
    for parameter, (weight, version) in zip(parameters, before):
        assert torch.equal(parameter, weight)
        assert parameter._version == version
        assert parameter.grad is None or not parameter.grad.requires_grad


# ---------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("clip", [*clips(0.7, 2.0), AutoClip(), ZClip()])
def test_who_says_so_and_nobody_else_measures_the_norm_of_all_in_any_case(clip: Clip) -> None:
    clipper = clip.over([made([(3, 2), (4,)], torch.float32, [2.0]) for _ in range(2)])
    found = clipper.apply(measure=False).norm
    assert clip.by_joint_norm == (found is not None and not isinstance(clip, GroupNorm))


@pytest.mark.parametrize("kind", range(5))
def test_without_a_wish_to_measure_gradients_are_the_same(kind: int) -> None:
    one = made(SHAPES, torch.float32, [10.0])
    other = copies(one)
    clip = clips(0.05, 2.0)[kind]
    found = clip.over(one).apply(measure=False)
    clip.over(other).apply()
    equal(one, other, 0.0)
    by_product = isinstance(clip, (GlobalNorm, GroupNorm))
    assert (found.norm is not None) == by_product
    assert (found.clipped_norm is not None) == by_product
    assert (found.share is not None) == by_product


def test_a_share_is_of_groups_tensors_units_and_numbers() -> None:
    def gradients() -> list[list[nn.Parameter]]:
        big, small = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        big.grad, small.grad = torch.tensor([[30.0, 40.0], [0.003, 0.004]]), torch.tensor([0.3, 0.4])
        return [[big], [small], [nn.Parameter(torch.ones(3))]]

    shares = {
        GlobalNorm(max_norm=1.0): 1.0,
        GroupNorm(max_norm=1.0): 1 / 2,  # the third has no gradient
        ParameterNorm(max_norm=1.0): 1 / 2,
        AGC(factor=0.3): 2 / 3,
        Value(max_value=0.35): 3 / 6,
    }
    for clip, share in shares.items():
        found = clip.apply(gradients())
        assert found.share is not None
        assert float(found.share) == pytest.approx(share), clip
        assert found.norm is not None
        assert float(found.norm) == pytest.approx(math.sqrt(2500 + 25e-6 + 0.25), rel=1e-6)


def test_what_is_measured_has_no_history_and_one_number() -> None:
    for clip in [*clips(0.1, 2.0), AutoClip(), ZClip(max_norm=0.1)]:
        found = clip.over(made([(3, 4), (2,)], torch.float32, [1.0])).apply()
        for value in (found.norm, found.clipped_norm, found.share):
            assert value is not None
            assert value.shape == ()
            assert not value.requires_grad


# ---------------------------------------------------------------------- devices


def test_kinds_run_where_there_are_no_numbers() -> None:
    """On the meta device nothing can be read: what reads a number there would wait for a GPU."""
    for clip in [*(clip for order in ORDERS for clip in clips(0.1, order)), AutoClip(), ZClip(), ZClip(max_norm=1.0)]:
        with torch.device("meta"):
            parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            clipper = clip.over([parameters[:4], parameters[4:]])
        for _ in range(2):
            found = clipper.apply()
            assert found.norm is not None
            assert found.norm.device.type == "meta"


class Elsewhere:
    """Coefficients that say that they are on a GPU, and that nobody may wait for."""

    device = torch.device("cuda")

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def to(self, device: torch.device) -> Tensor:
        return self.values

    def unbind(self) -> tuple[Tensor, ...]:
        return self.values.unbind()


def test_on_a_gpu_everything_is_scaled_without_a_look_at_the_coefficient() -> None:
    tensors = [torch.full((3,), 2.0), torch.full((2, 2), 4.0), torch.full((1,), 8.0, dtype=torch.bfloat16)]
    for factor in (1.0, 0.5):
        versions = [tensor._version for tensor in tensors]
        scale_together([tensors[:2], tensors[2:]], Elsewhere(torch.tensor(factor)))  # type: ignore[arg-type]
        assert [tensor._version for tensor in tensors] == [version + 1 for version in versions]
    assert [float(tensor.flatten()[0]) for tensor in tensors] == [1.0, 2.0, 4.0]
    scale_each(tensors, Elsewhere(torch.tensor([1.0, 0.5, 0.25])))  # type: ignore[arg-type]
    assert [tensor.unique().tolist() for tensor in tensors] == [[1.0], [1.0], [1.0]]


def test_a_model_may_lie_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half is said to be on another device, which is the CPU all the same: what is moved is found out."""
    from lightning_solver.clipping import norms, units, ways

    apart = {"there": 0}

    def by_two(tensors: Any) -> list[list[Tensor]]:
        given = list(tensors)
        apart["there"] += len(given) > 1
        return [part for part in (given[: len(given) // 2], given[len(given) // 2 :]) if part]

    for clip in clips(0.4, 2.0):
        for module in (norms, units, ways):
            monkeypatch.setattr(module, "by_device", by_two)
        one = made([(3, 2), (4,), (2, 2), (3,), (5,)], torch.float64, [1.0])
        one.append(embedded())  # so that devices are asked for
        other = copies(one)
        found = clip.apply(one)
        monkeypatch.undo()
        should = clip.apply(other)
        for a, b in zip(one, other):
            if a.grad is not None and b.grad is not None:
                torch.testing.assert_close(a.grad.to_dense(), b.grad.to_dense())
        torch.testing.assert_close(found.norm, should.norm)
        torch.testing.assert_close(found.share, should.share)
    assert apart["there"] >= 5
