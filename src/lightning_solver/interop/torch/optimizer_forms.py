"""The forms in which an optimiser may be given, apart from a script."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_solver.interop.reading import Call
from lightning_solver.interop.torch.optimizer_classes import OPTIMIZERS


def is_optimizer(config: Any) -> bool:
    """Whether a config is an optimiser itself."""
    return hasattr(config, "param_groups") and hasattr(config, "defaults") and not isinstance(config, (Mapping, type))


def is_optimizer_call(config: Any, others: Iterable[str] = ()) -> bool:
    """Whether a config is a mapping, partial or :class:`Call` of an optimiser class."""
    if isinstance(config, functools.partial):
        names = [getattr(config.func, "__name__", "")]
    elif isinstance(config, Call):
        names = [config.name]
    elif isinstance(config, Mapping):
        names = [_last(config[key]) for key in ("class_path", "type", "_target_", "name") if key in config]
        if len(config) == 1 and all(value is None or isinstance(value, Mapping) for value in config.values()):
            names += [str(key) for key in config]
    else:
        names = [config.rpartition(".")[2]] if isinstance(config, str) else []
    return any(name in OPTIMIZERS or name in others for name in names)


def _last(value: Any) -> str:
    return value.rpartition(".")[2] if isinstance(value, str) else getattr(value, "__name__", "")


def path_of(config: Any, call: Call) -> str:
    """The path under which a class is named; :class:`Call` keeps its last part only."""
    for key in ("class_path", "type", "_target_", "name"):
        if isinstance(config, Mapping) and key in config:
            value = config[key]
            return value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"
    if isinstance(config, Mapping) and len(config) == 1:
        return str(next(iter(config)))
    return config if isinstance(config, str) and "(" not in config else call.name
