"""Estimating the statistics of batch norms anew, beside torch's own update_bn."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lightning_solver import SolverError
from lightning_solver.averaging.batch_norm import estimate_statistics, norm_layers
from two_processes import start


def net(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5, affine=False),
    )


def images(count: int = 3, size: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [2 + 3 * torch.randn(size - (i == count - 1), 3, 5, 5, generator=generator) for i in range(count)]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


class Interrupted(Exception):
    pass


# ---------------------------------------------------------------------- as torch


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 5), momentum=st.sampled_from([0.1, None, 1.0]), training=st.booleans())
def test_the_numbers_are_those_of_torch_bit_by_bit(count: int, momentum: float | None, training: bool) -> None:
    ours = net(momentum).train(training)
    theirs = copy.deepcopy(ours)
    torch.manual_seed(2)
    update_bn([(batch, "label") for batch in images(count)], theirs)
    torch.manual_seed(2)
    assert estimate_statistics(ours, [(batch, "label") for batch in images(count)]) == count
    assert_same(ours.state_dict(), theirs.state_dict())
    assert ours[1].momentum == momentum


def test_statistics_are_the_means_of_those_of_each_batch() -> None:
    norm = nn.BatchNorm1d(2)
    batches = [torch.randn(n, 2, dtype=torch.float64) for n in (7, 3, 5)]
    estimate_statistics(norm.double(), batches)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    assert torch.allclose(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0))


def test_what_the_statistics_were_before_does_not_matter() -> None:
    ours, spoilt = net(), net()
    for layer in norm_layers(spoilt):
        layer.running_mean.fill_(float("nan"))  # type: ignore[union-attr]
        layer.running_var.fill_(float("inf"))  # type: ignore[union-attr]
        layer.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    for module in (ours, spoilt):
        torch.manual_seed(2)
        estimate_statistics(module, images())
    assert_same(ours.state_dict(), spoilt.state_dict())


def test_a_layer_that_is_called_twice_counts_each_call() -> None:
    shared = nn.BatchNorm1d(2)
    twice = nn.Sequential(shared, nn.Linear(2, 2), shared)
    theirs = copy.deepcopy(twice)
    batches = [torch.randn(4, 2) for _ in range(3)]
    update_bn(batches, theirs)
    estimate_statistics(twice, batches)
    assert_same(twice.state_dict(), theirs.state_dict())
    assert shared.num_batches_tracked == 6


def test_instance_norms_that_track_statistics_are_estimated_too() -> None:
    norm = nn.InstanceNorm1d(2, track_running_stats=True, momentum=0.3)
    batches = [5 + torch.randn(4, 2, 9) for _ in range(3)]
    assert estimate_statistics(norm, batches) == 3
    expected = torch.stack([batch.mean((0, 2)) for batch in batches]).mean(0)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)
    assert norm.momentum == 0.3


# ---------------------------------------------------------------------- what is seen of it afterwards


def test_a_module_without_such_layers_looks_at_no_batch() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    batches = iter([torch.ones(2, 2)])
    assert estimate_statistics(module, batches) == 0
    assert next(batches).shape == (2, 2)


def test_parameters_and_gradients_are_as_before_and_nothing_is_recorded() -> None:
    module = net()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    outputs = []
    estimate_statistics(module, images(), forward=lambda batch: outputs.append(module(batch)))
    assert [output.requires_grad for output in outputs] == [False] * 3
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert all(p.requires_grad for p in module.parameters())
    assert_same(dict(module.named_parameters()), dict(net().named_parameters()))  # type: ignore[arg-type]


def test_it_works_where_validation_is_in_inference_mode() -> None:
    ours, theirs = net(), net()
    torch.manual_seed(2)
    update_bn(images(), theirs)
    torch.manual_seed(2)
    with torch.inference_mode():
        estimate_statistics(ours, (batch for batch in images()))
    assert_same(ours.state_dict(), theirs.state_dict())
    ours.train()(images()[0]).sum().backward()  # the buffers can still be trained with
    assert not any(buffer.is_inference() for buffer in ours.buffers())


def test_batches_are_looked_at_once_and_one_at_a_time() -> None:
    alive: list[int] = []

    def batches() -> Iterator[Tensor]:
        for batch in images(4):
            alive.append(len(alive))
            yield batch

    seen: list[int] = []
    assert estimate_statistics(net(), batches(), progress=lambda done: seen.append(done - len(alive))) == 4
    assert seen == [0, 0, 0, 0]


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    kept: list[Any] = []

    def batches() -> Iterator[Tensor]:
        for _ in range(6):
            batch = torch.randn(4, 2)
            kept.append(weakref.ref(batch))
            yield batch

    counts = []
    norm = nn.BatchNorm1d(2)
    estimate_statistics(norm, batches(), progress=lambda _: counts.append(sum(ref() is not None for ref in kept)))
    assert max(counts) <= 2
    assert not any(ref() is not None for ref in kept)


# ---------------------------------------------------------------------- modes, momenta, hooks


def modes(module: nn.Module) -> list[bool]:
    return [inner.training for inner in module.modules()]


def mixed_modes() -> nn.Sequential:
    module = net(momentum=0.25)
    module.eval()
    module[3].train()
    return module


def fails_in_forward(module: nn.Module, batches: list[Tensor]) -> None:
    def forward(batch: Tensor) -> None:
        module(batch)
        raise Interrupted

    estimate_statistics(module, batches, forward=forward)


def fails_in_the_batches(module: nn.Module, batches: list[Tensor]) -> None:
    def some() -> Iterator[Tensor]:
        yield batches[0]
        raise Interrupted

    estimate_statistics(module, some())


def fails_in_progress(module: nn.Module, batches: list[Tensor]) -> None:
    def progress(done: int) -> None:
        raise KeyboardInterrupt

    estimate_statistics(module, batches, progress=progress)


def fails_in_reduce(module: nn.Module, batches: list[Tensor]) -> None:
    def reduce(tensor: Tensor) -> Tensor:
        raise Interrupted

    estimate_statistics(module, batches, reduce=reduce)


@pytest.mark.parametrize("fails", [fails_in_forward, fails_in_the_batches, fails_in_progress, fails_in_reduce])
def test_everything_is_restored_when_something_fails(fails: Any) -> None:
    module = mixed_modes()
    estimate_statistics(module, images(2))
    before, then = state(module), modes(module)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        fails(module, images())
    assert_same(module.state_dict(), before)
    assert modes(module) == then
    assert [layer.momentum for layer in norm_layers(module)] == [0.25, 0.1]
    assert not any(inner._forward_pre_hooks for inner in module.modules())


def test_modes_and_hooks_are_restored_one_by_one_when_all_goes_well() -> None:
    module = mixed_modes()
    then = modes(module)
    seen: list[bool] = []
    estimate_statistics(module, images(), progress=lambda _: seen.append(all(modes(module))))
    assert seen == [True] * 3  # meanwhile all are in training mode
    assert modes(module) == then
    assert len(set(then)) == 2
    assert not any(inner._forward_pre_hooks for inner in module.modules())


def test_layers_in_evaluation_mode_of_a_module_that_trains_are_frozen() -> None:
    module = net()
    module[1].eval()
    before = state(module)
    estimate_statistics(module, images())
    after = module.state_dict()
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert after["1.num_batches_tracked"] == 0
    assert not torch.equal(after["6.running_mean"], before["6.running_mean"])
    assert not module[1].training


def test_layers_that_are_passed_as_frozen_keep_their_statistics() -> None:
    module = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2)), nn.BatchNorm1d(2)).eval()
    used: list[bool] = []
    module[0][0].register_forward_hook(lambda layer, *_: used.append(layer.training))  # type: ignore[index]
    estimate_statistics(module, [5 + torch.randn(4, 2)], frozen=[module[0]])
    assert torch.equal(module[0][0].running_mean, torch.zeros(2))  # type: ignore[index]
    assert (module[1].running_mean > 2).all()  # type: ignore[operator]
    assert used == [False]


def test_layers_that_the_modules_own_train_keeps_in_evaluation_mode_keep_their_statistics() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.first.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    module = Frozen().eval()
    module.first.running_mean.fill_(3.0)  # type: ignore[union-attr]
    estimate_statistics(module, [torch.randn(4, 2)])
    assert torch.equal(module.first.running_mean, torch.full((2,), 3.0))  # type: ignore[arg-type]
    assert not torch.equal(module.second.running_mean, torch.zeros(2))  # type: ignore[arg-type]


def test_a_layer_that_no_batch_reaches_keeps_its_statistics() -> None:
    module = nn.ModuleDict({"used": nn.BatchNorm1d(2), "unused": nn.BatchNorm1d(2)})
    module["unused"].running_var.fill_(4.0)  # type: ignore[union-attr, operator]
    estimate_statistics(module, [torch.randn(4, 2)], forward=module["used"])
    assert torch.equal(module["unused"].running_var, torch.full((2,), 4.0))  # type: ignore[arg-type]
    assert module["used"].num_batches_tracked == 1


# ---------------------------------------------------------------------- how the module is called


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, image: Tensor, scale: float = 1.0) -> Tensor:
        return self.norm(image * scale)


class Pair(NamedTuple):
    image: Tensor
    label: int


X = torch.tensor([[1.0, 2.0], [3.0, 6.0]])


@pytest.mark.parametrize(
    ("batch", "mean"),
    [
        (X, [2.0, 4.0]),
        ((X, "label"), [2.0, 4.0]),
        ([X, "label"], [2.0, 4.0]),
        (Pair(X, 1), [2.0, 4.0]),
        ({"image": X}, [2.0, 4.0]),
        ({"scale": 2.0, "image": X}, [4.0, 8.0]),
    ],
    ids=["tensor", "tuple", "list", "named tuple", "mapping", "mapping of several"],
)
def test_a_batch_is_passed_as_its_type_suggests(batch: Any, mean: list[float]) -> None:
    module = TwoInputs()
    estimate_statistics(module, [batch])
    assert module.norm.running_mean is not None
    assert module.norm.running_mean.tolist() == mean


def test_forward_says_how_the_module_is_called() -> None:
    module = TwoInputs()
    estimate_statistics(module, [{"pixels": X, "label": 1}], forward=lambda batch: module(batch["pixels"], 3.0))
    assert module.norm.running_mean is not None
    assert module.norm.running_mean.tolist() == [6.0, 12.0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": X, "label": 1}, "cannot be called with a batch; got entries image, label for TwoInputs.forward.*'label'"),
        ({}, "cannot be called with a batch; got entries none"),
        ([{"image": X}, {"image": X}], "does not say what the module is called with; got a list of 2, the first of type dict"),
        ((), "does not say what the module is called with; got a tuple of 0"),
    ],
    ids=["mapping", "empty mapping", "list of mappings", "empty"],
)  # fmt: skip
def test_a_batch_that_the_module_does_not_take_is_a_clear_error(batch: Any, message: str) -> None:
    with pytest.raises(SolverError, match=f"(?s)estimate_statistics: .*{message}.*; pass forward, a function"):
        estimate_statistics(TwoInputs(), [batch])


def test_an_error_of_the_module_itself_is_passed_on_as_it_is() -> None:
    class Broken(TwoInputs):
        def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
            return image + "text"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        estimate_statistics(Broken(), [X])


def test_no_batches_are_an_error_and_the_statistics_stay() -> None:
    module = TwoInputs()
    module.norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
    with pytest.raises(SolverError, match="there are no batches to estimate the statistics from; pass at least one"):
        estimate_statistics(module, [])
    assert torch.equal(module.norm.running_mean, torch.full((2,), 3.0))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- compiled modules, several processes


@pytest.mark.slow
def test_a_compiled_module_gets_the_same_statistics_and_is_not_compiled_anew() -> None:
    compiled_graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled_graphs.append(graph)
        return graph.forward

    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    theirs, inner = copy.deepcopy(plain), copy.deepcopy(plain)
    compiled = torch.compile(inner, backend=backend)
    torch._dynamo.reset()
    compiled(torch.randn(4, 2))  # in training mode, with the momentum of 0.1 in the graph
    before = len(compiled_graphs)
    batches = [torch.randn(4, 2) for _ in range(4)]
    update_bn(batches, theirs)
    estimate_statistics(compiled, batches)  # type: ignore[arg-type]
    assert_same(inner.state_dict(), theirs.state_dict())
    assert len(compiled_graphs) == before
    compiled(torch.randn(4, 2))
    assert inner[1].num_batches_tracked == 5
    assert len(compiled_graphs) == before  # and goes on with the graph that it has


def test_the_mean_of_one_process_alone_changes_nothing() -> None:
    ours, theirs = net(), net()
    torch.manual_seed(2)
    update_bn(images(), theirs)
    torch.manual_seed(2)
    estimate_statistics(ours, images(), reduce=lambda tensor: tensor)
    assert_same(ours.state_dict(), theirs.state_dict())


def test_the_wrapper_of_distributed_training_is_refused() -> None:
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    with pytest.raises(
        SolverError, match=r"overwrites the statistics; got DistributedDataParallel; pass .*module\.module"
    ):
        estimate_statistics(wrapper, [])


@pytest.mark.slow
@pytest.mark.parametrize("cases", [["together", "uneven", "unreached"], ["sharded"]], ids=", ".join)
def test_two_processes(cases: list[str]) -> None:
    if cases == ["sharded"] and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("FSDP2 ran on GPUs only in torch 2.6")
    done = start(Path(__file__).parent / "batch_norm_cases.py", *cases)
    assert done.returncode == 0, done.stderr[-4000:]
