"""Norms of many gradients: their digits, their types, and what they are norms of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_solver.clipping import norms
from lightning_solver.clipping.norms import SMALL, TOGETHER, Gradients, by_device, joint_norm, order_of, tensor_norms

ORDERS = [0.5, 1.0, 2.0, 3.0, math.inf]


def gradients_of(tensors: Sequence[Tensor | None]) -> Gradients:
    parameters = [nn.Parameter(torch.zeros(3) if tensor is None else torch.zeros_like(tensor)) for tensor in tensors]
    for parameter, tensor in zip(parameters, tensors):
        parameter.grad = tensor
    return Gradients(parameters)


def exact(tensors: Sequence[Tensor], order: float) -> float:
    together = torch.cat([tensor.double().flatten() for tensor in tensors])
    if math.isinf(order):
        return float(together.abs().max())
    return float((together.abs() ** order).sum()) ** (1 / order)


FILLS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "normal": lambda n, g: torch.randn(n, generator=g),
    "alike": lambda n, g: torch.full((n,), 0.1),
    "growing": lambda n, g: torch.logspace(-6, 0, n) if n > 1 else torch.rand(1, generator=g),
    "tiny": lambda n, g: torch.rand(n, generator=g) * 1e-15,
    "huge": lambda n, g: torch.randn(n, generator=g) * 1e10,
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("size", "count"), [(1, 3000), (7, 20_000), (SMALL, 500)])
def test_the_norm_of_a_million_numbers_in_small_tensors_has_its_digits(
    size: int, count: int, order: float, fill: str
) -> None:
    numbers = torch.Generator().manual_seed(0)
    few = [FILLS[fill](size, numbers) for _ in range(100)]
    tensors = [few[i % 100] for i in range(count)]
    should = exact(few, order) if math.isinf(order) else exact(few, order) * (count / 100) ** (1 / order)
    found = gradients_of(tensors).norm(order)
    assert found.dtype is torch.float32
    assert float(found) == pytest.approx(should, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 100, SMALL, SMALL + 1, 5000]), min_size=1, max_size=30),
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    missing=st.integers(0, 30),
)
def test_the_norm_is_that_of_all_numbers(sizes: list[int], order: float, dtype: torch.dtype, missing: int) -> None:
    numbers = torch.Generator().manual_seed(1)
    tensors: list[Tensor | None] = [torch.randn(size, generator=numbers).to(dtype) for size in sizes]
    if missing < len(tensors):
        tensors[missing] = None
    there = [tensor for tensor in tensors if tensor is not None]
    found = gradients_of(tensors).norm(order)
    if sum(tensor.numel() for tensor in there) == 0:
        assert float(found) == 0.0
        return
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert found.dtype is wide
    assert found.shape == ()
    rtol = 1e-12 if dtype is torch.float64 else 1e-5 if dtype is torch.float32 else 1e-4
    assert float(found) == pytest.approx(exact(there, order), rel=rtol)


@pytest.mark.parametrize("order", ORDERS)
def test_small_gradients_may_all_be_empty(order: float) -> None:
    empty, large = torch.zeros(0), torch.ones(SMALL + 1)
    assert float(gradients_of([empty, empty]).norm(order)) == 0.0
    assert float(gradients_of([empty, None, large]).norm(order)) == pytest.approx(exact([large], order))


def test_a_norm_in_half_precision_is_summed_up_in_single_precision() -> None:
    """4,000 ones make 63.2; in bfloat16 they would stop counting at 256, and their squares overflow in float16."""
    for dtype in (torch.bfloat16, torch.float16):
        for sizes in ([4000], [1] * 4000):
            assert float(gradients_of([torch.ones(n, dtype=dtype) for n in sizes]).norm()) == pytest.approx(4000**0.5)
    assert float(gradients_of([torch.full((9,), 6e4, dtype=torch.float16)]).norm()) == pytest.approx(1.8e5, rel=1e-3)


def test_parameters_that_were_cast_after_a_look_at_them_are_summed_up_all_the_same() -> None:
    net = nn.Sequential(*[nn.Linear(5, 5) for _ in range(100)])
    gradients = Gradients(net.parameters())
    net.to(torch.bfloat16)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = gradients.norm()
    assert found.dtype is torch.float32
    assert float(found) == pytest.approx(3000**0.5, rel=1e-6)


def test_small_gradients_are_together_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    real = norms._norm

    def noted(tensor: Tensor, order: float) -> Tensor:
        joined.append(tensor.numel())
        return real(tensor, order)

    monkeypatch.setattr(norms, "_norm", noted)
    small, large = 3 * TOGETHER // 1000, 2
    gradients = gradients_of([torch.ones(1000)] * small + [torch.ones(SMALL + 1)] * large)
    assert float(gradients.norm(1.0)) == pytest.approx(1000 * small + large * (SMALL + 1))
    *batches, last = joined
    assert sum(batches) == 1000 * small
    assert all(TOGETHER <= batch <= TOGETHER + SMALL for batch in batches[:-1])
    assert last == len(batches) + large


def test_a_missing_or_sparse_gradient_among_small_ones_is_seen_each_time() -> None:
    gradients = gradients_of([torch.ones(4), torch.ones(5), torch.ones(7)])
    assert float(gradients.norm(1.0)) == 16.0
    gradients.parameters[1].grad = None
    assert float(gradients.norm(1.0)) == 11.0
    gradients.parameters[1].grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 2]]), torch.tensor([1.0, 1.0, -5.0]), (5,), check_invariants=True
    )
    assert float(gradients.norm(1.0)) == 18.0
    gradients.present()
    assert gradients.parameters[1].grad.is_coalesced()
    assert float(gradients.norm(math.inf)) == 5.0


def test_the_numbers_of_sparse_gradients_are_those_that_are_there() -> None:
    gradients = gradients_of([torch.ones(4), torch.ones(5)])
    gradients.parameters[0].grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([1.0, 2.0]), (4,), check_invariants=True
    )
    present = gradients.present()
    assert present[0].is_sparse
    ((values, other),) = gradients.parts(present)
    assert values.tolist() == [3.0]
    values.mul_(2)
    assert present[0].to_dense().tolist() == [0.0, 6.0, 0.0, 0.0]
    assert other is present[1]


def test_no_gradients_have_the_norm_0() -> None:
    assert float(Gradients([]).norm()) == 0.0
    gradients = gradients_of([None, None])
    assert float(gradients.norm()) == 0.0
    assert gradients.present() == []
    assert gradients.parts([]) == []


@pytest.mark.parametrize("order", ORDERS)
def test_a_norm_is_nan_or_infinite_if_a_number_is(order: float) -> None:
    for sizes in ([3, 4], [5000, 6000], [3, 5000]):
        for number in (math.nan, math.inf, -math.inf):
            tensors = [torch.ones(size) for size in sizes]
            tensors[1][2] = number
            found = float(gradients_of(tensors).norm(order))
            assert math.isnan(found) if math.isnan(number) else found == math.inf


@pytest.mark.parametrize("order", ORDERS)
def test_norms_of_parts_make_the_norm_of_all(order: float) -> None:
    tensors = [torch.randn(size, generator=torch.Generator().manual_seed(size)).double() for size in (3, 500, 1)]
    each = tensor_norms(tensors, order)
    assert each.tolist() == pytest.approx([exact([tensor], order) for tensor in tensors], rel=1e-12)
    assert float(joint_norm([each], order)) == pytest.approx(exact(tensors, order), rel=1e-12)
    assert float(joint_norm([each[:1], each[1:].reshape(2, 1)], order)) == pytest.approx(exact(tensors, order))


def test_orders_are_numbers() -> None:
    assert order_of("inf") == math.inf
    assert order_of(2) == 2.0
    assert isinstance(order_of(2), float)


def test_tensors_are_told_apart_by_their_devices() -> None:
    one, two, three = torch.zeros(1), torch.zeros(1, device="meta"), torch.ones(1)
    assert [[id(t) for t in part] for part in by_device([one, two, three])] == [[id(one), id(three)], [id(two)]]


def test_a_model_on_two_devices_has_its_norm_on_the_first() -> None:
    parameters = [nn.Parameter(torch.zeros(3, device=device)) for device in ("meta", "cpu", "meta")]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    assert Gradients(parameters).norm().device.type == "meta"
    assert [len(part) for part in Gradients(parameters).parts([p.grad for p in parameters if p.grad is not None])] == [
        2,
        1,
    ]
