"""The groups that ``get_default_optimizer_params`` makes, as rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.factors import ByName
from lightning_solver.interop.base import Settings
from lightning_solver.interop.detectron2.factor import VitDecay
from lightning_solver.interop.optimizers import plain_value
from lightning_solver.rule import Rule

ARGUMENTS = (
    *("model", "base_lr", "weight_decay", "weight_decay_norm", "bias_lr_factor", "weight_decay_bias"),
    *("lr_factor_func", "overrides"),
)
"""The arguments of ``get_default_optimizer_params`` in order."""

NORMS = tuple(
    f"torch.nn.{name}"
    for name in (
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "GroupNorm"),
        *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LocalResponseNorm"),
    )
)
"""The classes that detectron2 and Pet take for normalisation layers; no other class is one."""


@dataclass(frozen=True)
class Groups:
    """What parameters get.

    Args:
        lr: The learning rate of every group; ``None`` for the optimiser's own.
        weight_decay: The weight decay of every group; ``None`` for the optimiser's own.
        rules: What some parameters get beside it.
        decay: The layer-wise decay of the learning rate.
    """

    lr: float | None = None
    weight_decay: float | None = None
    rules: tuple[Rule, ...] = ()
    decay: VitDecay | None = None


def called(leaf: str) -> str:
    r"""A regex for the qualified names of the parameters that their modules call ``leaf``.

    Example:
        >>> called("bias")
        '(^|\\.)bias$'
    """
    return rf"(^|\.){re.escape(leaf)}$"


def norm_rule(weight_decay: float) -> Rule:
    """The rule for parameters that normalisation layers hold."""
    return Rule(module_class=NORMS, weight_decay=float(weight_decay), name="norm", unmatched="allow")


def optional(settings: Settings, key: str, default: float | None = None) -> float | None:
    """A number >= 0, or ``None`` where the config says so; ``default`` where it says nothing."""
    if key not in settings:
        return default
    number = settings.number(key, low=0)
    return None if number is None else float(number)


def read_groups(settings: Settings, factor: ByName | VitDecay | None, known: Sequence[str] | None) -> Groups:
    """The groups that ``get_default_optimizer_params`` makes of its arguments.

    Args:
        settings: The arguments but ``lr_factor_func``.
        factor: What ``lr_factor_func`` is.
        known: The options of the optimiser; ``None`` where they are not known.

    Raises:
        SolverError: What the function refuses: factors without ``base_lr``, and two ways of saying what biases get.
    """
    settings.ignore("model")
    lr, weight_decay = optional(settings, "base_lr"), optional(settings, "weight_decay")
    norm = optional(settings, "weight_decay_norm")
    overrides = _overrides(settings, known)
    bias = _bias(settings, lr, known)
    if bias and "bias" in overrides:
        do = "say it in overrides alone, or leave bias out of them"
        what = "says what biases get beside bias_lr_factor or weight_decay_bias, which detectron2 refuses"
        raise SolverError(settings.path("overrides.bias"), what, do=do)
    if factor is not None and lr is None:
        what, do = "needs base_lr, which detectron2 asks for beside it", "give base_lr"
        raise SolverError(settings.path("lr_factor_func"), what, do=do)
    if norm is not None and "weight_decay" in bias:
        what = "reaches the biases of normalisation layers too, as the rule by name comes last"
        settings.notes.say(settings.path("weight_decay_bias"), what)
    rules = []
    if norm is not None and _is_option("weight_decay", settings, "weight_decay_norm", known):
        rules.append(norm_rule(norm))
    if isinstance(factor, ByName):
        rules.append(Rule(match="*", lr_scale=factor, name="lr_factor_func", unmatched="allow"))
    for leaf, options in {**overrides, **({"bias": bias} if bias else {})}.items():
        fresh = factor is not None and "lr_scale" in options
        if factor is not None and {"lr", "lr_scale"} & options.keys():
            what = f"gives nothing to parameters called {leaf}: their own rate stands in place of it"
            settings.notes.say(settings.path("lr_factor_func"), what)
        if options:
            rule = Rule(regex=called(leaf), fresh=("lr",) if fresh else False, name=leaf, unmatched="allow", **options)
            rules.append(rule)
    decay = factor if isinstance(factor, VitDecay) and factor.rate != 1 else None
    return Groups(lr, weight_decay, tuple(rules), decay)


def _bias(settings: Settings, lr: float | None, known: Sequence[str] | None) -> dict[str, Any]:
    """What biases get beside the rest: fields of a rule."""
    factor, weight_decay = optional(settings, "bias_lr_factor", 1.0), optional(settings, "weight_decay_bias")
    found: dict[str, Any] = {}
    if factor is not None and factor != 1:
        if lr is None:
            what, do = "needs base_lr, which detectron2 asks for beside it", "give base_lr"
            raise SolverError(settings.path("bias_lr_factor"), what, got=repr(factor), do=do)
        found["lr_scale"] = factor
    if weight_decay is not None and _is_option("weight_decay", settings, "weight_decay_bias", known):
        found["weight_decay"] = weight_decay
    return found


def _overrides(settings: Settings, known: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Own name of a parameter -> fields of its rule."""
    given = settings.take("overrides")
    inner = Settings({} if given is None else given, settings.path("overrides"), settings.notes)
    found: dict[str, dict[str, Any]] = {}
    for leaf in map(str, given or ()):
        options = Settings(inner.take(leaf), inner.path(leaf), settings.notes)
        fields: dict[str, Any] = found.setdefault(leaf, {})
        for option in map(str, inner.take(leaf)):
            if not _is_option(option, options, option, known):
                continue
            if option in ("lr", "weight_decay"):
                value = options.number(option, low=0)
                if value is None:
                    raise SolverError(options.path(option), "must be a number", got="None", do="leave it out")
                fields[option] = float(value)
            else:
                fields.setdefault("set", {})[option] = plain_value(options.take(option), options.path(option))
    return found


def _is_option(option: str, settings: Settings, key: str, known: Sequence[str] | None) -> bool:
    """Whether the optimiser has an option; one that it has not stays in the group in torch, where nobody reads it."""
    if known is None or option in known:
        return True
    settings.notes.unmapped(settings.path(key), f"is not mapped: the optimiser has no {option}, and never reads it")
    return False
