"""Which constructor reads ``paramwise_cfg``, and what comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, nearest
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.openmmlab.layers import (
    OF_LAYERS,
    OF_SEGMENTORS,
    Groups,
    pretraining_groups,
    segmentor_groups,
)
from lightning_solver.interop.openmmlab.optimizer import Base
from lightning_solver.interop.openmmlab.paramwise import OPTIONS, default_rules, forced_rules
from lightning_solver.interop.reading import Name

_DEFAULT = ("DefaultOptimizerConstructor", "DefaultOptimWrapperConstructor")
_FORCED = "ForceDefaultOptimWrapperConstructor"
_BY_LAYER = "LearningRateDecayOptimWrapperConstructor"
_SEGMENTOR = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")
_EVERY = (*OPTIONS, *OF_LAYERS, *itertools.chain(*OF_SEGMENTORS), "force_default_settings")


def read_groups(constructor: Any, config: Any, base: Base, where: str, notes: Notes) -> Groups:
    """The parameter groups of a config.

    Args:
        constructor: The value of ``constructor``; ``None`` for the default one.
        config: The value of ``paramwise_cfg``.
        base: The optimiser.
        where: Path of the mapping that holds both.
        notes: Takes what is odd.

    Raises:
        SolverError: What the constructor refuses.
    """
    name = _named(constructor, f"{where}.constructor")
    known = (*_DEFAULT, *_SEGMENTOR, *((_FORCED, _BY_LAYER) if base.peer == "MMEngine" else ()))
    path = f"{where}.paramwise_cfg"
    if config is not None and not isinstance(config, Mapping):
        raise SolverError(path, "must be a mapping", got=repr(config)[:120], do="write option: value")
    if name not in known:
        close = nearest(name, known)
        hint = f"; did you mean {close[0]}?" if close else "; write what it does as rules of the spec"
        notes.unmapped(f"{where}.constructor", f"is not mapped: {name} makes its own groups{hint}")
        if config:
            notes.unmapped(path, f"is not mapped, as {name} reads it")
        return Groups(())
    if name == _SEGMENTOR[1] and not config:
        raise SolverError(path, f"{name} takes the rate from it", got=repr(config), do="give layer_decay_rate")
    if not config:
        if name not in (*_DEFAULT, _FORCED):
            notes.say(path, f"is empty, which turns {name} off: {base.peer} makes one group of all parameters")
        notes.say(where, f"{base.peer} makes one group of all parameters, {_FROZEN}")
        return Groups(())
    data = Settings(config, path, notes)
    used: tuple[str, ...]
    inert: str | None = None
    if name == _BY_LAYER:
        groups, used, inert = pretraining_groups(data, base), OF_LAYERS, "MMPretrain"
    elif name in _SEGMENTOR:
        old = name == _SEGMENTOR[1]
        groups, used, inert = segmentor_groups(data, base, old=old), OF_SEGMENTORS[old], "MMSegmentation"
    elif name == _FORCED:
        groups, used = Groups(tuple(forced_rules(data, base))), (*OPTIONS, "force_default_settings")
    else:
        groups, used = Groups(tuple(default_rules(data, base))), OPTIONS
    if base.peer == "MMCV" and name in _DEFAULT:
        notes.say(where, f"MMCV makes a group of each parameter, {_FROZEN}")
    for key in map(str, config) if inert is not None else ():
        if key in _EVERY and key not in used:
            data.ignore(key)
            notes.say(data.path(key), f"has no effect with this constructor, as in {inert}")
    data.ignore("_delete_", *(used if base.peer == "MMEngine" else ()))
    data.rest(lambda key: f"is not mapped: {name} does not look at it" if key in _EVERY else None, _EVERY)
    return groups


_FROZEN = "those too that require no gradient and so never move; here they are left out"


def _named(constructor: Any, where: str) -> str:
    if constructor is None:
        return _DEFAULT[0]
    if isinstance(constructor, Name):
        constructor = constructor.text
    elif isinstance(constructor, type):
        constructor = constructor.__name__
    if not isinstance(constructor, str):
        raise SolverError(where, "is not the name of a class", got=repr(constructor)[:120], do="give its name")
    return constructor.rpartition(".")[2]
