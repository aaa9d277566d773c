"""Clipping beside timm and torch, over drawn gradients."""

import math

import torch
import torchvision_stub  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import adaptive_clip_grad, dispatch_clip_grad
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from lightning_solver.clipping import AGC, GlobalNorm, ParameterNorm, Value
from lightning_solver.clipping.norms import Gradients

SHAPES = [(), (1,), (5,), (3, 4), (1, 6), (4, 2, 3, 3), (2, 3, 2), (64, 40), (3000,)]
orders = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, math.inf])
limits = st.sampled_from([1e-4, 0.01, 0.3, 5.0, 1e4])
models = st.tuples(
    st.lists(st.sampled_from(SHAPES), min_size=1, max_size=8),
    st.sampled_from([1e-9, 1e-3, 1.0, 100.0]),
    st.integers(0, 9),
    st.sampled_from([torch.float64, torch.float32]),
)
MANY = settings(deadline=None, max_examples=150)
RTOL = {torch.float64: 1e-12, torch.float32: 3e-6}


def twins(model):
    """Two lists of the same parameters with the same gradients; some are 0, some have none."""
    shapes, scale, seed, dtype = model
    numbers = torch.Generator().manual_seed(seed)
    found = ([], [])
    for i, shape in enumerate(shapes):
        weight = torch.randn(shape, generator=numbers, dtype=torch.float64).to(dtype)
        gradient = (scale * torch.randn(shape, generator=numbers, dtype=torch.float64)).to(dtype)
        if weight.ndim > 1 and i % 2:
            weight[0], gradient[-1] = 0, 0
        for own in found:
            own.append(nn.Parameter(weight.clone()))
            own[-1].grad = None if i and i == seed else gradient.clone()
    return found


def written(order):
    return "inf" if math.isinf(order) else order


def compare(ours, theirs, dtype):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=RTOL[dtype], atol=0.0)


@MANY
@given(model=models, factor=limits, eps=st.sampled_from([1e-3, 0.1, 1e-6]), order=orders)
def test_adaptive(model, factor, eps, order):
    ours, theirs = twins(model)
    AGC(factor=factor, eps=eps, norm_type=written(order)).apply(ours)
    adaptive_clip_grad(theirs, clip_factor=factor, eps=eps, norm_type=order)
    compare(ours, theirs, model[3])


@MANY
@given(model=models, value=limits, mode=st.sampled_from(["norm", "value", "agc"]))
def test_dispatched(model, value, mode):
    ours, theirs = twins(model)
    clip = {"norm": GlobalNorm(value), "value": Value(value), "agc": AGC(value)}[mode]
    clip.apply(ours)
    dispatch_clip_grad(theirs, value=value, mode=mode)
    compare(ours, theirs, model[3])


@MANY
@given(model=models, limit=limits, order=orders, foreach=st.booleans())
def test_norm(model, limit, order, foreach):
    ours, theirs = twins(model)
    found = GlobalNorm(limit, written(order)).apply(ours)
    total = clip_grad_norm_(theirs, limit, norm_type=order, foreach=foreach)
    compare(ours, theirs, model[3])
    torch.testing.assert_close(found.norm, total, rtol=RTOL[model[3]], atol=0.0)
    again = Gradients(ours).norm(order)
    left = get_total_norm([p.grad for p in ours if p.grad is not None], order)
    torch.testing.assert_close(again, left, rtol=RTOL[model[3]], atol=0.0)
    torch.testing.assert_close(found.clipped_norm, left, rtol=1e-5, atol=0.0)


@MANY
@given(model=models, limit=limits, order=orders)
def test_norm_of_each(model, limit, order):
    """What detectron2 calls ``norm``: torch's function, parameter by parameter."""
    ours, theirs = twins(model)
    ParameterNorm(limit, written(order)).apply(ours)
    for parameter in theirs:
        clip_grad_norm_(parameter, limit, norm_type=order)
    compare(ours, theirs, model[3])


@MANY
@given(model=models, limit=limits)
def test_value(model, limit):
    ours, theirs = twins(model)
    Value(limit).apply(ours)
    clip_grad_value_(theirs, limit)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad)
