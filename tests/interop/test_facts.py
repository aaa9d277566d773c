"""Facts are checked before they are used."""

import pytest

from lightning_solver import SolverError
from lightning_solver.interop import from_mmcv, from_torch

FIXED = {"lr_config": {"policy": "fixed"}}


@pytest.mark.parametrize("value", ["abc", -3, 0, True, [5]])
@pytest.mark.parametrize("name", ["iters_per_epoch", "total_iters", "epochs"])
def test_lengths_are_numbers(name, value):
    with pytest.raises(SolverError, match=rf"^facts\.{name}: must be a number > 0; got "):
        from_mmcv(FIXED, facts={name: value})


def test_names_that_are_not_known_are_noted():
    assert "facts.epoch: is not used; did you mean epochs?" in from_mmcv(FIXED, facts={"epoch": 3}).notes


def test_a_variable_of_any_name():
    imported = from_torch("sched = StepLR(optimizer, step_size=30)", facts={"step_on": "epoch"})
    assert imported.spec.to_dict()["schedules"]["lr"]["init_args"] == {"every": "30ep"}
