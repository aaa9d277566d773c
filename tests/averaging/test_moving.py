"""One pass over all averages: the same bits as ``lerp``, whichever kernel is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, moving
from lightning_solver.averaging.moving import Pairs, fused_agrees


def pairs(dtype: torch.dtype, *shapes: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    made = [torch.randn(2, *shape, dtype=torch.float64).to(dtype) for shape in shapes]
    return [both[0].clone() for both in made], [both[1].clone() for both in made]


SHAPES = ((), (1,), (3,), (17, 5), (64, 64), (40_000,), (2, 3, 5, 7), (0, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-4, 0.1, 0.3, 0.499, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_lerp_to_the_last_bit(dtype: torch.dtype, share: float, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        averages, weights = pairs(dtype, *SHAPES)
        wanted = [torch.lerp(a, w, share) for a, w in zip(averages, weights)]
        Pairs(averages, weights).move(share)
        assert all(torch.equal(a, w) for a, w in zip(averages, wanted))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_small_tensors_go_through_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    lerp = moving._fused_lerp
    monkeypatch.setattr(moving, "_fused_lerp", lambda a, w, s: (seen.append(len(a)), lerp(a, w, s)))
    averages, weights = pairs(torch.float32, *SHAPES)
    Pairs(averages, weights).move(0.1)
    assert fused_agrees(torch.float32)
    assert seen == [len(SHAPES) - 2]  # the large one and the empty one are left to lerp
    Pairs(averages, weights).move(0.6)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "make", [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t.to(memory_format=torch.channels_last)]
)
def test_tensors_with_gaps_or_another_order_are_left_to_lerp(make: object) -> None:
    shape = (2, 4, 3, 5) if "channels_last" in str(getattr(make, "__code__", "").co_names) else (6, 8)
    average, weight = make(torch.randn(shape)), torch.randn(make(torch.randn(shape)).shape)  # type: ignore[operator]
    wanted = torch.lerp(average, weight, 0.1)
    Pairs([average], [weight]).move(0.1)
    assert torch.equal(average, wanted)


def test_weights_that_are_laid_out_anew_in_mid_run_are_still_averaged_rightly() -> None:
    average, weight = torch.randn(6, 8), torch.randn(6, 8)
    both = Pairs([average], [weight])
    both.move(0.1)
    assert not both.moved()
    weight.data = weight.t().contiguous().t()
    assert both.moved()
    wanted = torch.lerp(average, weight, 0.1)
    Pairs([average], [weight]).move(0.1)
    assert torch.equal(average, wanted)


def test_an_average_notices_that_weights_are_laid_out_anew() -> None:
    weight = torch.randn(6, 8)
    average = EMA(decay=0.9).over([weight])
    average.update()
    weight.data = torch.randn(8, 6).t()
    wanted = torch.lerp(average.values[0], weight, 1 - 0.9)
    average.update()
    assert torch.equal(average.values[0], wanted)


def test_an_average_notices_that_a_weight_is_only_a_part_of_itself() -> None:
    weight = torch.randn(6, 8)
    average = EMA(decay=0.9).over({"head.weight": weight})
    average.update()
    average.update()
    weight.data = weight.data[:1]  # the same place in memory
    average.update()
    weight.data = weight.data.clone()
    with pytest.raises(SolverError, match=r"head.weight: has another shape.*got \(1, 8\) now, \(6, 8\) then"):
        average.update()


def test_a_kernel_that_does_not_agree_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
        raise AttributeError("there is no such kernel in this release")

    monkeypatch.setattr(moving, "_fused_lerp", wrong)
    fused_agrees.cache_clear()
    try:
        averages, weights = pairs(torch.float32, (5, 5), (3,))
        wanted = [torch.lerp(a, w, 0.1) for a, w in zip(averages, weights)]
        Pairs(averages, weights).move(0.1)
        assert all(torch.equal(a, w) for a, w in zip(averages, wanted))
    finally:
        fused_agrees.cache_clear()
