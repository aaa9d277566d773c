"""The optimiser that ``create_optimizer_v2`` makes, or that is made directly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.optimizers import TORCH
from lightning_solver.interop.reading import Call, Name, Unread
from lightning_solver.interop.timm.groups import FUNCTIONS, Groups, fallback_rules, read_groups
from lightning_solver.interop.timm.keywords import Keywords
from lightning_solver.interop.timm.registered import CLASSES, OPTIMIZERS, Registered
from lightning_solver.interop.timm.signatures import SIGNATURES
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.rule import Rule

FACTORY = (
    *("model_or_params", "opt", "lr", "weight_decay", "momentum", "foreach", "filter_bias_and_bn", "fallback_list"),
    *("fallback_no_weight_decay", "layer_decay", "layer_decay_min_scale", "layer_decay_no_opt_scale"),
    "param_group_fn",
)
"""The arguments of ``create_optimizer_v2`` in order; others go to the optimiser."""

_DIVIDING = ("filter_bias_and_bn", "fallback_list", "fallback_no_weight_decay", *FACTORY[9:12])
_TIMM = {name.rpartition(".")[2]: name for name in CLASSES if name.startswith("timm.")}
CONSTRUCTORS = frozenset({*TORCH, *_TIMM})
"""Names of optimiser classes that are known without their module."""

_MUON = "timm.optim.Muon"


def of_factory(settings: Keywords) -> dict[str, Any]:
    """Fields of the spec, of the arguments of ``create_optimizer_v2``.

    Raises:
        SolverError: What timm refuses.
    """
    known = _registered(settings)
    groups = _factory_groups(settings)
    args: dict[str, Any] = {}
    lr, momentum = settings.number("lr", low=0), settings.number("momentum", 0.9)
    if lr is not None:
        args["lr"] = lr
    args["weight_decay"] = groups.weight_decay
    if args["weight_decay"] is None:
        args["weight_decay"] = settings.number("weight_decay", 0.0, low=0)
    for key in (key for key in settings.names() if key not in FACTORY):
        if key in ("eps", "betas") and key not in known.takes:
            settings.ignore(key)
            settings.notes.say(settings.path(key), f"has no effect with {settings.take('opt', 'sgd')}, as in timm")
        else:
            _hand_on(settings, key, args, known.name)
    for key, value in known.given.items():
        args.setdefault(key, value)
    if "momentum" in known.takes:
        args.setdefault("momentum", momentum)
    if settings.take("foreach") is not None and "foreach" not in args:
        _hand_on(settings, "foreach", args, known.name)
    return _fields(known.name, args, groups, settings)


def _registered(settings: Keywords) -> Registered:
    given = settings.take("opt", "sgd")
    where = settings.path("opt")
    if not isinstance(given, str):
        raise SolverError(where, "must be a name", got=repr(given)[:80], do="give one such as adamw")
    *before, name = given.lower().split("_")
    if name not in OPTIMIZERS:
        do = suggestion(name, OPTIMIZERS, "optimisers")
        raise SolverError(where, "timm has no such optimiser", got=repr(given), do=do)
    if before[:1] == ["lookahead"]:
        what = f"is not mapped: Lookahead is wrapped around an optimiser; {name} is read without it"
        settings.notes.unmapped(where, what)
    elif before:
        settings.notes.say(where, f"timm reads {given} as {name}")
    return OPTIMIZERS[name]


def _factory_groups(settings: Keywords) -> Groups:
    if settings.raw("param_group_fn") is not None:
        what = "is not mapped: it is a function that makes groups; write them as rules"
        settings.notes.unmapped(settings.path("param_group_fn"), what)
        settings.ignore(*_DIVIDING)
        return Groups()
    divided = _given_groups(settings, "model_or_params")
    if divided is None:
        return read_groups("create_optimizer_v2", settings)
    for name in _DIVIDING:
        if settings.take(name):
            settings.notes.say(settings.path(name), "has no effect on parameters, as in timm: it takes a model")
    return divided


def of_class(name: str, settings: Keywords, groups: Groups | None) -> dict[str, Any]:
    """Fields of the spec, of an optimiser's own arguments.

    Args:
        name: Name of the class; of those that have a module, the dotted path.
        settings: Its arguments.
        groups: How a function beside it divides the parameters.
    """
    if groups is None:
        groups = _given_groups(settings, "params") or Groups()
    settings.ignore("params")
    args: dict[str, Any] = {}
    for key in settings.names():
        if key != "params":
            _hand_on(settings, key, args, path_of(name))
    if groups.weight_decay is not None:
        if args.get("weight_decay") not in (None, groups.weight_decay):
            what = "has no effect, as in timm: every group has a weight decay of its own"
            settings.notes.say(settings.path("weight_decay"), what)
        args["weight_decay"] = groups.weight_decay
    if name in TORCH and name in _TIMM:
        what = f"both torch and timm have one of this name; {_TIMM[name]} is taken: write torch.optim.{name} otherwise"
        settings.notes.say(settings.where, what)
    return _fields(path_of(name), args, groups, settings)


def path_of(name: str) -> str:
    """The name that a class has in a spec: short for torch's, the dotted path for others."""
    return (name if "." in name else _TIMM.get(name, name)).removeprefix("torch.optim.")


