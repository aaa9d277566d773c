"""The policies by name, and how one of them is read together with its warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Notes, Phases, Settings
from lightning_solver.interop.mmcv.curves import cooldown, cosine, exp, flat_cosine, inv, linear, poly, step
from lightning_solver.interop.mmcv.cycles import cyclic, restart
from lightning_solver.interop.mmcv.one_cycle import one_cycle_lr, one_cycle_momentum
from lightning_solver.interop.mmcv.policy import Policy
from lightning_solver.interop.mmcv.run import Run
from lightning_solver.interop.mmcv.warmup import with_warmup
from lightning_solver.schedules import Constant

_COMMON = ("policy", "type", "_delete_", "by_epoch", "warmup", "warmup_iters", "warmup_ratio")


def read_schedule(option: str, config: Any, where: str, run: Run, facts: Facts, notes: Notes) -> Phases:
    """The schedule of an ``lr_config`` or ``momentum_config``."""
    data = Settings(config, where, notes)
    policies = _LR_POLICIES if option == "lr" else _MOMENTUM_POLICIES
    name = data.needed("policy")
    if not isinstance(name, str):
        raise SolverError(data.path("policy"), "must be a name", got=repr(name), do="give such as 'step'")
    name = name.title() if name == name.lower() else name  # as MMCV completes it
    if name not in policies:
        do = suggestion(name, policies, "policies")
        raise SolverError(data.path("policy"), f"is not a policy of MMCV for the {option}", got=repr(name), do=do)
    read, keys = policies[name]
    own = (*_COMMON, *keys, *(("warmup_by_epoch",) if option == "lr" else ()))
    for key in map(str, config):
        if key not in own:
            data.ignore(key)
            notes.unknown(data.path(key), key, f"{name} in MMCV", own)
    whole_cycle = name in ("Cyclic", "OneCycle")
    by_epoch = data.flag("by_epoch", not whole_cycle and (run.by_epochs or option == "momentum"))
    if by_epoch and whole_cycle:
        raise SolverError(data.path("by_epoch"), f"{name} moves with every iteration", got="True", do="leave it out")
    stays = by_epoch and not run.by_epochs
    run = replace(run, last_is_short=False) if stays else run
    policy = Policy(option, data, "ep" if by_epoch else "st", run, facts, notes)
    curve = read(policy)
    warmed = with_warmup(curve, policy)
    if stays:
        notes.say(data.path("by_epoch"), f"an IterBasedRunner never gets to it: the {option} stays as it is")
        return Constant()
    return warmed


_Read = Callable[[Policy], Phases]
_CYCLIC = ("target_ratio", "cyclic_times", "step_ratio_up", "anneal_strategy", "gamma")
_ONE_CYCLE = ("pct_start", "anneal_strategy", "three_phase")
_FLOOR = ("min_lr", "min_lr_ratio")
_LR_POLICIES: dict[str, tuple[_Read, tuple[str, ...]]] = {
    "Fixed": (lambda _: Constant(), ()),
    "Step": (step, ("step", "gamma", "min_lr")),
    "Exp": (exp, ("gamma",)),
    "Poly": (poly, ("power", "min_lr")),
    "Inv": (inv, ("gamma", "power")),
    "CosineAnnealing": (cosine, _FLOOR),
    "CosineAnnealingCooldown": (cooldown, (*_FLOOR, "cool_down_ratio", "cool_down_time")),
    "FlatCosineAnnealing": (flat_cosine, (*_FLOOR, "start_percent")),
    "CosineRestart": (restart, (*_FLOOR, "periods", "restart_weights")),
    "Cyclic": (cyclic, _CYCLIC),
    "OneCycle": (one_cycle_lr, (*_ONE_CYCLE, "max_lr", "total_steps", "div_factor", "final_div_factor")),
    "LinearAnnealing": (linear, _FLOOR),
}
_FLOOR_MOMENTUM = ("min_momentum", "min_momentum_ratio")
_MOMENTUM_POLICIES: dict[str, tuple[_Read, tuple[str, ...]]] = {
    "Step": (step, ("step", "gamma", "min_momentum")),
    "CosineAnnealing": (cosine, _FLOOR_MOMENTUM),
    "LinearAnnealing": (linear, _FLOOR_MOMENTUM),
    "Cyclic": (cyclic, _CYCLIC),
    "OneCycle": (one_cycle_momentum, (*_ONE_CYCLE, "base_momentum", "max_momentum")),
}
