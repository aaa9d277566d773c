"""The parameter schedulers of fvcore by name, and the arguments of their constructors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.detectron2.arguments import arguments_of, numbers, only, whole_number
from lightning_solver.interop.detectron2.classic import OLD
from lightning_solver.interop.detectron2.composite import CompositeParam, WarmupParam
from lightning_solver.interop.detectron2.curves import (
    ConstantParam,
    CosineParam,
    ExponentialParam,
    LinearParam,
    PolynomialParam,
)
from lightning_solver.interop.detectron2.scheduler import ParamScheduler
from lightning_solver.interop.detectron2.stairs import even_stairs, fixed_gamma, multi_step
from lightning_solver.interop.reading import Call, read_calls


def read_scheduler(value: Any, where: str, notes: Notes) -> ParamScheduler:
    """A scheduler of fvcore from its constructor call, in any form.

    Raises:
        SolverError: A class that fvcore does not have, or arguments that it refuses.
    """
    call = value if isinstance(value, Call) else only(read_calls(value, where), where)
    if call.name not in FVCORE:
        do = suggestion(call.name, [*FVCORE, *OLD], "schedulers")
        raise SolverError(where, "is not a scheduler of fvcore or detectron2", got=call.name, do=do)
    names, make = FVCORE[call.name]
    return make(arguments_of(call, where, notes, names))


def _make_constant(given: Settings) -> ParamScheduler:
    return ConstantParam(given.where, _needed(given, "value"))


def _make_cosine(given: Settings) -> ParamScheduler:
    return CosineParam(given.where, _needed(given, "start_value"), _needed(given, "end_value"))


def _make_exponential(given: Settings) -> ParamScheduler:
    return ExponentialParam(given.where, _needed(given, "start_value"), _needed(given, "decay"))


def _make_linear(given: Settings) -> ParamScheduler:
    return LinearParam(given.where, _needed(given, "start_value"), _needed(given, "end_value"))


def _make_polynomial(given: Settings) -> ParamScheduler:
    return PolynomialParam(given.where, _needed(given, "base_value"), _needed(given, "power"))


def _make_step(given: Settings) -> ParamScheduler:
    if _needed(given, "num_updates") <= 0:
        raise SolverError(
            given.path("num_updates"), "must be > 0", got=repr(given.take("num_updates")), do="correct it"
        )
    return even_stairs(_needed_list(given, "values"), given.where)


def _make_fixed_gamma(given: Settings) -> ParamScheduler:
    base, gamma = _needed(given, "base_value"), _needed(given, "gamma")
    decays = whole_number(given, "num_decays", None, 1)
    whole_number(given, "num_updates", None, 1)
    if base <= 0:
        raise SolverError(given.path("base_value"), "must be > 0", got=repr(base), do="correct it")
    return fixed_gamma(base, decays, gamma, given.path("gamma"))


def _make_multi_step(given: Settings) -> ParamScheduler:
    values = _needed_list(given, "values")
    updates = given.number("num_updates")
    if given.take("milestones") is not None:
        milestones = numbers(given, "milestones", ())
    elif updates is None:
        do = "give milestones whose last one is the end, or num_updates"
        raise SolverError(given.path("milestones"), "is missing, and num_updates too", do=do)
    else:
        width = math.ceil(updates / len(values)) if values else 0
        milestones = [width * (i + 1) for i in range(len(values) - 1)]
    if len(milestones) != len(values) - (updates is not None):
        what = (
            "does not fit the values: there is one milestone less than values, or as many where there is no num_updates"
        )
        got = f"{len(milestones)} for {len(values)} values"
        raise SolverError(given.path("milestones"), what, got=got, do="correct it")
    if updates is None:
        updates = milestones.pop()
    return multi_step(values, updates, milestones, given.path, ("values", "num_updates", "milestones"))


def _make_composite(given: Settings) -> ParamScheduler:
    inner = given.needed("schedulers")
    if not isinstance(inner, (list, tuple)):
        raise SolverError(
            given.path("schedulers"), "must be a list of schedulers", got=repr(inner)[:80], do="correct it"
        )
    path = given.path("schedulers")
    parts = tuple(read_scheduler(part, f"{path}[{i}]", given.notes) for i, part in enumerate(inner))
    lengths = _needed_list(given, "lengths")
    scaling = given.needed("interval_scaling")
    if not parts or len(parts) != len(lengths):
        got = f"{len(lengths)} for {len(parts)} schedulers"
        raise SolverError(given.path("lengths"), "must give the length of every scheduler", got=got, do="correct it")
    if abs(sum(lengths) - 1) >= 1e-3:
        raise SolverError(given.path("lengths"), "must add up to 1", got=f"{sum(lengths):g}", do="correct it")
    if sum(lengths) != 1:
        lengths[-1] = 1.0 - sum(lengths[:-1])
    if not isinstance(scaling, (list, tuple)) or len(scaling) < len(parts):
        what = "must say fixed or rescaled for every scheduler"
        raise SolverError(given.path("interval_scaling"), what, got=repr(scaling), do="correct it")
    for i, word in enumerate(scaling):
        if word not in ("rescaled", "fixed"):
            do = suggestion(str(word), ["rescaled", "fixed"], "values")
            raise SolverError(f"{given.path('interval_scaling')}[{i}]", "unknown value", got=repr(word), do=do)
    rescaled = tuple(word == "rescaled" for word in scaling[: len(parts)])
    return CompositeParam(given.where, parts, tuple(lengths), rescaled)


def _make_warmup(given: Settings) -> ParamScheduler:
    inner = read_scheduler(given.needed("scheduler"), given.path("scheduler"), given.notes)
    factor, share = _needed(given, "warmup_factor"), _needed(given, "warmup_length")
    if not 0 <= share <= 1:
        what = "is a share of training, from 0 to 1"
        raise SolverError(given.path("warmup_length"), what, got=repr(share), do="divide the steps by train.max_iter")
    method = given.choice("warmup_method", ("linear", "constant"), "linear")
    return WarmupParam.around(inner, factor, share, method, given.flag("rescale_interval", False), given.where)


def _needed(given: Settings, key: str) -> float:
    given.needed(key)
    number: float = given.number(key)
    return number


def _needed_list(given: Settings, key: str) -> list[Any]:
    given.needed(key)
    return numbers(given, key, ())


FVCORE: dict[str, tuple[tuple[str, ...], Callable[[Settings], ParamScheduler]]] = {
    "ConstantParamScheduler": (("value",), _make_constant),
    "CosineParamScheduler": (("start_value", "end_value"), _make_cosine),
    "ExponentialParamScheduler": (("start_value", "decay"), _make_exponential),
    "LinearParamScheduler": (("start_value", "end_value"), _make_linear),
    "PolynomialDecayParamScheduler": (("base_value", "power"), _make_polynomial),
    "StepParamScheduler": (("num_updates", "values"), _make_step),
    "StepWithFixedGammaParamScheduler": (("base_value", "num_decays", "gamma", "num_updates"), _make_fixed_gamma),
    "MultiStepParamScheduler": (("values", "num_updates", "milestones"), _make_multi_step),
    "CompositeParamScheduler": (("schedulers", "lengths", "interval_scaling"), _make_composite),
    "WarmupParamScheduler": (
        ("scheduler", "warmup_factor", "warmup_length", "warmup_method", "rescale_interval"),
        _make_warmup,
    ),
}
"""The schedulers: their arguments in order, and what makes them."""
