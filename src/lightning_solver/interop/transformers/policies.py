"""The schedules of transformers by name."""

from __future__ import annotations

from lightning_solver.interop.transformers.ask import Policy
from lightning_solver.interop.transformers.curves import (
    constant,
    constant_with_warmup,
    inverse_sqrt,
    linear,
    polynomial,
)
from lightning_solver.interop.transformers.plateau import greedy, plateau
from lightning_solver.interop.transformers.stable_decay import warmup_stable_decay
from lightning_solver.interop.transformers.waves import (
    cosine,
    cosine_warmup_with_min_lr,
    cosine_with_min_lr,
    cosine_with_restarts,
)

_W, _T, _LAST = "num_warmup_steps", "num_training_steps", "last_epoch"
_LOWEST = (_W, _T, "num_cycles", _LAST, "min_lr", "min_lr_rate")
_PLATEAU = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps", "verbose")
_GREEDY = (*_PLATEAU, "warmup", "max_lr", "smooth", "window_size", "reset_start")
_WSD = (_W, "num_decay_steps", _T, "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles", _LAST)

POLICIES = {
    "linear": Policy("get_linear_schedule_with_warmup", (_W, _T, _LAST), linear),
    "cosine": Policy("get_cosine_schedule_with_warmup", (_W, _T, "num_cycles", _LAST), cosine),
    "cosine_with_restarts": Policy(
        "get_cosine_with_hard_restarts_schedule_with_warmup", (_W, _T, "num_cycles", _LAST), cosine_with_restarts
    ),
    "polynomial": Policy("get_polynomial_decay_schedule_with_warmup", (_W, _T, "lr_end", "power", _LAST), polynomial),
    "constant": Policy("get_constant_schedule", (_LAST,), constant),
    "constant_with_warmup": Policy("get_constant_schedule_with_warmup", (_W, _LAST), constant_with_warmup),
    "inverse_sqrt": Policy("get_inverse_sqrt_schedule", (_W, "timescale", _LAST), inverse_sqrt),
    "reduce_lr_on_plateau": Policy("get_reduce_on_plateau_schedule", _PLATEAU, plateau),
    "cosine_with_min_lr": Policy("get_cosine_with_min_lr_schedule_with_warmup", _LOWEST, cosine_with_min_lr),
    "cosine_warmup_with_min_lr": Policy(
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
        (*_LOWEST, "warmup_lr_rate"),
        cosine_warmup_with_min_lr,
    ),
    "warmup_stable_decay": Policy("get_wsd_schedule", _WSD, warmup_stable_decay),
    "greedy": Policy("get_greedy_schedule", _GREEDY, greedy),
}
"""Value of ``lr_scheduler_type`` -> how it is made."""

FUNCTIONS = {policy.function: name for name, policy in POLICIES.items()}
