"""Tensors that follow other tensors: values, types, memory, changing places, state."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_solver import RunLength, SolverError
from lightning_solver.averaging import EMA, SWA, Average, PowerEMA
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.batch_norm import estimate_statistics

HALF = EMA(decay=0.5)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))


def train(module: nn.Module, steps: int, averaged: Averaged | None = None, start: int = 0) -> None:
    """Move every parameter and buffer in a way that depends on the number of the step alone."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
            for tensor in module.buffers():
                tensor.add_(1)
        if averaged is not None:
            averaged.update()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one: Any, other: Any) -> None:
    pairs = zip(one.values(), other.values()) if isinstance(one, dict) else zip(one, other)
    assert len(one) == len(other)
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def allocated(run: Callable[[], object]) -> int:
    """Bytes that operators asked for on the CPU while something ran."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


# ---------------------------------------------------------------------- values


@settings(max_examples=30, deadline=None)
@given(decay=st.floats(0, 1), steps=st.integers(1, 6))
def test_values_are_the_textbook_recursion_by_name_and_in_order(decay: float, steps: int) -> None:
    module = net()
    averaged = EMA(decay=decay, start=0).over(module)
    expected = {name: tensor.double() for name, tensor in state(module).items()}
    for step in range(steps):
        train(module, 1, averaged, start=step)
        for name, tensor in module.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    assert averaged.names == (
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.weight",
        "3.bias",
        "1.running_mean",
        "1.running_var",
    )
    for name, value in zip(averaged.names, averaged.values):
        torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", [HALF, SWA(start=1, every=1), PowerEMA(gamma=3.0)], ids=lambda a: type(a).__name__)
def test_weights_that_stay_are_their_own_average(average: Average) -> None:
    weight = torch.randn(50)
    averaged = average.over([weight], total_steps=20)
    for _ in range(20):
        averaged.update()
    torch.testing.assert_close(averaged.values[0], weight)


def test_each_tensor_is_averaged_by_itself_and_none_is_changed() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3, 1)}
    averaged = HALF.over(tensors)
    for value in (1.0, 3.0):
        tensors["a"].fill_(value)
        tensors["b"].fill_(-value)
        averaged.update()
    assert averaged.names == ("a", "b")
    assert [value.unique().tolist() for value in averaged.values] == [[2.0], [-2.0]]
    assert [weight.unique().tolist() for weight in averaged.weights] == [[3.0], [-3.0]]
    assert averaged.tensors[0] is tensors["a"]


def test_before_it_begins_it_follows_the_weights_even_if_somebody_looks_in_between() -> None:
    weight = torch.zeros(1)
    averaged = EMA(decay=0.5, start=3).over([weight])
    for step in (1.0, 2.0, 3.0, 5.0):
        weight.fill_(step)
        averaged.update()
        assert averaged.values[0].item() == {1: 1, 2: 2, 3: 3, 5: 4}[int(step)]
        assert averaged.begun is (step >= 3)


def test_what_is_looked_at_after_the_weights_moved_on_is_not_what_they_were_later() -> None:
    weight = torch.zeros(1)
    averaged = EMA(decay=0.5, start=9, before="every", every=4).over([weight])
    for step in (1.0, 2.0, 3.0):
        weight.fill_(step)
        averaged.update()
    assert averaged.values[0].item() == 1.0


# ---------------------------------------------------------------------- types


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_have_an_average_in_float32_by_default(half: torch.dtype) -> None:
    weight = torch.ones(4, dtype=half)
    averaged = EMA(decay=0.9999).over([weight])
    averaged.update()
    weight.fill_(2.0)
    for _ in range(10):
        averaged.update()
    assert averaged.values[0].dtype == torch.float32
    assert averaged.values[0][0].item() == pytest.approx(2 - 0.9999**10, rel=1e-6)  # below what half precision can hold


@pytest.mark.parametrize(
    ("dtype", "setting", "expected"),
    [
        (torch.bfloat16, "same", torch.bfloat16),
        (torch.float32, "auto", torch.float32),
        (torch.float64, "auto", torch.float64),
        (torch.float64, "float32", torch.float32),
        (torch.bfloat16, "float32", torch.float32),
        (torch.complex64, "float32", torch.complex64),
        (torch.complex64, "auto", torch.complex64),
    ],
)
def test_the_type_of_the_average_is_as_said(dtype: torch.dtype, setting: Any, expected: torch.dtype) -> None:
    weight = torch.ones(4, dtype=dtype)
    averaged = EMA(decay=0.5, dtype=setting).over([weight])
    averaged.update()
    weight.fill_(2.0)
    averaged.update()
    assert averaged.values[0].dtype == expected
    assert averaged.values[0][0].item() == 1.5
    before = weight.clone()
    with averaged.swapped_in():
        assert weight[0].item() == 1.5
    assert torch.equal(weight, before)
    assert weight.dtype == dtype


def test_many_numbers_in_half_precision_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_solver.averaging import averaged as module_under_test

    monkeypatch.setattr(module_under_test, "_CHUNK", 10)
    weights = [torch.full((n,), float(n), dtype=torch.bfloat16) for n in (3, 8, 12, 1, 1)]
    averaged = HALF.over(weights)
    assert [[value.numel() for value, _ in chunk] for chunk in averaged._mixed] == [[3], [8], [12], [1, 1]]
    averaged.update()
    for weight in weights:
        weight.zero_()
    averaged.update()
    assert [value[0].item() for value in averaged.values] == [1.5, 4.0, 6.0, 0.5, 0.5]


def test_whole_numbers_and_flags_are_copied() -> None:
    tensors = [torch.tensor([1, 2]), torch.tensor([True, False]), torch.tensor([1.0])]
    averaged = HALF.over(tensors)
    averaged.update()
    tensors[0].fill_(7)
    tensors[1].fill_(True)
    averaged.update()
    assert averaged.values[0].tolist() == [7, 7]
    assert averaged.values[1].tolist() == [True, True]
    assert averaged.values[1].dtype == torch.bool


def test_values_need_no_gradient_and_come_from_no_graph() -> None:
    weight = nn.Parameter(torch.ones(2))
    averaged = HALF.over([weight])
    averaged.update()
    with torch.inference_mode():
        averaged.update()
    assert not averaged.values[0].requires_grad
    assert not averaged.values[0].is_inference()
    assert averaged.values[0].grad_fn is None


# ---------------------------------------------------------------------- layout, ties, views


def test_the_layout_in_memory_is_kept_and_exchanged() -> None:
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    averaged = HALF.over(module)
    train(module, 3, averaged)
    expected, strides, place = averaged.values[0].clone(), module.weight.stride(), averaged.values[0].data_ptr()
    assert averaged.values[0].stride() == strides
    with averaged.swapped_in():
        assert torch.equal(module.weight, expected)
        assert module.weight.stride() == strides
        assert module.weight.data_ptr() == place


def test_tied_parameters_stay_tied_and_move_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    averaged = HALF.over(module)
    train(module, 2, averaged)
    assert len(averaged.values) == 1
    with averaged.swapped_in():
        assert module[1].weight is module[0].weight
        assert torch.equal(module[1].weight, averaged.values[0])


def test_slices_of_one_buffer_are_averaged_and_swapped_in_place() -> None:
    flat = torch.zeros(6)
    module = nn.Linear(2, 2)
    module.weight.data, module.bias.data = flat[:4].view(2, 2), flat[4:]
    averaged = HALF.over(module)
    for value in (1.0, 3.0):
        flat.fill_(value)
        averaged.update()
    averaged.swap()
    assert flat.tolist() == [2.0] * 6
    assert module.weight.data_ptr() == flat.data_ptr()
    averaged.swap()
    assert flat.tolist() == [3.0] * 6
    assert averaged.values[0].unique().tolist() == [2.0]


def test_a_recurrent_layer_computes_with_the_averages_that_are_swapped_in() -> None:
    module = nn.LSTM(3, 4)
    averaged = HALF.over(module)
    train(module, 3, averaged)
    other = nn.LSTM(3, 4)
    other.load_state_dict(dict(zip(averaged.names, averaged.values)))
    x = torch.randn(5, 2, 3)
    live = module(x)[0]
    with averaged.swapped_in():
        assert torch.equal(module(x)[0], other(x)[0])
    assert torch.equal(module(x)[0], live)


@pytest.mark.slow
@pytest.mark.parametrize("swap", ["auto", "copy"])
def test_a_compiled_module_computes_with_the_averages_that_are_swapped_in(swap: Any) -> None:
    torch._dynamo.reset()
    module = net().eval()
    compiled = torch.compile(module, backend="aot_eager")
    x = torch.randn(2, 3, 5, 5)
    averaged = EMA(decay=0.5, swap=swap).over(compiled)
    assert averaged.names[0] == "0.weight"
    with torch.no_grad():
        compiled(x)  # compiled with the weights in their place
        train(module, 3, averaged)
        with averaged.swapped_in():
            swapped, expected = compiled(x), module(x)
        live = compiled(x)
    torch.testing.assert_close(swapped, expected)
    torch.testing.assert_close(live, module(x))
    assert not torch.allclose(swapped, live)


# ---------------------------------------------------------------------- buffers


def test_statistics_estimated_in_the_place_of_the_weights_leave_the_live_ones_alone() -> None:
    module = net()
    averaged = EMA(decay=0.5, update_bn=True).over(module)
    for step in range(3):
        module.train()(2 + torch.randn(4, 3, 5, 5))
        train(module, 1, averaged, start=step)
    before = state(module)
    with averaged.swapped_in():
        estimate_statistics(module, [2 + torch.randn(4, 3, 5, 5) for _ in range(5)])
        estimated = state(module)
    assert_same(state(module), before)
    with averaged.swapped_in():
        assert torch.equal(module[1].running_var, estimated["1.running_var"])


def test_statistics_in_half_precision_that_are_estimated_in_the_place_of_the_weights_are_kept() -> None:
    module = net().bfloat16()
    averaged = EMA(decay=0.5, update_bn=True).over(module)
    train(module, 2, averaged)
    with averaged.swapped_in():
        estimate_statistics(module, [2 + torch.randn(4, 3, 5, 5).bfloat16()])
        estimated = state(module)
    with averaged.swapped_in():
        assert torch.equal(module[1].running_mean, estimated["1.running_mean"])


# ---------------------------------------------------------------------- further tensors


def test_what_was_frozen_is_averaged_from_when_it_is_added() -> None:
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    averaged = HALF.over(module)
    assert averaged.names == ("weight",)
    with torch.no_grad():
        for value in (0.0, 1.0, 2.0):
            module.weight.fill_(value)
            module.bias.fill_(10.0 + value)
            averaged.update()
        averaged.add({"bias": module.bias})
        assert averaged.values[1].item() == 12.0
        module.weight.fill_(2.0)
        module.bias.fill_(14.0)
        averaged.update()
    assert averaged.names == ("weight", "bias")
    assert [value.item() for value in averaged.values] == [1.625, 13.0]
    with averaged.swapped_in():
        assert module.bias.item() == 13.0
    assert module.bias.item() == 14.0
    averaged.add({})


def test_tensors_that_are_added_before_it_begins_follow_too() -> None:
    one, two = torch.zeros(1), torch.zeros(1)
    averaged = EMA(decay=0.5, start=3).over({"one": one})
    for step in (1.0, 2.0):
        one.fill_(step)
        two.fill_(step)
        averaged.update()
        if step == 1.0:
            averaged.add({"two": two})
    assert [value.item() for value in averaged.values] == [2.0, 2.0]


def test_nothing_is_added_while_the_averages_are_in_the_place_of_the_weights() -> None:
    averaged = HALF.over({"a": torch.zeros(1)})
    with (
        averaged.swapped_in(),
        pytest.raises(SolverError, match=r"the averages are in the place of the weights; call swap\(\)"),
    ):
        averaged.add({"b": torch.zeros(1)})


def test_a_tensor_that_is_averaged_already_is_not_added_once_more() -> None:
    weight = torch.zeros(2)
    averaged = HALF.over({"a": weight})
    with pytest.raises(SolverError, match=r"average: .*already"):
        averaged.add({"a": weight})
    assert averaged.names == ("a",)
    assert len(averaged.values) == 1


# ---------------------------------------------------------------------- changing places


def test_swapping_moves_memory_and_copies_nothing() -> None:
    module = nn.Sequential(*(nn.Linear(100, 100) for _ in range(3)))
    averaged = HALF.over(module)
    train(module, 2, averaged)
    weights, averages = [w.data_ptr() for w in averaged.tensors], [v.data_ptr() for v in averaged.values]
    assert allocated(averaged.swap) == 0
    assert [w.data_ptr() for w in averaged.tensors] == averages
    assert [v.data_ptr() for v in averaged.values] == averages
    assert [w.data_ptr() for w in averaged.weights] == weights
    assert allocated(averaged.swap) == 0
    assert [w.data_ptr() for w in averaged.tensors] == weights


def test_memory_stays_in_its_place_where_copying_is_asked_for() -> None:
    weight = torch.zeros(4)
    averaged = EMA(decay=0.5, swap="copy").over([weight])
    averaged.update()
    weight.fill_(2.0)
    averaged.update()
    places = weight.data_ptr(), averaged.values[0].data_ptr()
    with averaged.swapped_in():
        assert weight.data_ptr() == places[0]
        assert weight.tolist() == [1.0] * 4
    assert (weight.data_ptr(), averaged.values[0].data_ptr()) == places
    assert weight.tolist() == [2.0] * 4


def test_an_update_needs_no_memory() -> None:
    module = nn.Sequential(*(nn.Linear(100, 100) for _ in range(3)))
    averaged = HALF.over(module)
    train(module, 2, averaged)
    assert allocated(averaged.update) < 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_the_weights_are_back_whatever_happens_in_between(error: type[BaseException], dtype: torch.dtype) -> None:
    module = net().to(dtype)
    averaged = HALF.over(module)
    train(module, 3, averaged)
    live, values = state(module), [value.clone() for value in averaged.values]

    def fails() -> None:
        with averaged.swapped_in():
            assert averaged.swapped
            assert not torch.equal(module[0].weight, live["0.weight"])
            raise error

    with pytest.raises(error):
        fails()
    assert not averaged.swapped
    assert_same(state(module), live)
    assert_same(averaged.values, values)


def test_swapped_in_within_swapped_in_keeps_the_averages_until_the_outer_one_ends() -> None:
    weight = torch.zeros(1)
    averaged = HALF.over([weight])
    averaged.update()
    weight.fill_(2.0)
    averaged.update()
    with averaged.swapped_in():
        with averaged.swapped_in():
            assert weight.item() == 1.0
        assert weight.item() == 1.0
    assert weight.item() == 2.0


def test_who_swaps_back_inside_swapped_in_finds_the_weights_afterwards_all_the_same() -> None:
    weight = torch.zeros(1)
    averaged = HALF.over([weight])
    averaged.update()
    weight.fill_(2.0)
    averaged.update()
    with averaged.swapped_in():
        averaged.swap()
        assert weight.item() == 2.0
    assert weight.item() == 2.0
    assert not averaged.swapped


def test_values_and_weights_are_found_while_they_have_changed_places() -> None:
    module = net()
    averaged = HALF.over(module)
    train(module, 3, averaged)
    values, weights = [[t.clone() for t in some] for some in (averaged.values, averaged.weights)]
    with averaged.swapped_in():
        assert_same(averaged.values, values)
        assert_same(averaged.weights, weights)
        assert_same([tensor.detach() for tensor in averaged.tensors], values)


def test_no_update_is_made_while_the_averages_are_in_the_place_of_the_weights() -> None:
    averaged = HALF.over([torch.zeros(1)])
    with (
        averaged.swapped_in(),
        pytest.raises(SolverError, match=r"average: the averages are in the place of the weights; leave swapped"),
    ):
        averaged.update()
    assert averaged.count.steps == 0


def test_a_training_with_swaps_in_between_is_bitwise_that_without() -> None:
    runs = []
    for swaps in (False, True):
        module = net()
        averaged = HALF.over(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
            averaged.update()
            if swaps:
                with averaged.swapped_in(), torch.no_grad():
                    module.eval()(x)
                module.train()
        runs.append((state(module), averaged.values))
    assert_same(runs[0][0], runs[1][0])
    assert_same(runs[0][1], runs[1][1])


# ---------------------------------------------------------------------- shapes


@pytest.mark.parametrize("shape", [(5, 3), (4, 2), (1, 3), (3,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_another_shape_than_its_average_is_an_error_and_nothing_is_lost(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    module = nn.Linear(3, 4).to(dtype)
    averaged = HALF.over(module)
    averaged.update()
    value = averaged.values[0].clone()
    module.weight.data = torch.ones(shape, dtype=dtype)
    message = rf"average: weight: has another shape than when its average was made; got \({shape[0]},.* now, \(4, 3\) then; make"
    for use in (averaged.update, averaged.swap):
        with pytest.raises(SolverError, match=message):
            use()
        assert torch.equal(module.weight, torch.ones(shape, dtype=dtype))
        assert torch.equal(averaged.values[0], value)


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("swapped", [False, True])
def test_its_state_goes_through_a_file_bit_by_bit(dtype: torch.dtype, swapped: bool) -> None:
    straight, module = net().to(dtype), net().to(dtype)
    reference, averaged = HALF.over(straight), HALF.over(module)
    train(straight, 5, reference)
    train(module, 3, averaged)
    file = io.BytesIO()
    if swapped:
        averaged.swap()
    torch.save(averaged.state_dict(), file)
    if swapped:
        averaged.swap()
    file.seek(0)
    again = HALF.over(module)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.count == averaged.count
    train(module, 2, again, start=3)
    assert_same(again.values, reference.values)
    assert again.count == reference.count


def test_loading_while_swapped_leaves_the_weights_alone() -> None:
    module = net()
    averaged = HALF.over(module)
    train(module, 2, averaged)
    saved = copy.deepcopy(averaged.state_dict())
    train(module, 2, averaged, start=2)
    live = state(module)
    with averaged.swapped_in():
        averaged.load_state_dict(saved)
        assert torch.equal(module[0].weight, saved["values"]["0.weight"])
    assert_same(state(module), live)
    assert_same(averaged.values, list(saved["values"].values()))


def test_a_state_before_the_start_holds_the_weights_of_then() -> None:
    weight = torch.ones(1)
    averaged = EMA(decay=0.5, start=5).over([weight])
    averaged.update()
    saved = copy.deepcopy(averaged.state_dict())
    assert saved["values"]["0"].item() == 1.0
    again = EMA(decay=0.5, start=5).over([torch.zeros(1)])
    again.load_state_dict(saved)
    assert again.values[0].item() == 1.0
    assert not again.begun


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    averaged = HALF.over(nn.Linear(3, 4))
    averaged.update()
    saved = copy.deepcopy(averaged.state_dict())
    change(saved)
    return saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["values"].pop("bias"), r"average: bias: the saved average lacks a tensor that is averaged now; .*resume"),
        (
            lambda s: s["values"].update(weight=torch.ones(4, 2)),
            r"average: weight: the saved average has another shape; got \(4, 2\) there, \(4, 3\) here",
        ),
        (lambda s: s["values"].update(weight=torch.ones(3)), r"got \(3,\) there, \(4, 3\) here"),
        (lambda s: s["values"].update(bias=torch.ones(1)), r"got \(1,\) there, \(4,\) here"),
        (lambda s: s.pop("values"), r"average: .*values"),
        (lambda s: s.pop("count"), r"average: .*count"),
        (lambda s: s["count"].update(stepz=3), r"average: .*stepz"),
    ],
    ids=["missing", "other shape", "fewer dimensions", "one number", "no values", "no count", "unknown count"],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(change: Any, message: str) -> None:
    averaged = HALF.over(nn.Linear(3, 4))
    before, count = [value.clone() for value in averaged.values], copy.copy(averaged.count)
    with pytest.raises(SolverError, match=message):
        averaged.load_state_dict(broken(change))
    assert_same(averaged.values, before)
    assert averaged.count == count


def test_values_alone_can_be_loaded() -> None:
    averaged = HALF.over({"a": torch.zeros(2, dtype=torch.bfloat16)})
    averaged.load_values({"a": torch.tensor([1.001, 2.002])})
    assert averaged.values[0].tolist() == pytest.approx([1.001, 2.002])
    assert averaged.count.steps == 0


# ---------------------------------------------------------------------- devices, failures elsewhere


def test_tensors_that_were_given_other_memory_are_still_averaged() -> None:
    module = nn.Linear(2, 2)
    averaged = HALF.over(module)
    averaged.update()
    module.double()  # gives every parameter other memory, of another type
    averaged.to_devices()
    with torch.no_grad():
        module.weight.fill_(3.0)
    averaged.update()
    value = averaged.values[0].clone()
    with averaged.swapped_in():
        torch.testing.assert_close(module.weight.detach().float(), value)
        assert module.weight.dtype == torch.float64
    assert (module.weight == 3.0).all()


def test_what_goes_wrong_in_the_thread_of_an_average_on_the_cpu_is_raised_before_anything_is_swapped() -> None:
    weight = torch.zeros(1)
    averaged = HALF.over([weight])
    averaged.update()

    class Broken:
        def finish(self) -> None:
            raise RuntimeError("in the thread")

    averaged._offload = Broken()  # type: ignore[assignment]
    for look in (averaged.swap, lambda: averaged.values, averaged.state_dict):
        with pytest.raises(RuntimeError, match="in the thread"):
            look()
    assert not averaged.swapped


def test_an_average_on_the_cpu_of_tensors_on_the_cpu_is_an_ordinary_one() -> None:
    weight = torch.zeros(3)
    averaged = EMA(decay=0.5, device="cpu").over([weight])
    averaged.update()
    weight.fill_(1.0)
    averaged.update()
    averaged.settle()
    assert averaged.values[0].tolist() == [0.5] * 3


@settings(max_examples=20, deadline=None)
@given(total=st.integers(1, 12), late=st.integers(0, 12))
def test_an_average_that_a_run_gets_later_on_begins_with_the_weights_of_then(total: int, late: int) -> None:
    weight = torch.zeros(total + late + 1, dtype=torch.float64)
    weight[late] = 1.0
    averaged = EMA(decay=0.5).over([weight])
    averaged.begin_late(late)
    for step in range(late + 1, late + total + 1):
        weight.zero_()[step] = 1.0
        averaged.update()
    first = max(late, 1)  # by default the average begins after the first step
    expected = np.eye(total + late + 1)[first]
    for step in range(first + 1, late + total + 1):
        expected = 0.5 * expected + 0.5 * np.eye(total + late + 1)[step]
    np.testing.assert_allclose(averaged.values[0], expected, atol=1e-14)
    assert averaged.count.steps == late + total


def test_it_can_be_begun_anew() -> None:
    weight = torch.zeros(1)
    averaged = EMA(decay=0.5).over([weight], run=RunLength(total_steps=9))
    averaged.update()
    averaged.update()
    averaged.swap()
    weight.fill_(7.0)
    averaged.restart()
    assert not averaged.swapped
    assert not averaged.begun
    assert averaged.values[0].item() == weight.item() == 7.0
    assert averaged.count.steps == 0


# ---------------------------------------------------------------------- a run that ends early


@pytest.mark.parametrize("steps", [3, 4, 6, 8])
def test_an_equal_average_has_the_weights_at_the_end_of_a_run_that_ended_early(steps: int) -> None:
    weight = torch.zeros(1, dtype=torch.float64)
    average = SWA(start=1, every=4).over([weight], total_steps=100)
    taken = []
    for step in range(1, steps + 1):
        weight.fill_(step)
        average.update()
        taken += [step] if step % 4 == 1 or step == steps else []
    average.conclude()
    assert average.values[0].item() == pytest.approx(sum(taken) / len(taken))
    count = average.count
    average.conclude()
    assert average.count == count


def test_averages_that_need_no_end_are_not_touched_at_the_end() -> None:
    weight = torch.zeros(1)
    average = EMA(decay=0.5, every=4).over([weight])
    for step in range(1, 7):
        weight.fill_(step)
        average.update()
    before = average.values[0].clone()
    average.conclude()
    assert torch.equal(average.values[0], before)


def test_a_window_that_was_not_reached_or_is_over_takes_in_nothing_at_the_end() -> None:
    for window in ({"start": 50, "every": 4}, {"start": 1, "until": 3, "every": 2}):
        weight = torch.zeros(1)
        average = SWA(**window).over([weight], total_steps=100)
        for step in range(1, 7):
            weight.fill_(step)
            average.update()
        updates = average.count.updates
        average.conclude()
        assert average.count.updates == updates


def test_the_latest_share_is_that_of_the_latest_update() -> None:
    module = net()
    averaged = EMA(decay=0.9, every=2).over(module)
    seen = []
    for step in range(6):
        train(module, 1, averaged, start=step)
        seen.append(averaged.latest_share)
    assert seen[:2] == [None, None]  # the first one copies, after step 1
    assert seen[2:] == pytest.approx([1 - 0.9**2] * 4)


def test_the_latest_share_is_how_far_the_average_has_moved() -> None:
    weight = torch.zeros(2, dtype=torch.float64)
    averaged = PowerEMA(sigma_rel=0.1).over({"w": weight}, run=RunLength(total_steps=20))
    for _ in range(6):
        before = averaged.values[0].clone()
        weight.add_(1.0)
        averaged.update()
        if averaged.latest_share is not None:
            moved = (averaged.values[0] - before)[0] / (weight - before)[0]
            assert averaged.latest_share == pytest.approx(float(moved))
    assert averaged.latest_share is not None
