"""How timm divides parameters into groups: which are not decayed, and how the learning rate falls towards the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.factors import LayerDecay
from lightning_solver.interop.base import Settings
from lightning_solver.interop.reading import Call
from lightning_solver.rule import Rule, Selector

METHOD = "no_weight_decay"
"""The method by which timm's models list parameters that are not decayed."""

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "param_groups_weight_decay": (
        *("model", "weight_decay", "weight_decay_exclude_1d", "no_weight_decay_list"),
        *("fallback_list", "fallback_no_weight_decay"),
    ),
    "param_groups_layer_decay": (
        *("model", "weight_decay", "no_weight_decay_list", "fallback_list", "fallback_no_weight_decay"),
        *("weight_decay_exclude_1d", "layer_decay", "min_scale", "no_opt_scale", "verbose"),
    ),
}
"""The functions that make groups: their arguments in order."""

Listed = str | tuple[str, ...]
"""Parameters that are listed: the method of the model that does so, in brackets ``()``, or names and globs."""


@dataclass(frozen=True)
class Groups:
    """How the parameters are divided.

    Args:
        weight_decay: Weight decay of those that are decayed; ``None`` where nobody has divided them.
        rules: What some of them get.
        fallback: Selectors of those that timm's Muon hands to its second optimiser.
        layer_decay: How the learning rate falls.
        by_layer: Whether it is divided by layers at all.
    """

    weight_decay: float | None = None
    rules: tuple[Rule, ...] = ()
    fallback: tuple[Selector, ...] = ()
    layer_decay: LayerDecay | None = None
    by_layer: bool = False

    def fields(self) -> dict[str, Any]:
        """Fields of the spec."""
        depth: dict[str, Any] = {"depth": "timm"} if self.by_layer else {}
        return {"rules": self.rules, "layer_decay": self.layer_decay, "tied": "first", **depth}


@dataclass(frozen=True)
class Wording:
    """What the arguments are called, and their defaults.

    Args:
        names: Argument of the functions -> its name in the config, where that is another.
        weight_decay: Default of ``weight_decay``.
        layer_decay: Default of ``layer_decay``; ``None`` where there is none.
        listed: What ``no_weight_decay_list`` is where the config cannot say it.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    weight_decay: float = 0.0
    layer_decay: float | None = None
    listed: Listed = ()


WORDINGS = {
    "param_groups_weight_decay": Wording(weight_decay=1e-5),
    "param_groups_layer_decay": Wording(weight_decay=0.05, layer_decay=0.75),
    "create_optimizer_v2": Wording(
        {
            "weight_decay_exclude_1d": "filter_bias_and_bn",
            "min_scale": "layer_decay_min_scale",
            "no_opt_scale": "layer_decay_no_opt_scale",
        },
        listed=METHOD,
    ),
}


def read_groups(form: str, settings: Settings) -> Groups:
    """The groups that a function makes of its arguments.

    Raises:
        SolverError: An argument that makes no sense.
    """
    wording = WORDINGS[form]

    def name(argument: str) -> str:
        return wording.names.get(argument, argument)

    rate = settings.number("layer_decay", wording.layer_decay, low=0) if form != "param_groups_weight_decay" else None
    flat = settings.flag(name("weight_decay_exclude_1d"), True)
    listed = wording.listed or _listed(settings, "no_weight_decay_list")
    if listed == METHOD:
        what = (
            "asks the model alone in timm; here a module around or beside the blocks is asked, if the model has it not"
        )
        settings.notes.say(METHOD, what)
    fallback = _selectors(_listed(settings, "fallback_list"))
    if settings.flag("fallback_no_weight_decay", False):
        fallback = (*fallback, *_selectors(listed))
    settings.ignore("verbose")

    exempt = [Selector(kind="flat")] if flat else []
    if flat and rate is None:
        exempt.append(Selector(match="*.bias"))
    exempt += _selectors(listed)
    rules = [_rule(selector, weight_decay=0.0) for selector in exempt]
    weight_decay = _weight_decay(settings, wording.weight_decay, rate)
    if rate is None:
        _without_layers(settings, [name("min_scale"), name("no_opt_scale")])
        return Groups(weight_decay, tuple(rules), fallback)

    least = float(settings.number(name("min_scale"), 0.0, low=0))
    frozen = float(settings.number(name("no_opt_scale"), 0.0) or 0.0)
    if rate == 0:  # all but the head rest, which is no decay from layer to layer
        below = Selector(depth=-1)
        rules.append(Rule(match="*", unless=below, lr_scale=least, name="below_head", unmatched="allow"))
        if least < frozen:
            rules.append(Rule(match="*", unless=below, frozen=True, name="below_head_frozen", unmatched="allow"))
        return Groups(weight_decay, tuple(rules), fallback, by_layer=True)
    if frozen and frozen <= least:
        settings.notes.say(settings.path(name("no_opt_scale")), f"freezes nothing: no factor is below {least:g}")
    decay = LayerDecay(float(rate), min_scale=least, freeze_below=frozen if frozen > least else 0.0)
    return Groups(weight_decay, tuple(rules), fallback, decay, by_layer=True)


def _weight_decay(settings: Settings, default: float, rate: float | None) -> float:
    if rate is not None and "weight_decay" in settings and settings.take("weight_decay") is None:
        do = "give a number, 0 for none"
        raise SolverError(settings.path("weight_decay"), "must be a number beside layer_decay", got="None", do=do)
    if "weight_decay" in settings and settings.take("weight_decay") is None:
        return 0.0
    return float(settings.number("weight_decay", default, low=0))


def _without_layers(settings: Settings, names: Sequence[str]) -> None:
    for name in names:
        if settings.take(name):
            settings.notes.say(settings.path(name), "has no effect without layer_decay, as in timm")


def _listed(settings: Settings, key: str) -> Listed:
    """Names and globs, or the model's own method."""
    value = settings.take(key)
    if isinstance(value, Call) and value.name == METHOD:
        return METHOD
    if isinstance(value, Mapping) and not value:
        return ()
    if isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in value):
        names = tuple(value) if isinstance(value, (list, tuple)) else tuple(sorted(value))
        if names:
            what = "names are compared whole, as in timm: a model that is held as self.model has model. before them"
            settings.notes.say(settings.path(key), what)
        return names
    if value is None:
        return ()
    do = "give the names themselves, or model.no_weight_decay()"
    raise SolverError(settings.path(key), "must be a list of names", got=repr(value)[:120], do=do)


def _selectors(listed: Listed) -> tuple[Selector, ...]:
    if not listed:
        return ()
    if isinstance(listed, str):
        return (Selector(listed_by=listed),)
    return (Selector(match=listed if len(listed) > 1 else listed[0]),)


def _rule(selector: Selector, **settings: Any) -> Rule:
    """A rule for what a selector selects, if anything."""
    given = {name: getattr(selector, name) for name in selector.selectors()}
    return Rule(**given, **settings, unmatched="allow")


def fallback_rules(selectors: Sequence[Selector], **settings: Any) -> tuple[Rule, ...]:
    """Rules for what timm's Muon hands to its second optimiser."""
    return tuple(_rule(selector, name=f"fallback_{i + 1}", **settings) for i, selector in enumerate(selectors))
