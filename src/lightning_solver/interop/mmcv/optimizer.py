"""The optimiser of an MMCV 1.x config and its parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.openmmlab.constructors import read_groups
from lightning_solver.interop.openmmlab.optimizer import read_base, side_by_side


def read_optimizer(settings: Settings, per_step: Any, notes: Notes) -> dict[str, Any]:
    """What ``optimizer`` and ``auto_scale_lr`` of a config make of a spec: field -> value.

    Args:
        settings: The whole config.
        per_step: How many batches make an optimiser step.
        notes: Takes what is odd.

    Raises:
        SolverError: What MMCV refuses.
    """
    config = settings.take("optimizer")
    fields = read_scaling(settings, int(per_step) if per_step == int(per_step) else 1)
    if config is None:
        return fields
    if not isinstance(config, Mapping):
        raise SolverError("optimizer", "must be a mapping", got=repr(config)[:120], do="write type: ..., lr: ...")
    if "type" not in config and any(isinstance(value, Mapping) and "type" in value for value in config.values()):
        what = "has several optimisers, which is for manual optimisation: import them one by one, as "
        named = ", ".join(f"optimizer[{str(key)!r}]" for key in config)
        notes.unmapped("optimizer", f"{what}{named}; {side_by_side(map(str, config))}")
        return fields
    data = Settings(config, "optimizer", notes)
    constructor, paramwise = data.take("constructor"), data.take("paramwise_cfg")
    base = read_base(data, config, "MMCV", ("constructor", "paramwise_cfg"))
    groups = read_groups(constructor, paramwise, base, "optimizer", notes)
    fields |= {"optimizer": base.spec, "rules": groups.rules, "tied": "first"}
    if groups.layer_decay is not None:
        fields |= {"layer_decay": groups.layer_decay, "depth": groups.depth}
    return fields


def read_scaling(settings: Settings, batches: int = 1) -> dict[str, Any]:
    """What ``auto_scale_lr`` makes of a spec: field -> value.

    Args:
        settings: The whole config.
        batches: How many batches an optimiser step takes: these systems count the samples of one.

    Raises:
        SolverError: It is enabled and says nothing of the batch size.
    """
    config = settings.take("auto_scale_lr")
    if config is None:
        return {}
    data = Settings(config, "auto_scale_lr", settings.notes)
    enabled = data.flag("enable", False)
    size = data.number("base_batch_size")
    data.rest()
    if not enabled:
        return {}
    if isinstance(size, bool) or size is None or size != int(size) or size < 1:
        do = "give the batch size for which the learning rate is meant"
        raise SolverError("auto_scale_lr.base_batch_size", "must be a whole number >= 1", got=repr(size), do=do)
    if batches > 1:
        what = f"counts the samples of one batch over all devices, not of the {batches} that make an optimiser step"
        data.notes.say("auto_scale_lr.base_batch_size", f"{what}: {int(size) * batches} is what that comes to here")
    return {"base_batch_size": int(size) * batches}
