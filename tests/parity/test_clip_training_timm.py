"""timm's clipping beside ours: tensor by tensor, and networks trained by a loop such as ``train.py`` has and by Lightning."""

import pytest
import torch
import torchvision_stub  # noqa: F401
import trained as t
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models import model_parameters
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler
from timm.utils import NativeScaler, dispatch_clip_grad
from timm.utils.agc import adaptive_clip_grad

from lightning_solver.interop.timm import from_timm

# ------------------------------------------------------------------ tensor by tensor

SHAPES = [(4, 3, 2, 2), (3, 4), (2, 3, 2), (5,), (1,), (2, 2)]
scales = st.lists(st.sampled_from([0.0, 1e-9, 1e-7, 1e-4, 1e-2, 1.0, 30.0]), min_size=6, max_size=6)
limits = st.sampled_from([1e-4, 1e-2, 0.3, 1.0, 20.0])
norms = st.sampled_from([1.0, 2.0, 3.0])
drawn = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])


def tensors(weights, gradients, seed):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, shape in enumerate(SHAPES):
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * weights[i]
        tensor.requires_grad_()
        if i != 4:  # which has no gradient
            tensor.grad = torch.randn(shape, generator=generator, dtype=torch.float64) * gradients[i]
        made.append(tensor)
    return made


def compare(clip, peer, weights, gradients, seed):
    ours, theirs = (tensors(weights, gradients, seed) for _ in range(2))
    clip.apply(ours)
    peer(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-18)


@drawn
@given(weights=scales, gradients=scales, seed=st.integers(0, 99), factor=limits, norm=norms, eps=limits)
def test_agc_of_drawn_tensors(weights, gradients, seed, factor, norm, eps):
    text = f"adaptive_clip_grad(parameters, {factor}, eps={eps}, norm_type={norm})"
    clip = from_timm(text, strict=True).spec.clip
    compare(clip, lambda made: adaptive_clip_grad(made, factor, eps, norm), weights, gradients, seed)


@drawn
@given(
    weights=scales,
    gradients=scales,
    seed=st.integers(0, 99),
    limit=limits,
    norm=norms,
    mode=st.sampled_from(["norm", "value", "agc"]),
)
def test_dispatch_of_drawn_tensors(weights, gradients, seed, limit, norm, mode):
    text = f"dispatch_clip_grad(parameters, value={limit}, mode={mode!r}, norm_type={norm})"
    clip = from_timm(text, strict=True).spec.clip
    compare(clip, lambda made: dispatch_clip_grad(made, limit, mode, norm), weights, gradients, seed)


# ------------------------------------------------------------------ training


class Arguments:
    """The arguments of the script, those that are not given at its defaults."""

    def __init__(self, **given):
        own = {"clip_grad": None, "clip_mode": "norm", "grad_accum_steps": 1}
        self.__dict__.update(own | given)


OPTIMIZER = {"opt": "momentum", "lr": 0.05, "weight_decay": 1e-3, "momentum": 0.9}
SCHEDULE = {
    **{"sched": "multistep", "epochs": t.EPOCHS, "decay_milestones": [2, 4], "decay_rate": 0.5},
    **{"warmup_epochs": 0},
}
"""Rates that are the same numbers here and there."""


def by_loop(arguments, scaled):
    """Trains as the script does: the loss divided by the batches of the window, one step at its end."""
    args = Arguments(**arguments)
    model = t.Bare()
    optimizer = create_optimizer_v2(model, args.opt, args.lr, args.weight_decay, args.momentum, foreach=False)
    updates = -(-t.BATCHES // args.grad_accum_steps)
    scheduler, epochs = create_scheduler(args, optimizer, updates_per_epoch=updates)
    scaler = NativeScaler(device="cpu") if scaled else None
    for epoch in range(epochs):
        size = args.grad_accum_steps
        rest = t.BATCHES % size
        optimizer.zero_grad()
        for i, batch in enumerate(t.loader()):
            steps = i + 1 == t.BATCHES or (i + 1) % size == 0
            size = rest if i >= t.BATCHES - rest else size
            loss = t.loss_of(model, *batch) / size
            chosen = model_parameters(model, exclude_head="agc" in args.clip_mode)
            if scaler is not None:
                scaler(
                    loss,
                    optimizer,
                    clip_grad=args.clip_grad,
                    clip_mode=args.clip_mode,
                    parameters=chosen,
                    need_update=steps,
                )
            else:
                loss.backward()
                if steps:
                    if args.clip_grad is not None:
                        dispatch_clip_grad(chosen, value=args.clip_grad, mode=args.clip_mode)
                    optimizer.step()
            if steps:
                optimizer.zero_grad()
        scheduler.step(epoch + 1)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def imported(arguments):
    return from_timm(arguments, facts={"iters_per_epoch": t.BATCHES}, strict=True).spec


CLIPS = [
    {},
    {"clip_grad": 0.3},
    {"clip_grad": 0.05, "clip_mode": "value"},
    {"clip_grad": 0.05, "clip_mode": "agc"},
]


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("size", [1, 4, 3])
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: "-".join(map(str, clip.values())) or "none")
def test_the_script_trains_to_the_same_weights(clip, size, scaled):
    arguments = {**OPTIMIZER, **SCHEDULE, **clip, "grad_accum_steps": size}
    ours, theirs = t.trained(imported(arguments)), by_loop(arguments, scaled)
    assert t.far(ours, theirs) <= 1e-6


@pytest.mark.parametrize("clip", CLIPS[1:], ids=lambda clip: "-".join(map(str, clip.values())))
def test_it_is_the_clipping_and_the_windows_that_make_them_equal(clip):
    arguments = {**OPTIMIZER, **SCHEDULE, **clip, "grad_accum_steps": 4}
    spec, theirs = imported(arguments), by_loop(arguments, False)
    for other in (spec.replace(clip=None), spec.replace(accumulate=3), spec.replace(accumulate=None)):
        assert t.far(t.trained(other), theirs) > 1e-4
