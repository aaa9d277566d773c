"""Windows against a simulation that counts batch by batch."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from lightning_solver.accumulation import Accumulation, Windows

sizes = st.integers(1, 9)


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    unit = draw(st.sampled_from(["st", "ep"]))
    points = st.integers(1, 40).map(Fraction) if unit == "st" else st.fractions(0, 4, max_denominator=12)
    starts = sorted({Fraction(0), *draw(st.lists(points, max_size=4))})
    return Windows(unit, tuple(starts), tuple(draw(sizes) for _ in starts))


def position(unit: str, step: int, epoch: int, batch: int, batches: int) -> Fraction:
    return Fraction(step) if unit == "st" else epoch + Fraction(batch, batches)


def simulated(found: Windows, step: int, epoch: int, batches: int) -> list[int]:
    """The lengths of the windows of an epoch: each batch is put into the one that is open."""
    lengths: list[int] = []
    left = 0
    for batch in range(batches):
        if left == 0:
            now = position(found.unit, step + len(lengths), epoch, batch, batches)
            left = [size for start, size in zip(found.starts, found.sizes) if start <= now][-1]
            lengths.append(0)
        lengths[-1] += 1
        left -= 1
    return lengths


@given(windows(), st.integers(0, 60), st.integers(0, 6), st.integers(1, 60))
def test_steps_of_an_epoch_are_those_of_a_simulation(found: Windows, step: int, epoch: int, batches: int) -> None:
    lengths = simulated(found, step, epoch, batches)
    assert found.steps_in_epoch(step, epoch, batches) == len(lengths)
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    for number, (begin, length) in enumerate(zip(begins, lengths)):
        size = found.size_at(step + number, epoch, begin, batches)
        assert length == min(size, batches - begin)


@given(windows(), st.integers(0, 60), st.integers(0, 6), st.integers(1, 60))
def test_a_strategy_that_accumulates_by_itself_drops_a_short_last_window(
    found: Windows, step: int, epoch: int, batches: int
) -> None:
    lengths = simulated(found, step, epoch, batches)
    last = found.size_at(step + len(lengths) - 1, epoch, sum(lengths[:-1]), batches)
    short = lengths[-1] < last and len(lengths) > 1
    assert found.steps_in_epoch(step, epoch, batches, whole_only=True) == len(lengths) - short


@given(sizes, st.integers(1, 60))
def test_a_constant_size_makes_as_many_steps_as_it_takes(size: int, batches: int) -> None:
    found = Accumulation(size).windows(None)
    assert found.constant == size
    assert found.steps_in_epoch(5, 3, batches) == -(-batches // size)


def test_an_epoch_in_a_word() -> None:
    found = Accumulation({0: 1, "0.5ep": 4}).windows(None)
    assert found.within_epochs
    assert simulated(found, 0, 0, 10) == [1, 1, 1, 1, 1, 4, 1]
    assert found.steps_in_epoch(0, 0, 10) == 7
    assert found.steps_in_epoch(7, 1, 10) == 3


def test_a_window_that_has_begun_is_finished_first() -> None:
    found = Accumulation({0: 4, "0.5ep": 1}).windows(None)
    assert simulated(found, 0, 0, 10) == [4, 4, 1, 1]  # the point lies within the second window
    assert found.steps_in_epoch(0, 0, 10) == 4


def test_points_in_whole_epochs_need_no_length_of_an_epoch() -> None:
    found = Accumulation({0: 1, "2ep": 4}).windows(None)
    assert not found.within_epochs
    assert [found.size_at(0, epoch, 7, None) for epoch in range(4)] == [1, 1, 4, 4]


def test_points_in_steps() -> None:
    found = Accumulation({0: 3, 2: 1}).windows(None)
    assert simulated(found, 0, 0, 10) == [3, 3, 1, 1, 1, 1]
    assert found.steps_in_epoch(0, 0, 10) == 6
    assert found.steps_in_epoch(6, 1, 10) == 10


def test_many_steps_are_counted_without_walking_through_them() -> None:
    found = Accumulation({0: 1, "0.25ep": 3}).windows(None)
    assert found.steps_in_epoch(0, 0, 4_000_000_000) == 2_000_000_000
