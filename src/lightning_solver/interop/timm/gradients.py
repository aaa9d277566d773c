"""Clipping and accumulation: ``dispatch_clip_grad`` and ``adaptive_clip_grad``, and the words of ``train.py``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from lightning_solver.clipping import AGC, Clip, GlobalNorm, Value
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.clip_arguments import read_limit
from lightning_solver.interop.reading import Call, read_python
from lightning_solver.interop.torch.clipping import FUNCTIONS as TORCH
from lightning_solver.interop.torch.clipping import (
    Clips,
    Found,
    add_clip,
    arguments_of,
    clips_nothing,
    fields_of,
    find_calls,
    norm_of,
    note_tests,
    number_of,
    parameters_in,
    read_any,
    told,
)

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "dispatch_clip_grad": ("parameters", "value", "mode", "norm_type"),
    "adaptive_clip_grad": ("parameters", "clip_factor", "eps", "norm_type"),
    "loss_scaler": ("loss", "optimizer", "clip_grad", "clip_mode", "parameters", "create_graph", "need_update"),
    **TORCH,
}
"""The functions that clip: their arguments in order."""

SCRIPT = ("clip_grad", "clip_mode", "grad_accum_steps")
"""Arguments of ``train.py``."""

_MODES = ("norm", "value", "agc")
_SPARED = 2
_LAST = re.compile(r"(?P<whole>.*)\[:-(?P<count>[1-9][0-9]*)\]", re.DOTALL)


def take_gradients(config: Any, text: str | None, notes: Notes) -> tuple[dict[str, Any], Any]:
    """What a config says of clipping and accumulation, as fields of a spec, and the rest, which may be ``None``.

    Args:
        config: The config; arguments of ``train.py`` that stand among others of the script stay in it.
        text: Its text, where it is a script.
        notes: Takes notes.

    Raises:
        SolverError: What timm refuses, or what has no counterpart.
    """
    clips = Clips()
    calls = [] if text is None else find_calls(text, FUNCTIONS)
    for found in calls:
        _add(clips, found, found.call.name, notes)
    if isinstance(config, str) and calls:
        return clips.fields(), _without(config)
    if not isinstance(config, Mapping):
        return clips.fields(), config
    rest: dict[Any, Any] = {}
    beside: dict[str, Any] = {}
    apart = _is_apart(config)
    for key, value in config.items():
        name = str(key).lstrip("-").replace("-", "_")
        if key == "clip" or key in FUNCTIONS:
            for found in read_any(value if key == "clip" else {key: value}, str(key), FUNCTIONS):
                _add(clips, found, str(key), notes)
        elif key == "calls" and isinstance(value, list):
            left = [call for call in value if not (isinstance(call, Call) and call.name in FUNCTIONS)]
            rest |= {key: left} if left else {}
        elif apart and name in SCRIPT:
            beside[name] = value
        elif not (isinstance(value, Call) and value.name in FUNCTIONS):
            rest[key] = value
    fields = clips.fields()
    if beside:
        fields = joined(fields, of_script(Settings(beside, "", notes)))
    return fields, (rest or None) if len(rest) < len(config) else config


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of two parts of a config.

    Args:
        one: The fields.
        other: More of them.

    Raises:
        SolverError: Both say how gradients are clipped.
    """
    if "clip" in one and "clip" in other:
        do = "give clip_grad, or the call"
        raise SolverError("clip_grad", "gradients are clipped by a call too", got=other["clip"].describe(), do=do)
    return {**one, **other}


_OWN_KEYS = ("optimizer", "average", "type", "class_path", "_target_", "optimizer_kwargs", "scheduler_kwargs")
_OWN_PREFIXES = ("create_", "param_groups_", "ModelEma")


def _is_apart(config: Mapping[Any, Any]) -> bool:
    """Whether the parts of a config have keys of their own, so that it is no list of arguments of the script."""
    keys = [str(key) for key in config]
    parts = any(key in _OWN_KEYS or key.startswith(_OWN_PREFIXES) or key.endswith("LRScheduler") for key in keys)
    return parts or any(isinstance(value, Call) for value in config.values())


def _without(text: str) -> str | None:
    """A script without statements that only clip; ``None`` where nothing is left of it."""
    tree = ast.parse(text)
    kept = [node for node in tree.body if not (isinstance(node, ast.Expr) and _clips(node.value))]
    rest = ast.unparse(ast.Module(kept, []))
    return rest if any(isinstance(value, (Call, list)) for value in read_python(rest).values()) else None


