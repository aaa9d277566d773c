"""Schedulers of torch themselves, read as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.reading import Call


def is_instance(config: Any) -> bool:
    """Whether a config is a scheduler of torch itself."""
    return hasattr(config, "optimizer") and hasattr(config, "step") and not isinstance(config, (Mapping, str, type))


def instance(scheduler: Any, where: str, known: dict[int, Call], nested: bool = False) -> Call:
    """A scheduler that has not been stepped, as the call that made it."""
    if id(scheduler) in known:
        return known[id(scheduler)]
    name, data = type(scheduler).__name__, vars(scheduler)
    if data.get("last_epoch", 0) > 0 and not (nested and name == "SequentialLR"):  # which has moved on when it is made
        do = "hand it over as it was made, before the first step()"
        raise SolverError(where, "has been stepped", got=f"{name}, last_epoch={data['last_epoch']}", do=do)
    if name not in _ATTRIBUTES:
        raise SolverError(where, "is not a scheduler that is known", got=name, do=suggestion(name, _ATTRIBUTES))
    if name == "OneCycleLR" and any(call.name == name for call in known.values()):
        what = "is the second OneCycleLR, which has overwritten in the groups what the first one put there"
        raise SolverError(where, what, got=name, do="hand over the text of the calls")
    groups = scheduler.optimizer.param_groups
    arguments = (
        _ATTRIBUTES[name](data, groups)
        if callable(_ATTRIBUTES[name])
        else {key: data[attribute] for key, attribute in _ATTRIBUTES[name].items()}
    )
    if "schedulers" in arguments:
        inner = arguments["schedulers"]
        arguments["schedulers"] = [instance(s, f"{where}.schedulers[{i}]", known, True) for i, s in enumerate(inner)]
    known[id(scheduler)] = Call(name, (), arguments)
    return known[id(scheduler)]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _one_cycle_data(data: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    end = data["_schedule_phases"][0]["end_step"]
    arguments = {
        "max_lr": [group["max_lr"] for group in groups],
        "total_steps": data["total_steps"],
        "pct_start": float((exact(end) + 1) / data["total_steps"]),
        "anneal_strategy": data["_anneal_func_type"],
        "div_factor": groups[0]["max_lr"] / groups[0]["initial_lr"],
        "final_div_factor": groups[0]["initial_lr"] / groups[0]["min_lr"],
        "three_phase": len(data["_schedule_phases"]) == 3,
        "cycle_momentum": data["cycle_momentum"],
    }
    if data["cycle_momentum"]:
        for key in ("base_momentum", "max_momentum"):
            arguments[key] = [group[key] for group in groups]
    return arguments


def _cyclic_data(data: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    up = data["total_size"] * data["step_ratio"]
    arguments = {
        "base_lr": data["base_lrs"],
        "max_lr": data["max_lrs"],
        "step_size_up": round(up, 9),
        "step_size_down": round(data["total_size"] - up, 9),
        "scale_fn": data["_scale_fn_custom"],
        **{key: data[key] for key in ("mode", "gamma", "scale_mode", "cycle_momentum")},
    }
    if data["cycle_momentum"]:
        arguments.update(base_momentum=data["base_momentums"], max_momentum=data["max_momentums"])
    return arguments


_ATTRIBUTES: dict[str, Any] = {
    "StepLR": _same("step_size", "gamma"),
    "MultiStepLR": lambda data, groups: {"milestones": sorted(data["milestones"].elements()), "gamma": data["gamma"]},
    "ConstantLR": _same("factor", "total_iters"),
    "LinearLR": _same("start_factor", "end_factor", "total_iters"),
    "ExponentialLR": _same("gamma"),
    "PolynomialLR": _same("total_iters", "power"),
    "CosineAnnealingLR": _same("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": _same("T_0", "T_mult", "eta_min"),
    "LambdaLR": {"lr_lambda": "lr_lambdas"},
    "MultiplicativeLR": {"lr_lambda": "lr_lambdas"},
    "OneCycleLR": _one_cycle_data,
    "CyclicLR": _cyclic_data,
    "SWALR": lambda data, groups: {
        "swa_lr": [group["swa_lr"] for group in groups],
        "anneal_epochs": data["anneal_epochs"],
        "anneal_strategy": data["_anneal_strategy"],
    },
    "ReduceLROnPlateau": {
        **_same("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps"),
        "min_lr": "min_lrs",
    },
    "SequentialLR": {"schedulers": "_schedulers", "milestones": "_milestones"},
    "ChainedScheduler": {"schedulers": "_schedulers"},
}
