"""timm's ``ModelEmaV3`` and ``ModelEmaV2`` beside ours, of a model with batch norm, over drawn arguments and weights."""

import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn

from lightning_solver.interop.timm import from_timm

decays = st.sampled_from([0.0, 0.3, 0.9, 0.99, 0.9998, 1.0])
arguments = st.fixed_dictionaries(
    {},
    optional={
        "decay": decays,
        "min_decay": decays,
        "update_after_step": st.integers(-1, 12),
        "use_warmup": st.booleans(),
        "warmup_gamma": st.sampled_from([1.0, 0.5, 12.0]),
        "warmup_power": st.sampled_from([2 / 3, 1.0, 0.75]),
        "exclude_buffers": st.booleans(),
        "foreach": st.booleans(),
        "stochastic_rounding": st.booleans(),
    },
)


def model_of(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


def moved(model, generator):
    """A step of training: other weights, other statistics, one batch more."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
            else:
                tensor.add_(1)


def compare(running, model, peer, *, counts=True):
    """With our average in its place, the model holds what the peer's copy holds."""
    with running.swapped_in():
        held = {name: value.clone() for name, value in model.state_dict().items()}
    for name, expected in peer.module.state_dict().items():
        if expected.is_floating_point() or counts:
            torch.testing.assert_close(held[name], expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@example(given={}, told=True)
@example(given={"update_after_step": -1, "use_warmup": True}, told=True)
@given(given=arguments, told=st.booleans())
def test_third(given, told):
    model, generator = model_of(torch.float64), torch.Generator().manual_seed(1)
    peer = ModelEmaV3(model, **given)
    written = ", ".join(f"{key}={value!r}" for key, value in given.items())
    config = {
        "average": f"ModelEmaV3(model, {written})",
        "update": "update(model, step=n)" if told else "update(model)",
    }
    running = from_timm(config, strict=True).spec.averages["ema"].over(model)
    for step in range(1, 25):
        moved(model, generator)
        peer.update(model, step=step if told else None)
        running.update()
        compare(running, model, peer)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(decay=decays)
def test_second(decay):
    """Whole numbers it averages by the same formula and cuts, which here are the model's own."""
    model, generator = model_of(torch.float64), torch.Generator().manual_seed(1)
    peer = ModelEmaV2(model, decay=decay)
    running = from_timm(f"ModelEmaV2(model, decay={decay})").spec.averages["ema"].over(model)
    for _ in range(25):
        moved(model, generator)
        peer.update(model)
        running.update()
        compare(running, model, peer, counts=False)


def test_the_script():
    """The arguments of train.py, with the decay that grows."""
    model, generator = model_of(torch.float64), torch.Generator().manual_seed(1)
    peer = ModelEmaV3(model, decay=0.9998, use_warmup=True)
    spec = from_timm({"model_ema": True, "model_ema_warmup": True, "lr": 0.1}, strict=True).spec
    running = spec.averages["ema"].over(model)
    for step in range(1, 200):
        moved(model, generator)
        peer.update(model, step=step)
        running.update()
    compare(running, model, peer)


def test_half_precision_is_averaged_in_single_precision_as_with_timms_dtype():
    model, generator = model_of(torch.bfloat16), torch.Generator().manual_seed(1)
    peer = ModelEmaV3(model, decay=0.99, dtype=torch.float32)
    running = from_timm("ModelEmaV3(model, decay=0.99, dtype=torch.float32)").spec.averages["ema"].over(model)
    for step in range(1, 50):
        moved(model, generator)
        peer.update(model, step=step)
        running.update()
    for name, value in zip(running.names, running.values, strict=True):
        torch.testing.assert_close(value, peer.module.state_dict()[name], rtol=1e-5, atol=1e-6)