def _clips(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in FUNCTIONS


# ------------------------------------------------------------------ calls


def _add(clips: Clips, found: Found, where: str, notes: Notes) -> None:
    """Take a call in."""
    if found.call.name in TORCH:
        add_clip(clips, found, where, notes)
        return
    if found.call.name == "loss_scaler":
        found = _dispatched(found)
        if found.call.kwargs.get("value") is None:
            return
    settings = arguments_of(found, FUNCTIONS, where, notes)
    if settings is None:
        return
    settings.ignore("parameters")
    dispatched = found.call.name == "dispatch_clip_grad"
    mode = "agc"
    if dispatched:
        mode = settings.choice("mode", _MODES, "norm") if told(settings, "mode", notes) else ""
    limit = number_of(settings, "value" if dispatched else "clip_factor", None if dispatched else 0.01, notes)
    kind = norm_of(settings, notes)
    eps = 1e-3 if dispatched else _eps(settings, notes)
    settings.rest()
    of = _selected(found, settings, mode, notes)
    if limit is None or kind is None or eps is None or of is None or not mode:
        return
    note_tests(found, where, notes)
    if clips_nothing(clips, limit, settings):
        return
    if mode == "agc":
        clips.found.append(AGC(limit, eps, kind, **of))
    elif mode == "norm":
        clips.found.append(GlobalNorm(limit, kind, **of))
    else:
        clips.found.append(Value(limit, **of))


def _dispatched(found: Found) -> Found:
    """What ``NativeScaler`` hands on to ``dispatch_clip_grad``."""
    given = found.call.bound(FUNCTIONS[found.call.name], found.call.name)
    written = dict(zip(FUNCTIONS[found.call.name], found.node.args))
    written |= {keyword.arg: keyword.value for keyword in found.node.keywords if keyword.arg is not None}
    chosen = [ast.keyword("parameters", written["parameters"])] if "parameters" in written else []
    kwargs = {"value": given.get("clip_grad"), "mode": given.get("clip_mode", "norm")}
    node = ast.Call(ast.Name("dispatch_clip_grad"), [], chosen)
    return Found(Call("dispatch_clip_grad", (), kwargs), node, found.tests)


def _eps(settings: Settings, notes: Notes) -> float | None:
    return float(settings.number("eps", 1e-3, low=0)) if told(settings, "eps", notes) else None


def _selected(found: Found, settings: Settings, mode: str, notes: Notes) -> dict[str, Any] | None:
    """For which parameters: ``model_parameters(model, exclude_head=...)`` and ``[:-2]`` leave the last ones out."""
    node, spared = parameters_in(found), 0
    if node is None:
        return {}
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "model_parameters":
        spared = _SPARED if _excludes_head(node, mode) else 0
        node = ast.Name("parameters")
    elif (last := _LAST.fullmatch(ast.unparse(node))) is not None:
        spared = int(last["count"])
        node = ast.parse(last["whole"], mode="eval").body
    of = fields_of(node, settings.path("parameters"), notes)
    if of is None or not spared:
        return of
    if mode != "agc" or of:
        what = f"is not mapped: the last {spared} of them are spared; write clip: with unless: into the spec"
        notes.unmapped(settings.path("parameters"), what)
        return None
    return {"spare_last": spared}


def _excludes_head(node: ast.Call, mode: str) -> bool:
    """Whether the last parameters are left out: as it says, or by the mode where it asks for that."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "exclude_head"] or node.args[1:2]
    if not given:
        return False
    if isinstance(given[0], ast.Constant):
        return bool(given[0].value)
    return mode == "agc"


# ------------------------------------------------------------------ the script


def of_script(settings: Settings) -> dict[str, Any]:
    """The fields of a spec, of the arguments of ``train.py``.

    Args:
        settings: The arguments; those about clipping and accumulation are read.

    Raises:
        SolverError: A mode that timm does not know, or a limit that makes no sense.
    """
    fields: dict[str, Any] = {}
    if settings.take("clip_grad") is not None:
        mode, limit = settings.choice("clip_mode", _MODES, "norm"), read_limit(settings, "clip_grad")
        if limit is not None:
            fields["clip"] = _of_mode(settings, limit, mode)
    elif settings.take("clip_mode") not in (None, "norm"):
        settings.notes.say(settings.path("clip_mode"), "has no effect without clip_grad, as in timm")
    batches = accumulated(settings)
    if batches > 1:
        fields["accumulate"] = batches
    return fields


def _of_mode(settings: Settings, limit: float, mode: str) -> Clip:
    if mode == "norm":
        return GlobalNorm(limit)
    if mode == "value":
        return Value(limit)
    what = "agc spares the last two parameters of the model, which are to be the head's; here too, those of the module"
    settings.notes.say(settings.path("clip_mode"), what)
    return AGC(limit, spare_last=_SPARED)


def accumulated(settings: Settings) -> int:
    """The batches of a step, of the arguments of ``train.py``; below 1 is 1, as in timm.

    Args:
        settings: The arguments.

    Raises:
        SolverError: It is no whole number.
    """
    batches = settings.number("grad_accum_steps", 1)
    if int(batches) != batches:
        got = repr(batches)
        raise SolverError(settings.path("grad_accum_steps"), "must be a whole number", got=got, do="correct it")
    return max(1, int(batches))


def check_windows(settings: Settings, facts: Facts) -> None:
    """Compare the batches of a step with the facts, and note where timm makes two steps of an epoch's last ones.

    Its loop counts by the number of batches that are left over as soon as it has come to the second of them.

    Args:
        settings: The arguments.
        facts: What the config leaves open.

    Raises:
        SolverError: The facts say another number.
    """
    told = facts.get("batches_per_step")
    if "grad_accum_steps" in settings and told not in (None, accumulated(settings)):
        got = f"{accumulated(settings)}, and facts {told}"
        path = settings.path("grad_accum_steps")
        raise SolverError(path, "contradicts the facts", got=got, do="correct one of them")
    size, batches = accumulated(settings), facts.get("iters_per_epoch")
    rest = int(batches) % size if batches is not None and size > 1 else 0
    if rest and 1 <= int(batches) % rest <= rest - 2:
        what = f"of the {rest} batches left over at the end of an epoch timm's loop makes two steps, here they are one"
        settings.notes.say(settings.path("grad_accum_steps"), what)
