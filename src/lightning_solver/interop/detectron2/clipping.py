"""Clipping in configs of detectron2 and projects on it: ``CLIP_GRADIENTS``, and ``train.clip_grad`` of detrex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.clipping import Clip, GlobalNorm, ParameterNorm, Value
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.clip_arguments import read_limit, read_norm, read_order

KEY = "CLIP_GRADIENTS"
TYPES = ("value", "norm", "full_model")
_KEYS = ("ENABLED", "CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")


def read_clipping(config: Any, where: str, notes: Notes, *, own: str | None = None) -> Clip | None:
    """What ``CLIP_GRADIENTS`` does.

    ``norm`` is the norm of each parameter by itself; ``full_model``, which projects on detectron2 have, is that of all.

    Args:
        config: The mapping.
        where: Its path.
        notes: Takes what is odd or not mapped.
        own: The project that makes the optimiser by functions of its own, if it is one: its ``full_model`` is the
            2-norm whatever ``NORM_TYPE`` says, and does nothing with a ``CLIP_VALUE`` of 0 or less.

    Returns:
        The clipping; ``None`` if there is none.

    Raises:
        SolverError: A type that is not known, or a limit with which nothing would be learnt.
    """
    data = Settings(config, where, notes)
    data.ignore(*_KEYS)
    data.rest(known=_KEYS)
    if not data.flag("ENABLED", False):
        return None
    kind = data.choice("CLIP_TYPE", TYPES, "value")
    if kind == "full_model":
        if data.number("CLIP_VALUE", 1.0) <= 0:
            notes.say(data.path("CLIP_VALUE"), "is not above 0: full_model clips nothing then")
            return None
        if own is None:
            what = "is no type of detectron2 itself: it is read as projects have it, the norm of all gradients together"
            notes.say(data.path("CLIP_TYPE"), what)
    limit = read_limit(data, "CLIP_VALUE", 1.0)
    if kind == "full_model" and own is not None and "NORM_TYPE" in data and read_order(data, "NORM_TYPE") != 2:
        notes.say(data.path("NORM_TYPE"), f"is not read by {own}, whose full_model is the 2-norm")
        return None if limit is None else GlobalNorm(limit)
    return None if limit is None else make(kind, limit, data)


def make(kind: str, limit: float, data: Settings) -> Clip:
    """The clipping of one of the types.

    Args:
        kind: The type.
        limit: ``CLIP_VALUE``.
        data: The settings, for ``NORM_TYPE``.
    """
    if kind == "value":
        return Value(limit)
    if kind == "norm":
        data.notes.say(data.path("CLIP_TYPE"), "norm is that of each parameter by itself, not of all together")
        return ParameterNorm(limit, read_order(data, "NORM_TYPE"))
    return GlobalNorm(limit, read_order(data, "NORM_TYPE"))


def read_lazy_clipping(config: Any, where: str, notes: Notes) -> dict[str, Any]:
    """The fields of a spec that do what ``clip_grad`` of detrex's ``train`` does: the norm of all gradients.

    Args:
        config: The mapping with ``enabled`` and ``params``, arguments of torch's ``clip_grad_norm_``.
        where: Its path.
        notes: Takes what is not mapped.

    Raises:
        SolverError: Arguments that torch refuses, or a limit with which nothing would be learnt.
    """
    data = Settings(config, where, notes)
    enabled, given = data.flag("enabled", False), data.take("params")
    data.rest(known=("enabled", "params"))
    if not enabled:
        return {}
    params = given if isinstance(given, Mapping) else data.needed("params")
    return read_norm(Settings(params, data.path("params"), notes))
