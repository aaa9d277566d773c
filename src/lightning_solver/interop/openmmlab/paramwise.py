"""``paramwise_cfg`` as the default constructors read it.

MMCV and MMEngine go from parameter to parameter: the longest of ``custom_keys`` that is part of its name settles
everything; without one, each other option settles what it is for, the first that applies. Rules stand in reverse order
here, as the last one wins, and those of ``custom_keys`` begin afresh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.openmmlab.optimizer import Base
from lightning_solver.interop.optimizers import plain_value
from lightning_solver.rule import Rule, Selector

NORMS = (
    "torch.nn.modules.batchnorm._BatchNorm",
    "torch.nn.modules.instancenorm._InstanceNorm",
    "torch.nn.GroupNorm",
    "torch.nn.LayerNorm",
)
"""The normalisation layers of both, with everything that derives from them."""
BIAS = r"(^|\.)bias$"
"""The own name of a parameter is ``bias``."""

_NORM = Selector(module_class=NORMS)
_DEPTHWISE = Selector(kind="depthwise", module_class="torch.nn.Conv2d")
_OFFSET = Selector(kind="offset")
_DECAYS = ("bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult")
_LRS = ("bias_lr_mult", "dcn_offset_lr_mult")
OPTIONS = (*_DECAYS, "flat_decay_mult", *_LRS, "custom_keys", "bypass_duplicate")
"""What ``paramwise_cfg`` may hold for MMEngine's default constructor; MMCV has no ``flat_decay_mult``."""


def check_paramwise(data: Settings, base: Base) -> Mapping[str, Mapping[str, Any]]:
    """``custom_keys``, once what both systems check when a constructor is made holds.

    Raises:
        SolverError: A factor of the weight decay where the optimiser is given none, or keys that are no mappings.
    """
    keys = data.take("custom_keys", {})
    if not isinstance(keys, Mapping):
        do = "write name: {lr_mult: ..., decay_mult: ...}"
        raise SolverError(data.path("custom_keys"), "must be a mapping", got=repr(keys)[:120], do=do)
    for key, value in keys.items():
        if not isinstance(value, Mapping):
            do = "write {lr_mult: ..., decay_mult: ...}"
            raise SolverError(f"{data.path('custom_keys')}.{key}", "must be a mapping", got=repr(value)[:120], do=do)
    scaled = [data.path(name) for name in _DECAYS if name in data]
    scaled += [f"{data.path('custom_keys')}.{key}.decay_mult" for key, value in keys.items() if "decay_mult" in value]
    if scaled and base.weight_decay is None:
        what = "multiplies the weight decay of the optimiser, which is not given"
        raise SolverError(scaled[0], what, do=f"give {base.where}.weight_decay")
    return {str(key): value for key, value in keys.items()}


def longest_first(keys: Sequence[str]) -> list[str]:
    """The order in which keys are tried: the longest first, those of one length by the alphabet."""
    return sorted(sorted(keys), key=len, reverse=True)


def default_rules(data: Settings, base: Base) -> list[Rule]:
    """The groups of ``DefaultOptimizerConstructor`` (MMCV) and ``DefaultOptimWrapperConstructor`` (MMEngine)."""
    keys = check_paramwise(data, base)
    data.flag("bypass_duplicate", False)  # a tied parameter is trained by its first name, which is what true asks for
    if base.peer == "MMCV" and base.lr is None:
        _no_lr(data.where, base)
    return [*_kinds(data, base), *custom_rules(keys, data, base)]


def forced_rules(data: Settings, base: Base) -> list[Rule]:
    """The groups of MMSegmentation's ``ForceDefaultOptimWrapperConstructor``: the other options may come last."""
    if not data.flag("force_default_settings", False):
        return default_rules(data, base)
    keys = check_paramwise(data, base)
    data.flag("bypass_duplicate", False)
    return [*custom_rules(keys, data, base), *_kinds(data, base, afresh=True)]


