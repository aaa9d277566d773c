"""Accumulation as plain data: what is refused, what is read, how it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from lightning_solver import SolverError, SolverSpec
from lightning_solver.accumulation import Accumulation, Windows, milestones
from lightning_solver.callbacks import GradientAccumulation
from lightning_solver.spec import difference

REFUSED: dict[str, tuple[Any, str]] = {
    "zero": (0, "solver.accumulate: must be at least 1; got 0; correct it"),
    "negative later": ({0: 1, "5ep": -2}, "solver.accumulate.5ep: must be at least 1; got -2; correct it"),
    "no start": ({"5ep": 4}, "solver.accumulate: does not say what holds from the start; got 5ep; begin with 0, as in {0: 1, 5ep: 4}"),
    "empty": ({}, "solver.accumulate: names no point; got {}; begin with 0, as in {0: 1, 5ep: 4}, or leave it out"),
    "order": ({0: 1, 10: 2, 5: 3}, "solver.accumulate.5: does not come after the point before it; got 5; put them in order"),
    "twice": ({0: 1, "5": 2, "5st": 3}, "solver.accumulate.5st: does not come after the point before it; got 5st; put them in order"),
    "units": ({0: 1, 10: 2, "5ep": 3}, "solver.accumulate.5ep: is in another unit than a point before it; got 5ep; give all points in epochs, or all in steps"),
    "part of the run": ({0: 1, "10%": 2}, "solver.accumulate.10%: is not a point in epochs or in optimiser steps; got 10%; give points such as 5ep (epochs) or 1000 (optimiser steps)"),
    "sum": ({0: 1, "1ep+3": 2}, "solver.accumulate.1ep+3: is not a point in epochs or in optimiser steps; got 1ep+3; give points such as 5ep (epochs) or 1000 (optimiser steps)"),
    "both": ({"batches": 2, "samples": 64}, "solver.accumulate.batches: is given beside samples; got batches 2 and samples 64; give one of them"),
    "no name": ({"weigh_by": "n tokens"}, "solver.accumulate.weigh_by: is not a name; got 'n tokens'; give the name of an attribute or a method of the module"),
    "samples": ({"samples": 0}, "solver.accumulate.samples: must be at least 1; got 0; correct it"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_with_its_path(given: Any, message: str) -> None:
    with pytest.raises(SolverError) as caught:
        SolverSpec.from_dict({"accumulate": given})
    assert str(caught.value) == message


@pytest.mark.parametrize("given", [True, 2.5, "4", {0: 2.0}, {0: True}, [4], {"batch": 4}, {0: {1: 2}}])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(SolverError, match=r"^solver\.accumulate"):
        SolverSpec.from_dict({"accumulate": given})


def test_the_callback_says_its_own_name() -> None:
    with pytest.raises(SolverError) as caught:
        GradientAccumulation({0: 1, 5: 0})
    assert str(caught.value) == "GradientAccumulation.batches.5: must be at least 1; got 0; correct it"
    with pytest.raises(SolverError, match=r"^GradientAccumulation\.batches: is given beside samples"):
        GradientAccumulation(2, samples=64)


def test_python_gets_the_same_errors() -> None:
    with pytest.raises(SolverError, match=r"^SolverSpec\.accumulate: must be at least 1; got 0"):
        SolverSpec(accumulate=0)
    with pytest.raises(SolverError, match=r"^Accumulation\.samples\.7: must be at least 1; got 0"):
        Accumulation(samples={0: 8, 7: 0})


FORMS: dict[str, tuple[Any, Accumulation, str]] = {
    "one": (1, Accumulation(1), "1 batch a step"),
    "a number": (4, Accumulation(4), "4 batches a step"),
    "by epoch": ({0: 1, "5ep": 4}, Accumulation({0: 1, "5ep": 4}), "1 batch a step, 4 from 5ep on"),
    "by step": ({0: 2, 1000: 4, "2000": 8}, Accumulation({0: 2, 1000: 4, "2000": 8}), "2 batches a step, 4 from 1000 on, 8 from 2000 on"),
    "a part of an epoch": ({0: 1, "0.5ep": 2}, Accumulation({0: 1, "0.5ep": 2}), "1 batch a step, 2 from 0.5ep on"),
    "block": ({"batches": 4, "keep_gradients": True}, Accumulation(4, keep_gradients=True), "4 batches a step"),
    "nothing but a weight": ({"weigh_by": "tokens"}, Accumulation(weigh_by="tokens"), "1 batch a step, weighted by tokens"),
    "samples": ({"samples": 64}, Accumulation(samples=64), "64 samples a step"),
    "one sample": ({"samples": 1}, Accumulation(samples=1), "1 sample a step"),
    "samples by epoch": ({"samples": {0: 64, "5ep": 128}, "weigh_by": "n"}, Accumulation(samples={0: 64, "5ep": 128}, weigh_by="n"), "64 samples a step, 128 from 5ep on, weighted by n"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected", "told"), FORMS.values(), ids=FORMS)
def test_every_form_is_read_told_and_written_back(given: Any, expected: Accumulation, told: str) -> None:
    spec = SolverSpec.from_dict({"accumulate": given})
    assert spec.accumulation() == expected
    assert expected.describe() == told
    assert SolverSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(("given", "expected", "told"), FORMS.values(), ids=FORMS)
def test_json_which_has_text_keys_only_says_the_same(given: Any, expected: Accumulation, told: str) -> None:
    spec = SolverSpec.from_dict(json.loads(json.dumps(SolverSpec.from_dict({"accumulate": given}).to_dict())))
    how = spec.accumulation()
    assert how is not None
    assert how.windows(1) == expected.windows(1)
    assert how.describe() == told


def test_yaml_keys_may_be_numbers_or_texts() -> None:
    for text in ("{0: 1, 10: 4}", "{'0': 1, '10': 4}", "{0st: 1, 10st: 4}", "{0ep: 1, 10: 4}"):
        how = SolverSpec.from_dict({"accumulate": yaml.safe_load(text)}).accumulation()
        assert how is not None
        assert how.windows(None) == Windows("st", (0, 10), (1, 4))  # type: ignore[arg-type]


def test_a_change_is_told_by_its_path() -> None:
    assert difference(SolverSpec(accumulate=2), SolverSpec(accumulate=4)) == ["accumulate: 2 -> 4"]
    changed = difference(SolverSpec(accumulate={0: 1, "5ep": 4}), SolverSpec(accumulate={0: 1, "5ep": 8}))
    assert changed == ["accumulate.5ep: 4 -> 8"]


def test_milestones_are_points_and_numbers_in_order() -> None:
    found = milestones({0: 1, "5ep": 4, "7.5ep": 8}, "accumulate")
    assert [number for _, number in found] == [1, 4, 8]
    assert [point.terms[0][0] for point, _ in found] == [0, 5, 7.5]
    assert milestones(3, "accumulate")[0][1] == 3


def test_it_is_constant_where_no_point_changes_the_number() -> None:
    assert Accumulation().constant == 1
    assert Accumulation(4).constant == 4
    assert Accumulation({0: 4, 10: 4}).constant == 4
    assert Accumulation({0: 4, 10: 2}).constant is None
    assert Accumulation(samples=64).constant is None  # of that the loader decides
    assert [Accumulation({0: 4, 10: 2}).first, Accumulation().first, Accumulation(samples=8).first] == [4, 1, None]


def test_samples_become_batches() -> None:
    assert Accumulation(samples=64).windows(16).sizes == (4,)
    assert Accumulation(samples={0: 16, "2ep": 64}).windows(16) == Windows("ep", (0, 2), (1, 4))  # type: ignore[arg-type]


def test_samples_that_no_whole_number_of_batches_makes() -> None:
    with pytest.raises(SolverError) as caught:
        Accumulation(samples={0: 32, "2ep": 72}).windows(16)
    what = "is no multiple of the 16 samples of a batch over all devices"
    assert str(caught.value) == f"accumulate.samples: {what}; got 72; give 64 or 80"
    with pytest.raises(SolverError, match=r"got 10; give 16$"):
        Accumulation(samples=10).windows(16)


def test_samples_of_batches_of_unknown_size() -> None:
    with pytest.raises(SolverError) as caught:
        Accumulation(samples=64).windows(None, "GradientAccumulation")
    what = "needs the number of samples of a batch, which is not known"
    assert str(caught.value) == f"GradientAccumulation.samples: {what}; give batches, or a loader with a batch size"


def test_accumulate_and_batches_per_step_are_one_thing() -> None:
    with pytest.raises(SolverError, match=r"accumulate: is given beside batches_per_step; got 2"):
        SolverSpec(accumulate=2, batches_per_step=2)
