"""The table of torch's optimisers that importers read arguments by."""

import inspect

import pytest
import torch

from lightning_solver import SolverError
from lightning_solver.interop.optimizers import TORCH, plain_value
from lightning_solver.interop.reading import Call, Name, Unread

CLASSES = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_has_what_the_classes_take(name):
    arguments = set(inspect.signature(CLASSES[name].__init__).parameters) - {"self", "params"}
    assert arguments <= set(TORCH[name])  # older releases of torch take less


def test_values_are_plain_data():
    assert plain_value("1e-3", "eps") == 1e-3
    assert plain_value((0.9, "0.99"), "betas") == (0.9, 0.99)
    assert plain_value("match_rms_adamw", "adjust_lr_fn") == "match_rms_adamw"
    assert plain_value(None, "foreach") is None
    for value in (Name("rate"), Call("rate"), Unread("lambda: 0")):
        with pytest.raises(SolverError, match=r"^eps: is not a literal"):
            plain_value(value, "eps")
    with pytest.raises(SolverError, match=r"^eps: must be a finite number; got inf"):
        plain_value(float("inf"), "eps")
