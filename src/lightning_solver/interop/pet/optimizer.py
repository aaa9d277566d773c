"""``Optimizer``: which optimiser, and what ``get_params`` gives to each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.clip_arguments import read_limit
from lightning_solver.interop.detectron2.clipping import KEY, TYPES, make
from lightning_solver.interop.detectron2.groups import NORMS, called, norm_rule
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.rule import Rule, Selector

PET, QANET = "Pet", "QANet"
BUILDERS = (PET, QANET)
"""Whose rules make the parameter groups."""

_OF_BOTH = {
    "BASE_LR": 0.001,
    "MOMENTUM": 0.9,
    "WEIGHT_DECAY": 1e-4,
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_BIAS": 0.0,
    "BIAS_LR_FACTOR": 2.0,
}
"""Keys of every release, with what they are in the public one."""
_LATER = ("BACKBONE_LR_FACTOR", "BACKBONE_WEIGHT_DECAY_FACTOR", "WEIGHT_DECAY_EMBED")
_BEFORE = ("BIAS_DOUBLE_LR", "BIAS_WEIGHT_DECAY", "WEIGHT_DECAY_GN")

NESTED_OPTIMIZER = ("TYPE", *_OF_BOTH, *_LATER, KEY)
"""The keys of ``SOLVER.OPTIMIZER``."""
FLAT_OPTIMIZER = ("OPTIMIZER", *_OF_BOTH, *_LATER, KEY)
"""The keys of earlier releases."""

_CLIP_DEFAULTS = {"CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0}
_CLIP_KEYS = ("ENABLED", *_CLIP_DEFAULTS)

_CLASSES = {"SGD": "SGD", "ADAMW": "AdamW", "ADAM": "Adam", "RMSPROP": "RMSprop"}


def read_optimizer(settings: Settings, key: str, builder: str | None) -> dict[str, Any]:
    """Fields of the spec; none where the config says nothing about the optimiser.

    Args:
        settings: The keys.
        key: The key of the type: ``TYPE``, or ``OPTIMIZER`` where the names are flat.
        builder: Whose rules make the groups, where the config says it.

    Raises:
        SolverError: What Pet refuses: an unknown type, clipping under a type that has none.
    """
    given = [name for name in (key, *_OF_BOTH, *_LATER) if name in settings]
    before = [name for name in _BEFORE if name in settings]
    if before:
        what = f"is not mapped: it belongs to the releases with {before[0]}, whose groups are not read"
        for name in [*given, *before]:
            settings.ignore(name)
            settings.notes.unmapped(settings.path(name), what)
        return {}
    clips = KEY in settings
    if not given and not clips:
        return {}
    who = builder or _who(settings, key)
    kind = str(settings.choice(key, _CLASSES if who == PET else ("SGD", "RMSPROP", "ADAM"), "SGD"))
    clipping = _clipping(settings, kind, who) if clips else {}
    if not given:
        return clipping
    values = _values(settings, key, who)
    if kind == "ADAM":
        return {**_adam(settings, key, values, who), **clipping}
    args = {"lr": values["BASE_LR"], "weight_decay": values["WEIGHT_DECAY"]}
    if kind == "ADAMW":
        if "MOMENTUM" in settings:
            settings.notes.say(settings.path("MOMENTUM"), "is not used by ADAMW")
    else:
        args["momentum"] = values["MOMENTUM"]
    rules = _rules(settings, values) if who == PET else _earlier_rules(settings, values)
    return {"optimizer": OptimizerSpec(_CLASSES[kind], args), "rules": tuple(rules), "tied": "first", **clipping}


def _who(settings: Settings, key: str) -> str:
    """Pet's rules, or those of its earlier releases, which only flat names without any later key may mean."""
    marks = [name for name in (*_LATER, KEY) if name in settings]
    if key == "TYPE" or marks or settings.take(key) == "ADAMW":
        return PET
    what = (
        "the groups are read as earlier releases (QANet) make them: the biases of normalisation layers have the "
        "weight decay of these; with the rules of later ones give builder: 'Pet' beside SOLVER"
    )
    settings.notes.say(settings.path("BIAS_LR_FACTOR"), what)
    return QANET


def _clipping(settings: Settings, kind: str, who: str) -> dict[str, Any]:
    """The field of a clipping, where there is one.

    Of every type it does nothing with a limit of 0 or less, and the order of the norm holds for ``full_model`` too.
    """
    config, where = settings.take(KEY), settings.path(KEY)
    if config is None:
        return {}
    data = Settings(config, where, settings.notes)
    data.ignore(*_CLIP_KEYS)
    if who == QANET:
        settings.notes.say(where, "is not read by earlier releases (QANet)")
        return {}
    data.rest(known=_CLIP_KEYS)
    if not data.flag("ENABLED", False):
        return {}
    if kind not in ("SGD", "ADAMW"):
        do = "turn it off, or take SGD or ADAMW"
        raise SolverError(where, "is for SGD and ADAMW only in Pet", got=kind, do=do)
    missing = [f"{name} {default}" for name, default in _CLIP_DEFAULTS.items() if name not in data]
    if missing:
        data.notes.say(where, f"not all is given; read as in detectron2: {', '.join(missing)}")
    if data.number("CLIP_VALUE", 1.0) <= 0:
        data.notes.say(data.path("CLIP_VALUE"), "is not above 0: Pet clips nothing then")
        return {}
    limit = read_limit(data, "CLIP_VALUE", 1.0)
    type_ = data.choice("CLIP_TYPE", TYPES, "value")
    return {} if limit is None else {"clip": make(type_, limit, data)}


