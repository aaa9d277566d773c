"""Averages that are moved in a thread: here beside weights on the CPU, where the thread is the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from lightning_solver.averaging.offload import Offload


def made(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[torch.Tensor], Offload]:
    weights = [torch.full((3,), 2.0, dtype=dtype), torch.full((2, 2), -2.0, dtype=dtype)]
    averages = [torch.zeros(3), torch.zeros(2, 2)]
    return weights, averages, Offload(averages, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_move_by_the_share_of_the_weights(dtype: torch.dtype) -> None:
    _, averages, offload = made(dtype)
    for share, expected in ((1.0, 2.0), (0.5, 2.0)):
        offload.move(share)
        offload.finish()
        assert averages[0].tolist() == [expected] * 3
    averages[0].zero_()
    offload.move(0.25)
    offload.finish()
    assert averages[0].tolist() == [0.5] * 3
    assert averages[1].unique().tolist() == [-2.0]
    assert averages[0].dtype == torch.float32


class Held:
    """Holds the thread up until it is let go."""

    def __init__(self, offload: Offload, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.threads = threading.Event(), []
        move = offload._move

        def waiting(share: float, copied: Any) -> None:
            self.threads.append(threading.current_thread().name)
            assert self.go.wait(10)
            move(share, copied)

        monkeypatch.setattr(offload, "_move", waiting)


def test_the_program_goes_on_meanwhile_and_may_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, averages, offload = made()
    held = Held(offload, monkeypatch)
    offload.move(0.5)  # comes back although the thread is held up
    offload.settle()
    weights[0].fill_(100.0)
    assert averages[0].tolist() == [0.0] * 3
    held.go.set()
    offload.finish()
    assert averages[0].tolist() == [1.0] * 3
    assert held.threads != [threading.current_thread().name]


def test_the_next_update_waits_for_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, averages, offload = made()
    held = Held(offload, monkeypatch)
    offload.move(0.5)
    threading.Timer(0.05, held.go.set).start()
    weights[0].fill_(3.0)
    offload.move(0.5)
    offload.finish()
    assert averages[0].tolist() == [2.0] * 3
    assert len(held.threads) == 2


def test_what_goes_wrong_in_the_thread_is_raised_by_whoever_waits_for_it_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, averages, offload = made()

    def fails(share: float, copied: Any) -> None:
        raise RuntimeError("in the thread")

    with monkeypatch.context() as patch:
        patch.setattr(offload, "_move", fails)
        offload.move(0.5)
        with pytest.raises(RuntimeError, match="in the thread"):
            offload.finish()
        offload.finish()
        offload.move(0.5)
    with pytest.raises(RuntimeError, match="in the thread"):
        offload.move(0.5)
    offload.move(1.0)
    offload.finish()
    assert averages[0].tolist() == [2.0] * 3


def test_averages_of_another_shape_are_an_error_that_is_raised() -> None:
    offload = Offload([torch.zeros(4)], [torch.zeros(3)])
    offload.move(0.5)
    with pytest.raises(RuntimeError):
        offload.finish()


def test_nothing_is_waited_for_before_the_first_update() -> None:
    _, averages, offload = made()
    offload.settle()
    offload.finish()
    assert averages[0].tolist() == [0.0] * 3


def test_copies_need_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    average = torch.zeros(2)
    offload = Offload([average], [weight])
    offload.move(0.5)
    offload.finish()
    assert average.tolist() == [0.5, 0.5]
    assert not average.requires_grad


def test_the_thread_ends_with_what_it_serves() -> None:
    import gc

    _, _, offload = made()
    offload.move(0.5)
    offload.finish()
    thread = next(t for t in threading.enumerate() if t.name.startswith("lightning_solver_average"))
    del offload
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
