"""Clipping and accumulation of MMEngine's own OptimWrapper beside the imported spec: the same gradients and weights."""

import copy
import logging

import pytest
import torch
import trained as t
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.optim import OptimWrapper
from test_training_mmengine import ADAMW, COSINE, KINDS, RAMP, SGD, STAIRS, by_runner, config_of
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop.mmengine import from_mmengine

logging.disable(logging.WARNING)
NORM, GREATEST = {"max_norm": 0.2, "norm_type": 2}, {"max_norm": 0.05, "norm_type": "inf"}
VALUE = {"type": "value", "clip_value": 0.01}
CLIPS = {"norm": NORM, "greatest": GREATEST, "value": VALUE}


@pytest.mark.parametrize("counts", [1, 2, 5])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["type"])
def test_clipped_and_accumulated(optimizer, clip, counts, tmp_path):
    wrapper = {"clip_grad": CLIPS[clip], "accumulative_counts": counts}
    config = config_of(optimizer, KINDS, [RAMP, COSINE], wrapper=wrapper)
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    assert read.spec.accumulate == (None if counts == 1 else counts)
    theirs = by_runner(config, tmp_path)
    assert t.far(t.trained(read.spec), theirs) <= 1e-6
    assert t.far(t.trained(read.spec.replace(clip=None)), theirs) > 1e-4  # it is the clipping that makes them equal


def test_accumulated_over_a_single_epoch_whose_last_window_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(t, "EPOCHS", 1)
    wrapper = {"clip_grad": NORM, "accumulative_counts": 4}
    config = config_of(SGD, KINDS, [{**RAMP, "end": 5}], wrapper=wrapper)
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    assert t.far(t.trained(read.spec), by_runner(config, tmp_path)) <= 1e-6


def test_windows_that_cross_epochs_are_said_to_differ_and_do(tmp_path):
    config = config_of(SGD, KINDS, [STAIRS], wrapper={"accumulative_counts": 4})
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES})
    assert read.unmapped == ("optim_wrapper.accumulative_counts",)
    assert t.far(t.trained(read.spec), by_runner(config, tmp_path)) > 1e-4


orders = st.sampled_from([1, 2, 2.0, 3, 1.5, "inf", float("inf"), 0, None])
limits = st.sampled_from([0.1, 1, 2.5, "0.5", 100.0, float("inf"), 0, -1.0, None])
norms = st.fixed_dictionaries(
    {},
    optional={
        **{"type": st.sampled_from(["norm", "value", "agc"]), "max_norm": limits, "norm_type": orders},
        **{"clip_value": limits, "error_if_nonfinite": st.booleans(), "foreach": st.booleans()},
    },
)


def clipped_by_theirs(clip, grads):
    """The gradients after a step of their wrapper."""
    tensors = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    wrapper = OptimWrapper(torch.optim.SGD(tensors, lr=0.0), clip_grad=copy.deepcopy(clip))
    for tensor, grad in zip(tensors, grads):
        tensor.grad = grad.clone()
    wrapper.step()
    return [tensor.grad for tensor in tensors]


@settings(max_examples=300, deadline=None)
@given(clip=norms, seed=st.integers(0, 100))
def test_arguments_drawn_at_random(clip, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), ()]
    grads = [torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for shape in shapes]
    config = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": clip}}
    try:
        theirs = clipped_by_theirs(clip, grads)
    except (AssertionError, TypeError, ValueError):
        theirs = None
    try:
        spec = from_mmengine(config, strict=True).spec
    except SolverError:
        spec = None
    if theirs is None:
        assert spec is None
        return
    useless = clip.get("norm_type", 2) == 0 or any(clip.get(key) in (0, -1.0) for key in ("max_norm", "clip_value"))
    assert (spec is None) == useless  # what leaves nothing to learn from is refused
    if spec is None:
        return
    tensors = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for tensor, grad in zip(tensors, grads):
        tensor.grad = grad.clone()
    if spec.clip is not None:
        spec.clip.apply(tensors)
    for tensor, expected in zip(tensors, theirs):
        torch.testing.assert_close(tensor.grad, expected, rtol=1e-9, atol=1e-12)