def _kinds(data: Settings, base: Base, *, afresh: bool = False) -> list[Rule]:
    """The rules by the kind of a parameter.

    Args:
        data: ``paramwise_cfg``.
        base: The optimiser.
        afresh: Whether they begin afresh, as they may meet what other rules have set.
    """
    old = base.peer == "MMCV"
    factors: dict[str, float] = {}
    for name in OPTIONS:
        if name not in data or not name.endswith("_mult") or (old and name == "flat_decay_mult"):
            continue
        value = data.number(name, low=0)
        if value is not None:
            factors[name] = float(value)
        elif old:
            raise SolverError(data.path(name), "must be a number", got="None", do="give one, or leave it out")
    for name in _LRS:
        if name in factors and base.lr is None:
            _no_lr(data.path(name), base)
    if "dcn_offset_lr_mult" in factors:
        what = "holds for a convolution called conv_offset right inside a layer whose class is called ...DeformConv..."
        data.notes.say(data.path("dcn_offset_lr_mult"), what)
    if "flat_decay_mult" in factors and base.weight_decay is None:
        what = f"{base.peer} does without it, as the optimiser is given no weight decay"
        data.notes.say(data.path("flat_decay_mult"), what)
        del factors["flat_decay_mult"]
    where: dict[str, dict[str, Any]] = {
        "flat_decay_mult": {"ndim": 1, "unless": _OFFSET},
        "dwconv_decay_mult": {"kind": "depthwise", "module_class": "torch.nn.Conv2d"},
        "bias_decay_mult": {"regex": BIAS, "unless": (_NORM, _DEPTHWISE, _OFFSET) if old else _OFFSET},
        "norm_decay_mult": {"module_class": NORMS},
        "bias_lr_mult": {"regex": BIAS, "unless": (_NORM, _OFFSET)},
        "dcn_offset_lr_mult": {"regex": "conv_offset", "kind": "offset", "module_class": "torch.nn.Conv2d"},
    }
    rules = []
    for name, selectors in where.items():
        if name in factors:
            option = "lr" if name in _LRS else "weight_decay"
            setting: dict[str, Any] = {f"{option}_scale": factors[name], "fresh": (option,) if afresh else False}
            rules.append(Rule(**selectors, **setting, name=name.removesuffix("_mult"), unmatched="allow"))
    return rules


def custom_rules(keys: Mapping[str, Mapping[str, Any]], data: Settings, base: Base) -> list[Rule]:
    """A rule for each of ``custom_keys``, the one that is tried first at the end."""
    rules = []
    for key in reversed(longest_first(list(keys))):
        inner = Settings(keys[key], f"{data.path('custom_keys')}.{key}", data.notes)
        if base.lr is None:
            _no_lr(inner.where, base)
        given: dict[str, Any] = {}
        for mult, option in (("lr_mult", "lr_scale"), ("decay_mult", "weight_decay_scale")):
            if mult in inner:
                given[option] = needed_number(inner, mult)
        if base.peer == "MMCV":
            inner.rest(lambda name: f"MMCV does not look at it; {name} stays what it is for the optimiser")
        else:
            given = absolute_options(keys[key], inner, base, given)
        if given.get("lr_scale") == 1:
            del given["lr_scale"]
        if given.get("weight_decay_scale") == 1:
            del given["weight_decay_scale"]
        rules.append(Rule(**by_part(key), fresh=True, **given, unmatched="allow"))
    return rules


def absolute_options(
    given: Mapping[str, Any], inner: Settings, base: Base, settings: dict[str, Any], inert: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings of a rule with the other keys of a custom key, which go into the group as they are, and last.

    Args:
        given: What the custom key holds.
        inner: The same, for reading.
        base: The optimiser.
        settings: The settings so far.
        inert: Keys that have no effect; they are noted.
    """
    found, others = dict(settings), {}
    for name in map(str, given):
        if name in ("lr_mult", "decay_mult", "_delete_", *inert):
            inner.ignore(name)
        elif name == "params":
            raise SolverError(inner.path(name), "takes the place of the parameter itself", do="leave it out")
        elif name in ("lr", "weight_decay"):
            found.pop(f"{name}_scale", None)
            found[name] = needed_number(inner, name)
        elif base.arguments is not None and name not in base.arguments:
            inner.ignore(name)
            what = "is not mapped: it stays in the group of MMEngine, where this optimiser does not look at it"
            inner.notes.unmapped(inner.path(name), what)
        else:
            others[name] = plain_value(inner.take(name), inner.path(name))
    return {**found, "set": others} if others else found


def needed_number(data: Settings, key: str) -> float:
    """A number >= 0 that is there.

    Raises:
        SolverError: It is something else.
    """
    value = data.number(key, low=0)
    if value is None:
        raise SolverError(data.path(key), "must be a number", got="None", do="give one, or leave it out")
    return float(value)


def by_part(key: str, *, root: str = ".") -> dict[str, Any]:
    """The selector of a custom key: it is part of the name, in which ``root`` stands before names without a dot.

    Args:
        key: The custom key.
        root: What the peer puts before the name of a parameter that the outermost module holds.
    """
    if root and key.startswith(root):
        inside = re.escape(key)
        outermost = rf"|^{re.escape(key[1:])}[^.]*$" if "." not in key[1:] else ""
        return {"regex": inside + outermost, "name": key.strip(".") or None}
    if re.search(r"[*?\[]", key):
        return {"regex": re.escape(key)}
    return {"match": f"*{key}*" if key else "*"}


def _no_lr(where: str, base: Base) -> None:
    what = f"{base.peer} multiplies the learning rate of the optimiser, which is not given"
    raise SolverError(where, what, do=f"give {base.where}.lr")
