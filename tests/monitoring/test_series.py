"""Names of series."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_solver import SolverError
from lightning_solver.monitoring.series import SERIES, Choice, check_name, group_names, safe, unique


@given(st.text())
def test_every_logger_takes_a_safe_name(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.\-/]+", safe(text))
    assert safe(safe(text)) == safe(text)


@given(st.lists(st.sampled_from(["a", "a_2", "b", "a_2_2"])))
def test_unique_names_are_unique_and_keep_what_was(names: list[str]) -> None:
    found = unique(names)
    assert len(set(found)) == len(names)
    assert all(new.startswith(old) for new, old in zip(found, names))


def test_groups_are_called_by_their_names_or_their_numbers() -> None:
    tensors = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    groups = [
        {"params": [tensors[0]], "name": "back bone"},
        {"params": [tensors[1]]},
        {"params": [tensors[2]], "name": "back(bone"},
        {"params": [tensors[3]], "name": "head/1"},
    ]
    assert group_names(torch.optim.SGD(groups, lr=0.1)) == ["back_bone", "1", "back_bone_2", "head/1"]


def test_by_default_everything_is_wanted_but_what_is_on_request() -> None:
    choice = Choice(None)
    assert all(choice.has(name) and choice.takes(f"{name}/x") for name in SERIES if name != "update_ratio")
    assert not choice.has("update_ratio")
    assert Choice(None, ("update_ratio",)).takes("update_ratio/backbone")


def test_a_beginning_selects_up_to_a_slash() -> None:
    choice = Choice(["lr", "time/data"])
    assert choice.takes("lr")
    assert choice.takes("lr/backbone")
    assert choice.takes("time/data")
    assert not choice.takes("time/step")
    assert not choice.takes("lrs")
    assert choice.has("time")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["lr", "grad_nrm"], r"series: there is no series of this name; got 'grad_nrm'; did you mean grad_norm"),
        ("zzz/a", "series: there is no series of this name; got 'zzz/a'; known series: batches_per_step"),
        ([], "series: names no series; got an empty list"),
        ([3], "series: there is no series of this name; got 3; give names of series"),
    ],
)
def test_unknown_series_are_refused(wanted: list[str], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Choice(wanted)


def test_a_series_of_no_group_is_refused_when_groups_are_known() -> None:
    choice = Choice(["lr/bakbone", "time/data"])
    with pytest.raises(SolverError, match=r"in this run; got 'lr/bakbone'; did you mean lr/backbone\?"):
        choice.check(["lr/backbone", "lr/head", "time/data"])
    Choice(["lr/gen"]).check(["lr/gen/backbone"])


def test_a_name_of_ones_own_is_taken_as_it_is() -> None:
    assert check_name("loss/total-1", "put") == "loss/total-1"
