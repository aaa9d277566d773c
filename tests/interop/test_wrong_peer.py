"""A config of another system is refused, with the importer that reads it."""

import pytest

from lightning_solver import SolverError, interop

CONFIGS = {
    "mmcv": {"lr_config": {"policy": "step", "step": [3]}},
    "mmengine": {"param_scheduler": [{"type": "StepLR", "step_size": 3}]},
    "detectron2": {"SOLVER": {"MAX_ITER": 90, "STEPS": [60], "LR_SCHEDULER_NAME": "WarmupMultiStepLR"}},
    "pet": {"SOLVER": {"SCHEDULER": {"POLICY": "COSINE", "TOTAL_ITERS": 90, "WARM_UP_ITERS": 0}}},
    "timm": {"create_scheduler_v2": {"sched": "cosine", "num_epochs": 9}},
    "transformers": {"lr_scheduler_type": "linear", "max_steps": 9},
    "composer": {"schedulers": "ConstantScheduler()", "max_duration": "9ep"},
}
PAIRS = [(own, other) for own in [*CONFIGS, "torch"] for other in CONFIGS if own != other]


@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_wrong_peer(own, other):
    if (own, other) == ("detectron2", "mmengine"):
        config, wanted = CONFIGS[other], "param_scheduler"  # fvcore's schedulers have that name too
    else:
        config, wanted = CONFIGS[other], f"interop.from_{other}"
    with pytest.raises(SolverError) as error:
        getattr(interop, f"from_{own}")(config, facts={"step_on": "epoch"})
    assert wanted in str(error.value)


@pytest.mark.parametrize("peer", [*CONFIGS, "torch"])
@pytest.mark.parametrize("config", [5, None, "x(", "missing.yaml", "missing.py", ["a", 3]], ids=repr)
def test_no_config_at_all(peer, config):
    with pytest.raises(SolverError):
        getattr(interop, f"from_{peer}")(config)