def _given_groups(settings: Keywords, key: str) -> Groups | None:
    """The groups where parameters are handed over, or the call that makes them; ``None`` for a model."""
    params = settings.raw(key)
    if isinstance(params, Call) and params.name in FUNCTIONS:
        return groups_of(params, settings)
    if isinstance(params, Call) and params.name in ("parameters", "named_parameters"):
        return Groups()
    if isinstance(params, Name) and params.text in ("params", "parameters"):
        return Groups()
    if params is None or isinstance(params, (Call, Name)):
        return None
    settings.notes.unmapped(settings.path(key), "is not mapped: it makes groups by itself; write them as rules")
    return Groups()


def groups_of(call: Call, settings: Keywords) -> Groups:
    """The groups that a call of one of timm's functions makes."""
    names = FUNCTIONS[call.name]
    given = call.bound(names, call.name)
    for key in given:
        if key not in names:
            settings.notes.unknown(f"{call.name}.{key}", key, call.name, names[1:])
    inner = {key: value for key, value in given.items() if key in names and key != "model"}
    return read_groups(call.name, Keywords(inner, call.name, settings.notes))


def _hand_on(settings: Keywords, key: str, args: dict[str, Any], name: str) -> None:
    """Hand an argument on to the optimiser, if that has it and it is data."""
    value = settings.raw(key)
    if name in SIGNATURES and key not in SIGNATURES[name]:
        settings.notes.unknown(settings.path(key), key, name.rpartition(".")[2], SIGNATURES[name])
        return
    if isinstance(value, (Name, Call, Unread)) or callable(value):
        settings.notes.unmapped(settings.path(key), "is not mapped: it is not plain data")
        return
    if key in ("eps", "weight_decay", "lr"):
        value = settings.number(key, low=0)
    args[key] = value


def _fields(name: str, args: Mapping[str, Any], groups: Groups, settings: Keywords) -> dict[str, Any]:
    fields = groups.fields()
    if groups.fallback and name == _MUON:
        fields["rules"] = (*_second_optimizer(args, groups), *groups.rules)
    elif groups.fallback:
        what = (
            f"fallback_list has no effect with {name.rpartition('.')[2]}, as in timm: Muon alone has a second optimiser"
        )
        settings.notes.say(settings.where or "config", what)
    plain = {key: value for key, value in args.items() if value is not None or key not in ("lr", "weight_decay")}
    return {"optimizer": OptimizerSpec(name, plain), **fields}


def _second_optimizer(args: Mapping[str, Any], groups: Groups) -> tuple[Rule, ...]:
    """What timm's Muon does with the parameters that it is told to leave to AdamW, or NAdamW where it looks ahead."""
    lr, scale = args.get("lr", 0.02), args.get("fallback_lr_scale", 1.0)
    if args.get("adamw_lr") is not None:
        scale = args["adamw_lr"] / lr
    name = "timm.optim.NAdamW" if args.get("nesterov") else "timm.optim.AdamWLegacy"
    given = {"lr": lr, "betas": args.get("betas", (0.9, 0.95)), "eps": args.get("eps", 1e-7)}
    given["weight_decay"] = args["weight_decay"]
    factor = {} if scale == 1 else {"lr_scale": float(scale)}
    return fallback_rules(groups.fallback, optimizer=OptimizerSpec(name, given), **factor)
