"""Batches that do not count equally: a window is the mean over all that is counted in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from accumulation_runs import (
    Batch,
    Batches,
    Regression,
    assert_close,
    assert_equal,
    loader,
    run,
    solver,
    with_scaler,
)
from lightning_solver import SolverError
from lightning_solver.callbacks import GradientAccumulation
from small import trainer

SIZES = [1, 7, 3, 5, 2, 9, 4, 4, 6, 8]
UNEQUAL = Batches(SIZES)


def weighed(amount: Any, by: str, **more: Any) -> Any:
    return solver({"batches": amount, "weigh_by": by, **more})


class Counting(Regression):
    """Sets what is counted in every way that is read."""

    def __init__(self, given: Any = None) -> None:
        super().__init__(given)
        self.register_buffer("counted", torch.zeros(1, dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.counted: Tensor = torch.tensor([len(batch[0])])
        return super().training_step(batch, batch_idx)

    def tensor(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch[0]))

    def fraction(self, batch: Batch) -> float:
        return len(batch[0]) / 3e5


WAYS = {
    "attribute": "samples",
    "tensor attribute": "counted",
    "method": "count",
    "tensor method": "tensor",
    "small numbers": "fraction",
}


@pytest.mark.parametrize("by", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("given", "lengths"),
    [(4, [4, 4, 2]), (1, [1] * 10), ({0: 1, 1: 4}, [1, 4, 4, 1]), ({0: 3, "0.5ep": 2}, [3, 3, 2, 2])],
    ids=str,
)
def test_unequal_batches_are_one_large_batch(given: Any, lengths: list[int], by: str) -> None:
    net = run(weighed(given, by), UNEQUAL, module=Counting, max_epochs=1)
    expected = run(solver(), UNEQUAL.merged(lengths), module=Counting, max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)
    assert len(net.grads) == len(lengths)
    assert_close(dict(net.named_parameters()), dict(expected.named_parameters()))


def test_without_weights_the_same_batches_give_something_else() -> None:
    net = run(solver(4), UNEQUAL, max_epochs=1)
    expected = run(solver(), UNEQUAL.merged([4, 4, 2]), max_epochs=1)
    with pytest.raises(AssertionError):
        assert_close(net.grads[0], expected.grads[0], 1e-2)


def test_the_callback_weighs_too() -> None:
    net = run(weighed({0: 2, 1: 4}, "count"), UNEQUAL)
    alone = run(solver(), UNEQUAL, callbacks=[GradientAccumulation({0: 2, 1: 4}, weigh_by="count")])
    assert_equal(dict(net.named_parameters()), dict(alone.named_parameters()))


class Masked(Regression):
    """Counts the samples that are marked by their first feature; a batch may have none."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        marked = x[:, 0] > 0.4
        errors = (self.net(x) - y).square().mean(1) * marked
        self.samples = marked.sum()
        return errors.sum() / self.samples.clamp(min=1)


def test_batches_in_which_nothing_is_counted_do_not_count() -> None:
    batches = Batches([2] * 12, seed=1)
    marked = [int((x[:, 0] > 0.4).sum()) for x, _ in batches.made]
    assert 0 in marked
    assert any(0 < number < 2 for number in marked)
    net = run(weighed(4, "samples"), batches, module=Masked, max_epochs=1)
    expected = run(solver(), batches.merged([4, 4, 4]), module=Masked, max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)


@pytest.mark.parametrize("number", [0, 0.0, torch.tensor(0), torch.tensor([0.0])], ids=str)
def test_a_window_in_which_nothing_is_counted_has_gradients_of_zero(number: Any) -> None:
    class Nothing(Regression):
        def number(self, batch: Batch) -> Any:
            return number if self.trainer.fit_loop.epoch_loop.batch_idx < 4 else 1

    net = run(weighed(4, "number"), UNEQUAL, module=Nothing, max_epochs=1)
    assert all(not gradient.any() for gradient in net.grads[0].values())
    assert len(net.grads) == 3
    assert all(tensor.isfinite().all() for tensor in net.parameters())
    assert any(gradient.any() for gradient in net.grads[1].values())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_without_a_loss_have_no_weight() -> None:
    class Skips(Regression):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx in (0, 3, 5) else super().training_step(batch, batch_idx)

    net = run(weighed(4, "count"), UNEQUAL, module=Skips, max_epochs=1)
    rest = Batches([])
    rest.made = [made for i, made in enumerate(UNEQUAL.made) if i not in (0, 3, 5)]
    expected = run(solver(), rest.merged([2, 3, 2]), max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other)


class Tokens(Regression):
    """Counts as large language models do."""

    factor = 1

    def tokens(self, batch: Batch) -> int:
        return self.factor * len(batch[0])


def test_large_counts_do_not_overflow_with_a_loss_scaler() -> None:
    """A loss that is multiplied by a hundred thousand tokens would: the scaler would skip the first steps."""

    class Many(Tokens):
        factor = 1 << 17

    net = run(weighed(4, "tokens"), UNEQUAL, module=Many, **with_scaler("16"))
    few = run(weighed(4, "tokens"), UNEQUAL, module=Tokens, **with_scaler("16"))
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == 6
    for own, other in zip(net.grads, few.grads):
        assert_equal(own, other)
    expected = run(solver(), UNEQUAL.merged([4, 4, 2]), max_epochs=1)
    for own, other in zip(net.grads, expected.grads):
        assert_close(own, other, 2e-2)


def test_a_name_that_the_module_does_not_have() -> None:
    with pytest.raises(SolverError) as caught:
        run(weighed(4, "sampels"), UNEQUAL)
    what = "Regression has neither an attribute nor a method of this name"
    do = "set it in __init__, or define a method of a batch; did you mean samples or states?"
    assert str(caught.value) == f"accumulate.weigh_by: {what}; got 'sampels'; {do}"
    fit = trainer(max_epochs=1, callbacks=[GradientAccumulation(2, weigh_by="sampels")])
    with pytest.raises(SolverError, match=r"^GradientAccumulation\.weigh_by: Regression has neither"):
        fit.fit(Regression(solver()), loader(UNEQUAL))


@pytest.mark.parametrize(
    "number", [None, "many", -1, float("nan"), float("inf"), True, torch.zeros(2), [3]], ids=lambda one: repr(one)
)
def test_what_is_no_weight(number: Any) -> None:
    class Wrong(Regression):
        def number(self, batch: Batch) -> Any:
            return number

    with pytest.raises(SolverError, match=r"^accumulate\.weigh_by: number is no weight of a batch; got .*; let it be"):
        run(weighed(4, "number"), UNEQUAL, module=Wrong, max_epochs=1)
