"""Every key of a foreign config is either mapped or named in the notes, and an error where that is asked for."""

import pytest

from lightning_solver import SolverError, interop

FACTS = {"step_on": "epoch", "epochs": 10, "iters_per_epoch": 5, "total_iters": 50}
CASES = {
    "mmcv": ({"lr_config": {"policy": "step", "step": [3], "gama": 0.5}}, "lr_config.gama", "gamma"),
    "mmcv config": ({"lr_config": {"policy": "fixed"}, "zzz": 1}, "zzz", None),
    "mmcv clipping": (
        {"optimizer_config": {"grad_clip": {"max_norm": 1, "norm_typ": 2}}},
        "grad_clip.norm_typ",
        "norm_type or max_norm",
    ),
    "mmcv hook": ({"optimizer_config": {"grad_clp": None}}, "optimizer_config.grad_clp", "grad_clip"),
    "mmengine": ({"type": "MultiStepLR", "milestones": [3], "gama": 0.5}, "gama", "gamma"),
    "mmengine config": ({"param_scheduler": {"type": "StepLR", "step_size": 2}, "zzz": 1}, "zzz", None),
    "mmengine clipping": (
        {
            "optim_wrapper": {
                "optimizer": {"type": "SGD"},
                "clip_grad": {"type": "value", "clip_value": 1, "clip_valu": 2},
            }
        },
        "clip_grad.clip_valu",
        "clip_value",
    ),
    "mmengine wrapper": (
        {"optim_wrapper": {"optimizer": {"type": "SGD"}, "acumulative_counts": 2}},
        "optim_wrapper.acumulative_counts",
        "accumulative_counts",
    ),
    "detectron2": ({"SOLVER": {"MAX_ITER": 50, "STEPS": [30], "GAMA": 0.5}}, "SOLVER.GAMA", "GAMMA"),
    "detectron2 clipping": ({"CLIP_GRADIENTS": {"CLIP_TYP": "norm"}}, "CLIP_GRADIENTS.CLIP_TYP", "CLIP_TYPE"),
    "detectron2 class": ("CosineParamScheduler(1.0, 0.1, end_valu=3)", "end_valu", "end_value or start_value"),
    "pet": ({"POLICY": "COSINE", "TOTAL_ITERS": 50, "WARM_UP_ITERS": 0, "GAMA": 1}, "GAMA", "GAMMA"),
    "pet clipping": ({"OPTIMIZER": {"CLIP_GRADIENTS": {"NORM_TYP": 2}}}, "CLIP_GRADIENTS.NORM_TYP", "NORM_TYPE"),
    "timm": ({"create_scheduler_v2": {"sched": "cosine", "num_epochs": 10, "min_l": 3}}, "min_l", "min_lr"),
    "timm class": ({"type": "CosineLRScheduler", "t_initial": 10, "lr_mi": 3}, "lr_mi", "lr_min or cycle_limit"),
    "timm arguments": ({"sched": "cosine", "epochs": 10, "zzz": 3}, "zzz", None),
    "timm clip": ("adaptive_clip_grad(model.parameters(), clip_facto=0.1)", "clip_facto", "clip_factor"),
    "transformers": ({"lr_scheduler_type": "linear", "max_steps": 50, "zzz": 1}, "zzz", None),
    "transformers kwargs": (
        {"lr_scheduler_type": "polynomial", "max_steps": 50, "lr_scheduler_kwargs": {"powr": 1, "lr_end": 0.0}},
        "lr_scheduler_kwargs.powr",
        "power",
    ),
    "composer": ({"schedulers": "LinearScheduler(alpha=3)", "max_duration": "10ep"}, "alpha", "alpha_i or alpha_f"),
    "composer trainer": ({"schedulers": "ConstantScheduler()", "max_duration": "9ep", "zzz": 1}, "zzz", None),
    "composer clip": ({"algorithms": "GradientClipping('norm', 1.0, threshold=1)"}, "threshold", "clipping_threshold"),
    "torch": ("StepLR(optimizer, step_size=3, gama=1)", "gama", "gamma"),
    "torch clip": ("clip_grad_norm_(model.parameters(), 1.0, norm_typ=1)", "norm_typ", "norm_type or max_norm"),
    "torch config": ({"schedulers": ["StepLR(optimizer, step_size=3)"], "zzz": 1}, "zzz", None),
}


@pytest.mark.parametrize("name", CASES)
def test_an_unknown_key(name):
    config, path, meant = CASES[name]
    importer = getattr(interop, f"from_{name.split()[0]}")
    imported = importer(config, facts=FACTS)
    (found,) = [key for key in imported.unmapped if key.endswith(path)]
    (note,) = [note for note in imported.notes if note.startswith(f"{found}: ")]
    assert meant is None or f"did you mean {meant}?" in note
    with pytest.raises(SolverError, match=r"is not mapped; got .* such keys: .*; take it out of the config"):
        importer(config, facts=FACTS, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_without_it_nothing_is_left_over(name):
    """The case above is about that key and no other."""
    config, path, _ = CASES[name]
    imported = getattr(interop, f"from_{name.split()[0]}")(config, facts=FACTS)
    assert [key for key in imported.unmapped if key.endswith(path)] == list(imported.unmapped)