def _values(settings: Settings, key: str, who: str) -> dict[str, float]:
    """The numbers, with what the public release has for those that are not given."""
    values = {name: float(settings.number(name, default, low=0)) for name, default in _OF_BOTH.items()}
    nothing = {"BIAS_LR_FACTOR": 1.0, "WEIGHT_DECAY_BIAS": values["WEIGHT_DECAY"]}
    for name in _OF_BOTH:
        if name in settings and settings.take(name) is None:
            if name not in nothing or who == QANET:
                raise SolverError(settings.path(name), "must be a number", got="None", do="give one, or leave it out")
            values[name] = nothing[name]
    missing = [f"{name} {default:g}" for name, default in _OF_BOTH.items() if name not in settings]
    if key not in settings:
        missing.insert(0, f"{key} SGD")
    if missing:
        what = f"not all is given; read as in the public release (QANet): {', '.join(missing)}"
        settings.notes.say(settings.where or key, what)
    return values


def _adam(settings: Settings, key: str, values: Mapping[str, float], who: str) -> dict[str, Any]:
    """One group of all parameters."""
    unused = ["MOMENTUM", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "BIAS_LR_FACTOR", *_LATER]
    if who == QANET:
        unused.append("WEIGHT_DECAY")
    for name in unused:
        settings.ignore(name)
        if name in settings:
            settings.notes.say(settings.path(name), "is not used by ADAM: it takes all parameters as one group")
    settings.notes.say(settings.path(key), "ADAM holds frozen parameters too, which never move: here they are left out")
    args = {"lr": values["BASE_LR"]}
    if who == PET:
        args["weight_decay"] = values["WEIGHT_DECAY"]
    return {"optimizer": OptimizerSpec("Adam", args), "tied": "first"}


def _rules(settings: Settings, values: Mapping[str, float]) -> list[Rule]:
    rules = []
    lr_factor = settings.number("BACKBONE_LR_FACTOR", 1.0, low=0)
    decay_factor = settings.number("BACKBONE_WEIGHT_DECAY_FACTOR", 1.0, low=0)
    if lr_factor != 1 or decay_factor != 1:
        rules.append(
            Rule(
                regex=r"backbone\..*\.",
                lr_scale=None if lr_factor == 1 else float(lr_factor),
                weight_decay_scale=None if decay_factor == 1 else float(decay_factor),
                name="backbone",
                unmatched="allow",
            )
        )
    position = r"(relative_position_bias_table|absolute_pos_embed)[^.]*$"
    rules.append(Rule(regex=position, weight_decay=0.0, name="position", unmatched="allow"))
    rules.append(norm_rule(values["WEIGHT_DECAY_NORM"]))
    embedding = settings.number("WEIGHT_DECAY_EMBED", low=0)
    if embedding is not None:
        rules.append(
            Rule(module_class="torch.nn.Embedding", weight_decay=float(embedding), name="embedding", unmatched="allow")
        )
    factor, decay = values["BIAS_LR_FACTOR"], values["WEIGHT_DECAY_BIAS"]
    own_lr, own_decay = factor != 1, decay != values["WEIGHT_DECAY"]
    if own_lr or own_decay:
        rules.append(
            Rule(
                regex=called("bias"),
                fresh=("lr",) if own_lr and lr_factor != 1 else False,
                lr_scale=factor if own_lr else None,
                weight_decay=decay if own_decay else None,
                name="bias",
                unmatched="allow",
            )
        )
    if own_lr and lr_factor != 1:
        what = "takes the place of BACKBONE_LR_FACTOR for biases of the backbone"
        settings.notes.say(settings.path("BIAS_LR_FACTOR"), what)
    if own_decay and decay != values["WEIGHT_DECAY_NORM"]:
        what = "reaches the biases of normalisation layers too, as the rule by name comes last"
        settings.notes.say(settings.path("WEIGHT_DECAY_BIAS"), what)
    if not own_decay and "WEIGHT_DECAY_BIAS" in settings:
        what = "is WEIGHT_DECAY, which Pet takes for no rule: biases keep what other rules gave them"
        settings.notes.say(settings.path("WEIGHT_DECAY_BIAS"), what)
    return rules


def _earlier_rules(settings: Settings, values: Mapping[str, float]) -> list[Rule]:
    """Normalisation layers first, then the biases of all other modules."""
    factor = values["BIAS_LR_FACTOR"]
    bias = Rule(
        regex=called("bias"),
        unless=Selector(module_class=NORMS),
        lr_scale=None if factor == 1 else factor,
        weight_decay=values["WEIGHT_DECAY_BIAS"],
        name="bias",
        unmatched="allow",
    )
    for name in _LATER:
        if name in settings:
            settings.ignore(name)
            settings.notes.say(settings.path(name), "is not read by earlier releases (QANet)")
    return [norm_rule(values["WEIGHT_DECAY_NORM"]), bias]
