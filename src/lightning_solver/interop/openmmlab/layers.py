"""Constructors that let the learning rate fall with the depth: MMPretrain's and MMSegmentation's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.openmmlab.optimizer import Base
from lightning_solver.interop.openmmlab.paramwise import (
    BIAS,
    NORMS,
    absolute_options,
    by_part,
    check_paramwise,
    longest_first,
    needed_number,
)
from lightning_solver.rule import Rule

OF_LAYERS = ("layer_decay_rate", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "custom_keys")
"""What ``paramwise_cfg`` may hold for MMPretrain's constructor."""
OF_SEGMENTORS = (("num_layers", "decay_rate", "decay_type"), ("num_layers", "layer_decay_rate"))
"""What ``paramwise_cfg`` may hold for MMSegmentation's constructor, and for the older one."""


@dataclass(frozen=True)
class Groups:
    """Parameter groups as a spec has them.

    Args:
        rules: The rules.
        layer_decay: Factor of the learning rate from one depth to the one below it.
        depth: How the depth of a parameter is known.
    """

    rules: tuple[Rule, ...]
    layer_decay: float | None = None
    depth: str = "auto"


def pretraining_groups(data: Settings, base: Base) -> Groups:
    """The groups of MMPretrain's ``LearningRateDecayOptimWrapperConstructor``."""
    keys = check_paramwise(data, base)
    _need(base)
    rate = needed_number(data, "layer_decay_rate") if "layer_decay_rate" in data else 1.0
    rules: list[Rule] = []
    selectors: dict[str, dict[str, Any]] = {
        "flat_decay_mult": {"ndim": 1},
        "bias_decay_mult": {"regex": BIAS},
        "norm_decay_mult": {"module_class": NORMS},
    }
    for name, selector in selectors.items():
        factor = data.number(name, low=0)
        if factor is not None:
            factor = float(factor)
            rules.append(
                Rule(**selector, weight_decay_scale=factor, name=name.removesuffix("_mult"), unmatched="allow")
            )
    data.ignore("custom_keys")
    settings: dict[str, dict[str, Any]] = {}
    for key in reversed(longest_first(list(keys))):
        inner = Settings(keys[key], f"{data.path('custom_keys')}.{key}", data.notes)
        for name in ("lr_mult", "lr"):
            if name in inner:
                what = "has no effect: with this constructor the learning rate goes by the layer alone"
                data.notes.say(inner.path(name), what)
        found: dict[str, Any] = {}
        if "decay_mult" in inner:
            found["weight_decay_scale"] = needed_number(inner, "decay_mult")
        settings[key] = absolute_options(keys[key], inner, base, found, inert=("lr",))
    others = dict.fromkeys(option for setting in settings.values() for option in setting.get("set", ()))
    fresh = ("weight_decay", *others)
    for key, setting in settings.items():
        rules.append(Rule(**by_part(key, root=""), fresh=fresh, **setting, unmatched="allow"))
    return Groups(tuple(rules), rate, "mmpretrain")


def segmentor_groups(data: Settings, base: Base, *, old: bool = False) -> Groups:
    """The groups of ``LearningRateDecayOptimizerConstructor`` (MMSegmentation, MMDetection).

    Args:
        data: ``paramwise_cfg``.
        base: The optimiser.
        old: Whether the constructor is ``LayerDecayOptimizerConstructor``, which takes ``layer_decay_rate``.
    """
    _need(base)
    check_paramwise(data, base)
    layers = data.needed("num_layers")
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise SolverError(data.path("num_layers"), "must be a whole number >= 1", got=repr(layers), do="correct it")
    key = "layer_decay_rate" if old else "decay_rate"
    data.needed(key)
    rate = needed_number(data, key)
    kind = "layer_wise" if old else data.take("decay_type", "layer_wise")
    if not isinstance(kind, str) or ("layer_wise" not in kind and kind != "stage_wise"):
        do = "give layer_wise or stage_wise"
        raise SolverError(data.path("decay_type"), "is not known", got=repr(kind), do=do)
    naming = "mmseg_layer_wise" if "layer_wise" in kind else "mmseg_stage_wise"
    rules = (
        Rule(ndim=1, weight_decay=0.0, name="flat", unmatched="allow"),
        Rule(regex=r"\.bias$|^(pos_embed|cls_token)$", weight_decay=0.0, name="no_decay", unmatched="allow"),
    )
    what = "only parameters of one dimension and names that end in .bias are without weight decay: those called "
    data.notes.say(data.where, f"{what}pos_embed and cls_token only if that is the whole name, as for no backbone")
    return Groups(rules, rate, f"{naming}:{layers}")


def _need(base: Base) -> None:
    for name, value in (("lr", base.lr), ("weight_decay", base.weight_decay)):
        if value is None:
            what = "is needed by a constructor that goes by layers, and is not given"
            raise SolverError(f"{base.where}.{name}", what, do="give it")
