"""The averages of the weights: the classes ``ModelEmaV3``, ``ModelEmaV2`` and ``ModelEma``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_solver.averaging import EMA, PowerWarmup
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Call, Name, Unread, read_calls
from lightning_solver.interop.torch.averages import place_of

CLASSES: dict[str, tuple[str, ...]] = {
    "ModelEmaV3": (
        *("model", "decay", "min_decay", "update_after_step", "use_warmup", "warmup_gamma", "warmup_power", "device"),
        *("dtype", "stochastic_rounding", "stochastic_rounding_seed", "foreach", "exclude_buffers"),
    ),
    "ModelEmaV2": ("model", "decay", "device"),
    "ModelEma": ("model", "decay", "device", "resume"),
}
"""The classes: their arguments in order."""

_KEYS = ("average", "update")
_UPDATE = re.compile(r"[\w.]*update\((?P<arguments>.*)\)", re.DOTALL)


def take_average(config: Any, notes: Notes) -> tuple[EMA | None, Any]:
    """The average that a config makes by a class, and the rest of the config; ``None`` where that is nothing.

    Args:
        config: The config; the arguments of ``train.py`` stay in it.
        notes: Takes notes.

    Raises:
        SolverError: Several averages, what timm refuses, or what has no counterpart.
    """
    if isinstance(config, str):
        if not any(name in config for name in CLASSES):
            return None, config
        update = _update_in(config)
        calls = [call for call in read_calls(config, "config") if call.name != "update"]
        ours = [call for call in calls if call.name in CLASSES]
        rest: Any = [call for call in calls if call.name not in (*CLASSES, "create_model")]
        return _only(ours, update, notes), rest or None
    if isinstance(config, Call):
        return (_only([config], None, notes), None) if config.name in CLASSES else (None, config)
    if not isinstance(config, Mapping):
        return None, config
    if any(name in config for name in CLASSES) or any(
        _last(config.get(key)) in CLASSES for key in ("type", "_target_")
    ):
        own = {key: value for key, value in config.items() if key != "update"}
        return _only(read_calls(own, "config"), config.get("update"), notes), None
    return _of_mapping(config, notes)


def _of_mapping(config: Mapping[str, Any], notes: Notes) -> tuple[EMA | None, Any]:
    ours: list[Call] = []
    rest: dict[str, Any] = {}
    update = config.get("update")
    for key, value in config.items():
        if key == "average":
            calls = read_calls(value, key)
            for call in calls:
                if call.name not in CLASSES:
                    do = suggestion(call.name, CLASSES, "classes")
                    raise SolverError(key, "is not an average of timm", got=repr(call.name), do=do)
            ours += calls
        elif isinstance(value, Call) and value.name in CLASSES:
            ours.append(value)
        elif key == "calls" and isinstance(value, list):
            ours += [call for call in value if isinstance(call, Call) and call.name in CLASSES]
            update = next((call for call in value if isinstance(call, Call) and call.name == "update"), update)
            left = [call for call in value if not (isinstance(call, Call) and call.name in (*CLASSES, "update"))]
            rest |= {key: left} if left else {}
        elif key not in _KEYS:
            rest[key] = value
    if not ours:
        return None, config
    return _only(ours, update, notes), rest or None


def _last(value: Any) -> str | None:
    return value.rpartition(".")[2] if isinstance(value, str) else None


def _update_in(text: str) -> str | None:
    """The first call of a method ``update`` with arguments, wherever it stands in a script."""
    try:
        calls: Iterator[ast.AST] = ast.walk(ast.parse(text))
    except SyntaxError:  # an error of its own, once it is read
        return None
    for node in calls:
        method = node.func if isinstance(node, ast.Call) and node.args else None
        if isinstance(method, ast.Attribute) and method.attr == "update" and "ema" in ast.unparse(method.value).lower():
            return ast.unparse(node)
    return None


def _only(calls: list[Call], update: Any, notes: Notes) -> EMA | None:
    """The average of the one call that there may be."""
    calls = [call for i, call in enumerate(calls) if all(call is not other for other in calls[:i])]
    if not calls:
        return None
    if len(calls) > 1:
        got = ", ".join(call.name for call in calls)
        raise SolverError("config", "has several averages", got=got, do="import one, and add the others to its spec")
    (call,) = calls
    names = CLASSES[call.name]
    bound = call.bound(names, call.name)
    for key in [key for key in bound if key not in names]:
        notes.unknown(f"{call.name}.{key}", key, call.name, names)
        del bound[key]
    data = {key: value if key in ("device", "dtype") else _literal(value) for key, value in bound.items()}
    data.pop("model", None)
    settings = Settings(data, call.name, notes)
    if call.name == "ModelEmaV3":
        return _third(settings, _told(update, notes))
    if update is not None and _told(update, notes):
        do = "use ModelEmaV3, or leave the step out"
        raise SolverError("update", f"{call.name}.update() takes no step", got=str(update), do=do)
    notes.say(call.name, "averages whole numbers in buffers too, and cuts them; here they are the model's own")
    if settings.take("resume"):
        notes.unmapped(settings.path("resume"), "is not mapped: resume by this package's own checkpoints")
    average = EMA(decay=_decay(settings, "decay", 0.9999), start=0, **place_of(settings))
    settings.rest()
    return average


def _literal(value: Any) -> Any:
    return Unread(value.text) if isinstance(value, Name) else value


def _told(update: Any, notes: Notes) -> bool:
    """Whether ``update()`` is told the number of the step."""
    if update is None:
        notes.say("ModelEmaV3", "update() is taken to be told the number of updates so far, from 1, as in train.py")
        return True
    if isinstance(update, Call):
        step = update.kwargs.get("step", update.args[1] if len(update.args) > 1 else None)
        return step is not None
    found = _UPDATE.fullmatch(str(update).strip())
    if found is None:
        do = "write update(model, step=num_updates), or update(model)"
        raise SolverError("update", "is not a call of update()", got=repr(update), do=do)
    _, comma, step = found["arguments"].partition(",")
    return bool(comma and step.strip()) and re.fullmatch(r"\s*(step\s*=\s*)?None\s*", step) is None


def _third(settings: Settings, told: bool) -> EMA:
    """``ModelEmaV3``: of ``t = step - update_after_step - 1``, up to 0 it copies, then the decay warms up by ``t``."""
    decay, least = _decay(settings, "decay", 0.9999), _decay(settings, "min_decay", 0.0)
    after = settings.number("update_after_step", 0)
    if int(after) != after:
        got = repr(after)
        raise SolverError(settings.path("update_after_step"), "must be a whole number", got=got, do="correct it")
    warm = settings.flag("use_warmup", False)
    gamma, power = (
        _positive(settings, key, default) for key, default in (("warmup_gamma", 1.0), ("warmup_power", 2 / 3))
    )
    settings.ignore("foreach")
    place = {**place_of(settings), **_type(settings)}
    if settings.flag("exclude_buffers", False):
        place["buffers"] = "copy"
    settings.rest()
    idle: tuple[str, ...] = ("min_decay", "warmup_gamma", "warmup_power") if not warm else ()
    if not told:
        idle = ("min_decay", "update_after_step", "use_warmup", "warmup_gamma", "warmup_power")
    why = "use_warmup is off" if told else "update() is not told the step"
    for key in idle:
        if settings.take(key):
            settings.notes.say(settings.path(key), f"has no effect, as in timm: {why}")
    if not told:
        return EMA(decay=decay, start=0, **place)
    if warm and after < -1:
        what = "begins the warm-up in its middle, before the first step"
        raise SolverError(settings.path("update_after_step"), what, got=repr(after), do="give -1 or more")
    start = max(int(after) + 1, 0)
    if not warm or least >= decay:
        return EMA(decay=max(decay, least) if warm else decay, start=start, **place)
    return EMA(decay=decay, start=start, warmup=PowerWarmup(gamma, power, least), **place)


def _decay(settings: Settings, key: str, default: float) -> float:
    value = float(settings.number(key, default))
    if not 0 <= value <= 1:
        raise SolverError(settings.path(key), "must be from 0 to 1", got=repr(value), do="correct it")
    return value


def _positive(settings: Settings, key: str, default: float) -> float:
    value = float(settings.number(key, default))
    if value <= 0:
        raise SolverError(settings.path(key), "must be above 0", got=repr(value), do="correct it")
    return value


def _type(settings: Settings) -> dict[str, Any]:
    """The type of the average; timm's is that of the weights, of which bfloat16 is rounded at random."""
    rounded = settings.flag("stochastic_rounding", True)
    settings.ignore("stochastic_rounding_seed")
    value = settings.take("dtype")
    if value is None:
        return {} if rounded else {"dtype": "same"}
    written = value.text if isinstance(value, Name) else str(value)
    if written.rpartition(".")[2] in ("float32", "float"):
        return {"dtype": "float32"}
    settings.notes.unmapped(settings.path("dtype"), f"is not mapped: {written}; write dtype: same or float32")
    return {}


SCRIPT = ("model_ema", "model_ema_decay", "model_ema_warmup", "model_ema_force_cpu")
"""Arguments of ``train.py``."""


def of_script(settings: Settings) -> EMA | None:
    """The average of the arguments of ``train.py``; it validates with the trained weights and with the average.

    Args:
        settings: The arguments; those about the average are read.

    Raises:
        SolverError: A decay that is none.
    """
    on, warm, on_cpu = (settings.flag(key, False) for key in (SCRIPT[0], *SCRIPT[2:]))
    decay = _decay(settings, "model_ema_decay", 0.9998)
    if not on:
        for key in SCRIPT[1:]:
            if settings.take(key) not in (None, False, 0.9998):
                settings.notes.say(settings.path(key), "has no effect without model_ema, as in timm")
        return None
    what = "the metric of the average is the one that counts, as in timm; that of the trained weights ends with _live"
    if on_cpu:
        what = "timm validates with the trained weights only, then; here with both, and that of the average counts"
    settings.notes.say(settings.path("model_ema_force_cpu" if on_cpu else "model_ema"), what)
    return EMA(
        decay=decay,
        warmup=PowerWarmup() if warm else None,
        device="cpu" if on_cpu else "same",
        evaluate_live=True,
    )
