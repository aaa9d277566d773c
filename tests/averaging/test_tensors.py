"""Which tensors an average is of, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, UpdateBN
from lightning_solver.averaging.tensors import averaged_tensors, has_statistics, saved_buffers


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("mask", torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
        self.register_buffer("gaps", torch.tensor([0.0, torch.nan]))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("used", torch.ones(2, dtype=torch.bool))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)


LEARNED = ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.weight", "head.bias"]
STATISTICS = ["backbone.1.running_mean", "backbone.1.running_var"]


def names(module: Any, **fields: Any) -> list[str]:
    return list(averaged_tensors(module, EMA(decay=0.5, **fields)))


# ---------------------------------------------------------------------- of a module


def test_of_a_module_it_is_the_parameters_and_the_floating_buffers_that_are_saved() -> None:
    assert sorted(names(Net())) == sorted([*LEARNED, *STATISTICS, "scale"])


def test_buffers_that_are_copied_have_no_average() -> None:
    assert names(Net(), buffers="copy") == LEARNED


@pytest.mark.parametrize("update_bn", [True, UpdateBN(batches=3)])
def test_statistics_that_are_estimated_anew_have_memory_of_their_own(update_bn: Any) -> None:
    found = names(Net(), buffers="copy", update_bn=update_bn)
    assert set(STATISTICS) <= set(found)
    assert "scale" not in found


def test_masks_and_gaps_are_never_averaged_as_their_mean_would_be_nothing() -> None:
    assert not {"mask", "gaps"} & set(names(Net()))


def test_counts_and_buffers_that_are_not_saved_are_the_models_own() -> None:
    assert not {"seen", "used", "cache", "nothing", "backbone.1.num_batches_tracked"} & set(names(Net()))
    assert "cache" not in [name for name, _, _ in saved_buffers(Net())]


def test_parameters_that_are_frozen_have_no_average() -> None:
    module = Net()
    module.backbone[0].requires_grad_(False)
    assert "backbone.0.weight" not in names(module)
    assert "backbone.1.weight" in names(module)


def test_tied_parameters_are_averaged_once_by_their_first_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    assert names(module) == ["0.weight", "0.bias", "1.bias"]


def test_a_buffer_of_two_names_is_averaged_once() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    module[1].running_mean = module[0].running_mean
    assert [name for name, _, _ in saved_buffers(module)].count("0.running_mean") == 1
    assert "1.running_mean" not in names(module)


def test_the_tensors_are_those_of_the_module_themselves() -> None:
    module = Net()
    found = averaged_tensors(module, EMA(decay=0.5))
    assert found["head.weight"] is module.head.weight
    assert found["scale"] is module.scale


def test_names_are_those_of_the_users_own_module() -> None:
    module = nn.Sequential()
    module.add_module("_orig_mod", Net())
    assert set(names(module)) == set(names(Net()))
    assert set(names(torch.compile(Net(), backend="eager"))) == set(names(Net()))


def test_statistics_are_those_of_norms_only() -> None:
    module = Net()
    norm = module.backbone[1]
    assert has_statistics(norm)
    assert not has_statistics(module)


# ---------------------------------------------------------------------- globs


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"only": "head.*"}, ["head.weight", "head.bias"]),
        ({"only": ["head.weight", "*.0.bias"]}, ["backbone.0.bias", "head.weight"]),
        ({"leave_out": "backbone.*"}, ["head.weight", "head.bias", "scale"]),
        ({"only": "*.bias", "leave_out": ["head.*"]}, ["backbone.0.bias", "backbone.1.bias"]),
        ({"leave_out": ["*.1.*", "scale"], "only": "*"}, [LEARNED[0], LEARNED[1], LEARNED[4], LEARNED[5]]),
        ({"leave_out": ["*weight", "*bias", "scale", "mask"]}, STATISTICS),
    ],
)
def test_globs_include_and_leave_out(fields: dict[str, Any], expected: list[str]) -> None:
    assert sorted(names(Net(), **fields)) == sorted(expected)


def test_a_glob_is_of_the_whole_name_and_upper_case_counts() -> None:
    with pytest.raises(SolverError, match="matches no parameter or buffer"):
        names(Net(), only="head")
    with pytest.raises(SolverError, match="matches no parameter or buffer"):
        names(Net(), only="HEAD.*")


@pytest.mark.parametrize("field", ["only", "leave_out"])
def test_a_glob_that_matches_nothing_is_an_error_with_the_nearest_name(field: str) -> None:
    message = rf"average\.{field}: matches no parameter or buffer; got 'haed\.weight'; did you mean head\.weight"
    with pytest.raises(SolverError, match=message):
        names(Net(), **{field: ["head.*", "haed.weight"]})


@pytest.mark.parametrize(
    ("module", "fields"),
    [(Net(), {"leave_out": "*"}), (Net().requires_grad_(False), {"only": "*weight"}), (nn.ReLU(), {}), ([], {})],
    ids=["all left out", "all frozen", "a module without any", "no tensors"],
)
def test_nothing_to_average_is_an_error(module: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(SolverError, match=r"average: there is nothing to average; got .* none of them left"):
        names(module, **fields)


def test_errors_say_which_average_it_is() -> None:
    with pytest.raises(SolverError, match=r"^averages\.slow\.only: matches no"):
        averaged_tensors(Net(), EMA(decay=0.5, only="x"), "averages.slow")


# ---------------------------------------------------------------------- of tensors


def test_tensors_by_name_and_tensors_alone_are_all_averaged() -> None:
    given = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.long)}
    assert averaged_tensors(given, EMA(decay=0.5)) == given
    assert names(list(given.values())) == ["0", "1"]
    assert names(tensor for tensor in given.values()) == ["0", "1"]
    assert names(given, only="b") == ["b"]
    assert names(Net().parameters()) == [str(i) for i in range(6)]


@pytest.mark.parametrize("wrong", [[torch.zeros(1), 3.0], {"a": "text"}, None, list(Net().named_parameters())])
def test_what_is_no_tensor_is_refused(wrong: Any) -> None:
    with pytest.raises(
        SolverError, match=r"over: takes a module or tensors; got (float|str|NoneType|tuple); pass the module"
    ):
        EMA(decay=0.5).over(wrong)


def test_a_lazy_layer_says_what_to_do() -> None:
    with pytest.raises(SolverError, match=r"0\.weight: is not initialised yet.*run a batch through the model"):
        EMA(decay=0.5).over(nn.Sequential(nn.LazyLinear(3)))
