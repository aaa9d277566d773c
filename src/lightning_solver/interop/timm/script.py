"""The optimiser of ``train.py`` and of ``create_optimizer``, by the names that the script's arguments have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.timm.keywords import Keywords
from lightning_solver.interop.timm.optimizer import of_factory

_SAME = ("opt", "momentum", "weight_decay", "layer_decay", "layer_decay_min_scale", "layer_decay_no_opt_scale")
_RENAMED = {"opt_eps": "eps", "opt_betas": "betas", "opt_foreach": "foreach"}
_MORE = ("opt_args", "opt_kwargs")
_RATE = ("lr", "lr_base", "lr_base_size", "lr_base_scale")
OPTIMIZER = (*_SAME, *_RENAMED, *_MORE, *_RATE)
"""Arguments of the script that are about the optimiser."""

MARKS = frozenset({*OPTIMIZER} - {"momentum"})
"""Those of them by which the script's arguments are told from others."""

_DEFAULTS = {"opt": "sgd", "momentum": 0.9, "weight_decay": 2e-5}


def of_script(settings: Settings, *, complete: bool) -> dict[str, Any]:
    """Fields of the spec, of the script's arguments.

    Args:
        settings: The arguments; those about the optimiser are read.
        complete: Whether they are those of ``create_optimizer``, which has no defaults of the script.

    Raises:
        SolverError: What timm refuses.
    """
    if complete:
        settings.needed("opt")
        for key in ("lr", "weight_decay", "momentum"):
            if key not in settings:
                raise SolverError(settings.path(key), "is missing", do=f"add {key}, as create_optimizer asks for it")
    given: dict[str, Any] = {} if complete else dict(_DEFAULTS)
    paths: dict[str, str] = {}
    for key in (*_SAME, *_RENAMED):
        if settings.take(key) is not None:
            name = _RENAMED.get(key, key)
            given[name], paths[name] = settings.take(key), settings.path(key)
    for key in _MORE:
        for name, value in _mapping(settings, key).items():
            path = f"{settings.path(key)}.{name}"
            if key == "opt_kwargs" and name in paths:
                got = f"{value!r} beside {paths[name]}"
                raise SolverError(path, "is given twice, which timm refuses", got=got, do="give it once")
            given[name], paths[name] = value, path
    fields = {} if complete else _rate(settings, given)
    if complete and settings.take("lr") is not None:
        given["lr"], paths["lr"] = settings.number("lr", low=0), settings.path("lr")
    return {**of_factory(Keywords(given, settings.where, settings.notes, paths)), **fields}


def _mapping(settings: Settings, key: str) -> Mapping[str, Any]:
    value = settings.take(key)
    if value is None or value == []:
        return {}
    if not isinstance(value, Mapping):
        raise SolverError(settings.path(key), "must be a mapping", got=repr(value)[:80], do="write name: value")
    return {str(name): inner for name, inner in value.items()}


def _rate(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """The learning rate, or the one that is scaled by the number of samples in a step."""
    base, size = settings.number("lr_base", 0.1, low=0), settings.number("lr_base_size", 256, low=1)
    scale = settings.take("lr_base_scale") or ""
    lr = settings.number("lr", low=0)
    if lr:
        given["lr"] = lr
        for key in _RATE[1:]:
            if settings.take(key):
                settings.notes.say(settings.path(key), "has no effect beside lr, as in timm")
        return {}
    adaptive = any(word in str(given["opt"]).lower() for word in ("ada", "lamb"))
    kind = "sqrt" if scale == "sqrt" or (not scale and adaptive) else "linear"
    if int(size) != size:
        raise SolverError(settings.path("lr_base_size"), "must be a whole number", got=repr(size), do="correct it")
    given["lr"] = base
    what = f"{base:g} is for {size} samples in an optimiser step and is scaled by their number ({kind}), as in timm"
    settings.notes.say(settings.path("lr_base"), what)
    return {"base_batch_size": int(size), "batch_scaling": kind}
