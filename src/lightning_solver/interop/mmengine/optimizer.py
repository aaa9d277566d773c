"""The optimiser of an MMEngine config and its parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.clip_arguments import read_norm, read_value
from lightning_solver.interop.mmcv.optimizer import read_scaling
from lightning_solver.interop.openmmlab.constructors import read_groups
from lightning_solver.interop.openmmlab.optimizer import read_base
from lightning_solver.interop.openmmlab.precision import trainer_words
from lightning_solver.interop.reading import Name

_WRAPPERS = ("OptimWrapper", "AmpOptimWrapper", "ApexOptimWrapper")


def read_optimizer(settings: Settings, per_step: Any, notes: Notes) -> dict[str, Any]:
    """What ``optim_wrapper`` and ``auto_scale_lr`` of a config make of a spec, but accumulation: field -> value.

    Args:
        settings: The whole config.
        per_step: How many batches make an optimiser step.
        notes: Takes what is odd.

    Raises:
        SolverError: What MMEngine refuses.
    """
    fields = read_scaling(settings, int(per_step) if per_step == int(per_step) else 1)
    config, bare = settings.take("optim_wrapper"), settings.take("optimizer")
    if config is None and isinstance(bare, Mapping):
        notes.say("optimizer", "stands alone: it is read as that of an optim_wrapper, without which MMEngine fails")
        config = {"optimizer": bare}
    elif config is None and bare is not None:
        _refuse(bare, "optimizer")
    if config is None or several(config):
        return fields
    wrapper = Settings(config, "optim_wrapper", notes)
    _precision(wrapper, notes)
    constructor, paramwise = wrapper.take("constructor"), wrapper.take("paramwise_cfg")
    inner = wrapper.needed("optimizer")
    if not isinstance(inner, Mapping):
        _refuse(inner, wrapper.path("optimizer"))
    data = Settings(inner, wrapper.path("optimizer"), notes)
    base = read_base(data, inner, "MMEngine")
    groups = read_groups(constructor, paramwise, base, "optim_wrapper", notes)
    clip = wrapper.take("clip_grad")
    if clip is not None:
        fields |= _clipping(Settings(clip, wrapper.path("clip_grad"), notes))
    wrapper.ignore("accumulative_counts", "_delete_", "_scope_")
    wrapper.rest(known=_KEYS)
    fields |= {"optimizer": base.spec, "rules": groups.rules, "tied": "first"}
    if groups.layer_decay is not None:
        fields |= {"layer_decay": groups.layer_decay, "depth": groups.depth}
    return fields


_KEYS = ("type", "optimizer", "accumulative_counts", "clip_grad", "paramwise_cfg", "constructor", "loss_scale", "dtype")


def _clipping(data: Settings) -> dict[str, Any]:
    """What ``clip_grad`` makes of a spec; it goes over the parameters of the optimiser, as here."""
    return read_value(data) if data.choice("type", ("norm", "value"), "norm") == "value" else read_norm(data)


def several(config: Any) -> bool:
    """Whether ``optim_wrapper`` has several wrappers, each with an optimiser of its own."""
    inner = config.values() if isinstance(config, Mapping) else ()
    bare = isinstance(config, Mapping) and "optimizer" not in config and "type" not in config
    return bare and any(isinstance(value, Mapping) for value in inner)


def _precision(wrapper: Settings, notes: Notes) -> None:
    """Say what the Trainer does in place of the wrapper's kind."""
    kind = wrapper.take("type", "OptimWrapper")
    name = kind.text if isinstance(kind, Name) else kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    name = name.rpartition(".")[2]
    if name == "AmpOptimWrapper":
        dtype, scale = wrapper.take("dtype"), wrapper.take("loss_scale", "dynamic")
        wrapper.ignore("use_fsdp")
        half = str(dtype.text if isinstance(dtype, Name) else dtype).rpartition(".")[2]
        words = trainer_words(scale, wrapper.path("loss_scale"))
        if half == "bfloat16":
            words = "the precision belongs to the Trainer: Trainer(precision='bf16-mixed')"
        elif half in ("float32", "float64"):
            words = f"casts to {half}: the Trainer's precision '32-true' needs no scale of the loss"
        notes.unmapped(wrapper.path("type"), words)
    elif name == "ApexOptimWrapper":
        notes.unmapped(wrapper.path("type"), "apex is gone: Trainer(precision='16-mixed') is torch's own")
    elif name not in _WRAPPERS:
        notes.unmapped(wrapper.path("type"), f"is not mapped: {name} is a wrapper of its own")


def _refuse(given: Any, where: str) -> None:
    if isinstance(given, (list, tuple)) and len(given) == 1:
        do = "take the comma after it out"
        raise SolverError(where, "is a list of one, as a comma after it makes it", got=repr(given)[:120], do=do)
    raise SolverError(where, "must be a mapping", got=repr(given)[:120], do="write type: ..., lr: ...")
