"""Weights and averages change places: what is exchanged, what is copied, and that nothing is lost on the way."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_solver.averaging import exchange as module_under_test
from lightning_solver.averaging.exchange import Exchange, may_exchange

FLAT = torch.zeros(8)


def free() -> tuple[Tensor, Tensor]:
    return nn.Parameter(torch.tensor([1.0, 2.0])), torch.tensor([3.0, 4.0])


def view() -> tuple[Tensor, Tensor]:
    return torch.tensor([0.0, 5.0, 6.0])[1:], torch.tensor([7.0, 8.0])


def rounded() -> tuple[Tensor, Tensor]:
    return nn.Parameter(torch.tensor([1.5, 2.5], dtype=torch.bfloat16)), torch.tensor([3.001, 4.001])


PAIRS = [free, free, view, view, rounded, rounded]


def made(in_place: bool = False) -> tuple[list[Tensor], list[Tensor], Exchange]:
    weights, averages = (list(part) for part in zip(*(pair() for pair in PAIRS)))
    return weights, averages, Exchange(weights, averages, in_place=in_place)


def sets(exchange: Exchange) -> tuple[list[Tensor], list[Tensor]]:
    """The trained weights and the averages, wherever they are, copied."""
    indices = range(len(PAIRS))
    return [exchange.weight(i).clone() for i in indices], [exchange.average(i).clone() for i in indices]


def assert_alike(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other))


# ---------------------------------------------------------------------- what is where


@pytest.mark.parametrize("in_place", [False, True])
def test_each_set_is_found_wherever_it_is(in_place: bool) -> None:
    weights, _, exchange = made(in_place)
    live, averages = sets(exchange)
    for swapped in (True, False, True, False):
        exchange.swap()
        assert exchange.swapped is swapped
        assert_alike(sets(exchange)[0], live)
        assert_alike(sets(exchange)[1], averages)
        expected = averages if swapped else live
        assert_alike([weight.detach() for weight in weights], [e.to(w.dtype) for e, w in zip(expected, weights)])


def test_memory_is_lent_and_the_tensors_of_the_model_stay_the_same_objects() -> None:
    weight, average = free()
    exchange = Exchange([weight], [average])
    own, lent = weight.data_ptr(), average.data_ptr()
    exchange.swap()
    assert (weight.data_ptr(), exchange.weight(0).data_ptr()) == (lent, own)
    exchange.swap()
    assert (weight.data_ptr(), exchange.average(0).data_ptr()) == (own, lent)
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad


def test_memory_that_is_looked_at_by_others_stays_where_it_is() -> None:
    flat = torch.arange(6.0)
    weights, averages = [flat[:2], flat[2:]], [torch.full((2,), 10.0), torch.full((4,), 20.0)]
    Exchange(weights, averages).swap()
    assert flat.tolist() == [10, 10, 20, 20, 20, 20]
    assert averages[1].tolist() == [2, 3, 4, 5]


def test_everything_is_copied_in_place_where_that_is_asked_for() -> None:
    weight, average = free()
    before = weight.data_ptr(), average.data_ptr()
    Exchange([weight], [average], in_place=True).swap()
    assert (weight.data_ptr(), average.data_ptr()) == before
    assert weight.tolist() == [3.0, 4.0]
    assert average.tolist() == [1.0, 2.0]


def test_weights_in_half_precision_come_back_as_they_were_and_the_average_keeps_its_digits() -> None:
    weight, average = rounded()
    live, exact = weight.detach().clone(), average.clone()
    exchange = Exchange([weight], [average])
    exchange.swap()
    assert torch.equal(weight.detach(), exact.bfloat16())
    exchange.swap()
    assert torch.equal(weight.detach(), live)
    assert torch.equal(average, exact)
    assert exchange._aside == {}


def test_gradients_and_version_checks_survive_an_exchange() -> None:
    weight, average = free()
    loss = (weight * weight).sum()
    exchange = Exchange([weight], [average])
    exchange.swap()
    exchange.swap()
    loss.backward()  # the graph still has the weights that it was made with
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 4.0]


def test_it_works_in_inference_mode_and_leaves_tensors_that_can_be_trained() -> None:
    weights, averages, exchange = made()
    with torch.inference_mode():
        exchange.swap()
        exchange.swap()
    assert not any(tensor.is_inference() for tensor in (*weights, *averages))
    weights[0].sum().backward()


# ---------------------------------------------------------------------- who may exchange memory


class Special(Tensor):
    pass


@pytest.mark.parametrize(
    ("weight", "average", "may"),
    [
        (torch.zeros(2), torch.zeros(2), True),
        (nn.Parameter(torch.zeros(2)), torch.zeros(2), True),
        (nn.Buffer(torch.zeros(2)), torch.zeros(2), True),
        (torch.zeros(()), torch.zeros(()), True),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),) * 2 + (True,),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.zeros(2, 3, 4, 5), False),
        (torch.zeros(2, 2).t(), torch.zeros(2, 2), False),
        (torch.zeros(4)[:2], torch.zeros(2), False),
        (torch.zeros(4)[2:], torch.zeros(2), False),
        (torch.zeros(2), torch.zeros(4)[2:], False),
        (torch.zeros(1).expand(2), torch.zeros(2), False),
        (torch.zeros(2).as_subclass(Special), torch.zeros(2), False),
        (torch.zeros(2), torch.zeros(2, device="meta"), False),
    ],
)  # fmt: skip
def test_memory_is_exchanged_only_where_both_own_all_of_it(weight: Tensor, average: Tensor, may: bool) -> None:
    assert may_exchange(weight, average) is may


# ---------------------------------------------------------------------- whatever happens


class Failure(BaseException):
    """Something that nobody expects, as an interrupt by the user is."""


def fail_at(number: int, run: Callable[[], object]) -> bool:
    """Raise ``Failure`` before the line of exchange.py that is the ``number``-th to run; whether it came to that.

    An interrupt arrives between any two lines. What follows the failure, which undoes what was done, is let run.
    """
    left = [number]

    def local_trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            if left[0] == 0:
                left[0] -= 1
                raise Failure
            left[0] -= 1
        return None if left[0] < 0 else local_trace

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local_trace if left[0] >= 0 and frame.f_code.co_filename == module_under_test.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except Failure:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_an_interrupt_between_any_two_lines_loses_nothing(swapped: bool, in_place: bool) -> None:
    number = 0
    lost: list[int] = []
    while True:
        weights, _, exchange = made(in_place)
        live, averages = sets(exchange)
        if swapped:
            exchange.swap()
        held = [weight.detach().clone() for weight in weights]
        if not fail_at(number, exchange.swap):
            break
        right = all(torch.equal(a, b) for a, b in zip(itertools.chain(*sets(exchange)), live + averages))
        # and what the model holds is what the exchange says that it holds
        expected = averages if exchange.swapped else live
        right = right and all(torch.equal(w.detach(), e.to(w.dtype)) for w, e in zip(weights, expected))
        if exchange.swapped is swapped:
            right = right and all(torch.equal(w.detach(), h) for w, h in zip(weights, held))
        exchange.swap()
        exchange.swap()
        right = right and all(torch.equal(a, b) for a, b in zip(itertools.chain(*sets(exchange)), live + averages))
        if not right:
            lost.append(number)
        number += 1
    assert number > 20  # there were that many lines to fail at
    assert lost == []


class Refusing(Tensor):
    """Copies of this tensor fail from a point on."""

    left = 0

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.copy_, Tensor.clone):
            cls.left -= 1
            if cls.left == 0:
                raise RuntimeError("out of memory")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_error_in_a_copy_loses_nothing(dtype: torch.dtype, swapped: bool) -> None:
    for failing in itertools.count(1):
        weights = [torch.tensor([1.0, 2.0], dtype=dtype).as_subclass(Refusing) for _ in range(3)]
        exchange = Exchange(weights, [torch.tensor([3.0, 4.0]) for _ in range(3)])
        if swapped:
            exchange.swap()
        Refusing.left = failing
        try:
            exchange.swap()
            break
        except RuntimeError as error:
            assert str(error) == "out of memory"  # noqa: PT017
        finally:
            Refusing.left = -1
        assert exchange.swapped is swapped
        for i in range(3):
            assert exchange.weight(i).tolist() == [1.0, 2.0]
            assert exchange.average(i).tolist() == [3.0, 4.0]
            assert weights[i].tolist() == ([3.0, 4.0] if swapped else [1.0, 2.0])
    assert failing > 3  # there were so many copies to fail at


# ---------------------------------------------------------------------- memory


def allocated(run: Callable[[], object]) -> int:
    """Bytes that operators asked for on the CPU while something ran."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


def test_exchanging_memory_takes_none() -> None:
    weights, averages = ([torch.zeros(1000, 100) for _ in range(5)] for _ in range(2))
    exchange = Exchange(weights, averages)
    assert allocated(exchange.swap) == 0


def test_copying_takes_the_memory_of_one_tensor_at_a_time() -> None:
    weights, averages = ([torch.zeros(1000, 100) for _ in range(5)] for _ in range(2))
    exchange = Exchange(weights, averages, in_place=True)
    peaks: list[int] = []
    now = 0
    with torch.profiler.profile(profile_memory=True) as profile:
        exchange.swap()
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peaks.append(now)
    assert 400_000 <= max(peaks) < 2 * 400_000 + 100_000
