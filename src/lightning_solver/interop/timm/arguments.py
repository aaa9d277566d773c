"""The arguments of timm's classes, of its factory and of its script: their order, defaults and names."""

from __future__ import annotations

from typing import Any

_WARMUP = {"warmup_t": 0, "warmup_lr_init": 0.0}
_NOISE = {"noise_range_t": None, "noise_pct": 0.67, "noise_std": 1.0, "noise_seed": 42}
_CYCLES = {"lr_min": 0.0, "cycle_mul": 1.0, "cycle_decay": 1.0, "cycle_limit": 1, **_WARMUP, "warmup_prefix": False}
_COUNT = {"t_in_epochs": True}
_STAIRS = {"decay_t": None, "decay_rate": 1.0, **_WARMUP, "warmup_prefix": True, **_COUNT, **_NOISE, "initialize": True}
CLASSES: dict[str, dict[str, Any]] = {
    "CosineLRScheduler": {"t_initial": None, **_CYCLES, **_COUNT, **_NOISE, "k_decay": 1.0, "initialize": True},
    "TanhLRScheduler": {"t_initial": None, "lb": -7.0, "ub": 3.0, **_CYCLES, **_COUNT, **_NOISE, "initialize": True},
    "PolyLRScheduler": {
        **{"t_initial": None, "power": 0.5, **_CYCLES, **_COUNT, **_NOISE},
        **{"k_decay": 1.0, "initialize": True},
    },
    "StepLRScheduler": _STAIRS,
    "MultiStepLRScheduler": _STAIRS,
    "PlateauLRScheduler": {
        **{"decay_rate": 0.1, "patience_t": 10, "threshold": 1e-4, "cooldown_t": 0, **_WARMUP, "lr_min": 0.0},
        **{"mode": "max", "noise_range_t": None, "noise_type": "normal", **_NOISE, "initialize": True},
    },
    "WSDLRScheduler": {
        **{"t_initial": None, "decay_t": None, "lr_min": 0.0},
        **{"stable_fn": "constant", "stable_timescale": None, "stable_power": 0.5},
        **{"decay_fn": "1-sqrt", "decay_power": 0.5, "decay_ratio": 0.1},
        **{**_WARMUP, **_COUNT, **_NOISE, "initialize": True},
    },
}
"""The classes: their arguments in order but for the optimiser, with their defaults; ``None`` if there is none."""

FACTORY: dict[str, Any] = {
    **{"sched": "cosine", "num_epochs": 300, "decay_epochs": None, "decay_milestones": (90, 180, 270)},
    **{"cooldown_epochs": 0, "patience_epochs": 10, "decay_rate": 0.1, "min_lr": 0.0},
    **{"warmup_lr": 1e-5, "warmup_epochs": 0, "warmup_prefix": False},
    **{"noise": None, "noise_pct": 0.67, "noise_std": 1.0, "noise_seed": 42},
    **{"cycle_mul": 1.0, "cycle_decay": 0.1, "cycle_limit": 1, "k_decay": 1.0},
    **{"decay_fn": None, "stable_timescale": None, "plateau_mode": "max"},
    **{"step_on_epochs": True, "updates_per_epoch": 0},
}
"""The keywords of ``create_scheduler_v2`` in order, with their defaults."""

NAMESPACE: dict[str, Any] = {"num_epochs": 100, "decay_epochs": 30, "decay_milestones": (30, 60), "warmup_epochs": 5}
"""Defaults of ``create_scheduler(args)``, for what the arguments lack, where they differ."""

SCRIPT: dict[str, Any] = {"warmup_epochs": 5, "cycle_decay": 0.5}
"""Defaults of ``train.py``, where they differ."""

ARGUMENTS: dict[str, str] = {
    **{"num_epochs": "epochs", "noise": "lr_noise", "noise_seed": "seed", "stable_timescale": "lr_stable_timescale"},
    **{name: f"lr_{name}" for name in ("noise_pct", "noise_std", "k_decay", "decay_fn")},
    **{name: f"lr_{name}" for name in ("cycle_mul", "cycle_decay", "cycle_limit")},
}
"""Keywords of the factory that have another name among the arguments of ``train.py``."""

KEYWORDS: dict[str, str] = {
    **{"t_initial": "num_epochs", "lr_min": "min_lr", "warmup_t": "warmup_epochs", "warmup_lr_init": "warmup_lr"},
    **{"noise_range_t": "noise", "patience_t": "patience_epochs", "mode": "plateau_mode", "power": "decay_rate"},
}
"""Arguments of the classes that have another name among the keywords of the factory."""

SCHEDULERS: dict[str, str] = {
    **{"cosine": "CosineLRScheduler", "tanh": "TanhLRScheduler", "poly": "PolyLRScheduler"},
    **{"step": "StepLRScheduler", "multistep": "MultiStepLRScheduler", "constant": "StepLRScheduler"},
    **{"plateau": "PlateauLRScheduler", "wsd": "WSDLRScheduler", "rsqrt": "WSDLRScheduler", "none": ""},
}
"""The names that the factory has for the classes."""

_OWN = ("step_on_epochs", "updates_per_epoch", "plateau_mode")
SHARED = [ARGUMENTS.get(name, name) for name in FACTORY if name not in _OWN]
"""Keywords of the factory that the script has too, by its names there."""
