"""Limits that are infinite: they clip nothing, in every peer."""

import math

import pytest

from lightning_solver import interop

INFINITE = {
    "composer": {"max_duration": "2ep", "algorithms": "GradientClipping('norm', float('inf'))"},
    "detectron2": {
        "SOLVER": {"BASE_LR": 0.1, "MAX_ITER": 9, "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_VALUE": math.inf}}
    },
    "mmcv": {"optimizer": {"type": "SGD", "lr": 0.1}, "optimizer_config": {"grad_clip": {"max_norm": math.inf}}},
    "mmengine": {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": {"max_norm": math.inf}}},
    "timm": {"opt": "sgd", "lr": 0.1, "epochs": 2, "clip_grad": math.inf},
    "torch": {"trainer": {"max_epochs": 1, "gradient_clip_val": math.inf}},
    "transformers": {"learning_rate": 0.1, "max_grad_norm": math.inf},
}


@pytest.mark.parametrize("peer", INFINITE)
def test_an_infinite_limit_clips_nothing_whoever_has_it(peer):
    imported = getattr(interop, f"from_{peer}")(INFINITE[peer])
    assert imported.spec.clip is None
    assert any("is infinite: nothing is clipped" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        ("torch", "clip_grad_norm_(model.parameters(), float('inf'))"),
        ("torch", "clip_grad_value_(model.parameters(), float('inf'))"),
        ("timm", "dispatch_clip_grad(model.parameters(), float('inf'))"),
    ],
)
def test_a_script_that_only_measures(peer, text):
    imported = getattr(interop, f"from_{peer}")(text)
    assert imported.spec.clip is None
    assert any("has an infinite limit: nothing is clipped, only the norm is measured" in n for n in imported.notes)
