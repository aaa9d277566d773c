"""The algorithms of a trainer: ``EMA``, ``SWA`` and ``GradientClipping``; others are noted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_solver.averaging import EMA, SWA, Average
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings, length
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.gradients import CLIPPING, read_clipping
from lightning_solver.interop.composer.moments import Moments
from lightning_solver.interop.composer.times import Time
from lightning_solver.interop.reading import Call, Name, Unread, read_calls

AVERAGES: dict[str, tuple[str, ...]] = {
    "EMA": ("half_life", "smoothing", "ema_start", "update_interval"),
    "SWA": (
        *("swa_start", "swa_end", "update_interval", "schedule_swa_lr", "anneal_strategy", "anneal_steps", "swa_lr"),
    ),
}
"""Those that average: their arguments in order."""

ALGORITHMS = {**AVERAGES, **CLIPPING}
"""The algorithms that are mapped: their arguments in order."""

_BY_KEY = {"ema": "EMA", "swa": "SWA", "gradient_clipping": "GradientClipping"}

_OTHERS = {
    "LayerFreezing": "freezes more and more of the modules in their order, which only the model knows: write rules "
    "with frozen_from",
    "SAM": "makes two passes for one step: name an optimiser that does so",
}


def read_algorithms(config: Any, clock: Clock, sharded: bool, notes: Notes) -> dict[str, Any]:
    """The averages and the clipping among the algorithms of a trainer, as fields of a spec; all others are noted.

    Args:
        config: What the trainer is given, of any form.
        clock: The clock of the training.
        sharded: Whether the trainer shards by the first form of FSDP.
        notes: Takes notes.

    Raises:
        SolverError: What Composer refuses, two averages of a kind, or something that only a missing fact can tell.
    """
    found: dict[str, tuple[Call, str]] = {}
    clipping: list[Settings] = []
    for call, where in _calls(config):
        if call.name not in ALGORITHMS:
            what = _OTHERS.get(call.name, "is not part of the solver")
            notes.unmapped("algorithms", f"is not mapped: {call.name} {what}")
        elif call.name in CLIPPING:
            clipping.append(_settings(call, where, notes))
        elif call.name in found:
            raise SolverError(where, "is the second of its kind", got=call.name, do="give one")
        else:
            found[call.name] = (call, where)
    averages: dict[str, Average] = {}
    for name, (call, where) in found.items():
        settings = _settings(call, where, notes)
        more = {"evaluated": name == "EMA"} if len(found) > 1 else {}
        averages[name.lower()] = (_ema if name == "EMA" else _swa)(settings, clock, more)
        settings.rest()
    return {"averages": averages, **read_clipping(clipping, sharded)}


def is_algorithm(config: Any) -> bool:
    """Whether a mapping is one of an algorithm that is mapped, by itself."""
    if not isinstance(config, Mapping):
        return False
    names = [str(config[key]).rpartition(".")[2] for key in ("type", "class_path", "_target_") if key in config]
    return any(name in ALGORITHMS for name in [*names, *(config if len(config) == 1 else ())])


def _calls(config: Any) -> Iterator[tuple[Call, str]]:
    """The algorithms, each with its path."""
    if config is None:
        return
    if isinstance(config, Mapping) and not is_algorithm(config) and all(_is_arguments(one) for one in config.values()):
        for name, arguments in config.items():
            key = str(name)
            yield Call(_BY_KEY.get(key.lower(), key), (), arguments or {}), key
        return
    several = isinstance(config, (list, tuple))
    for i, one in enumerate(config if several else [config]):
        where = f"algorithms[{i}]" if several else "algorithms"
        try:
            calls = read_calls(one, where)
        except SolverError:
            calls = [Call(type(one).__name__ if not isinstance(one, Name) else one.text)]
            if calls[0].name in ALGORITHMS:
                raise SolverError(where, "is an object", got=calls[0].name, do="give its arguments") from None
        for call in calls:
            yield call, where


def _is_arguments(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _settings(call: Call, where: str, notes: Notes) -> Settings:
    names = ALGORITHMS[call.name]
    bound = call.bound(names, where)
    for key in [key for key in bound if key not in names]:
        notes.unknown(f"{where}.{key}", key, call.name, names)
        del bound[key]
    return Settings({key: Unread(v.text) if isinstance(v, Name) else v for key, v in bound.items()}, where, notes)


def _interval(settings: Settings, given: Any) -> Time:
    """The time between two updates."""
    interval, where = Time.parse(given, settings.path("update_interval")), settings.path("update_interval")
    if interval.unit not in ("ba", "ep"):
        raise SolverError(where, "must be in batches or epochs", got=repr(given), do="write it as 10ba, or 1ep")
    if interval.value == 0:
        raise SolverError(where, "is nothing, by which Composer divides", got=repr(given), do="lengthen it")
    return interval


# ------------------------------------------------------------------ EMA


def _ema(settings: Settings, clock: Clock, more: Mapping[str, Any]) -> EMA:
    """``EMA``: made of the weights of the first moment at which it may begin, updated with every multiple of batches.

    The multiples are those of the run, whatever it begins with.
    """
    life, smoothing = settings.take("half_life", "1000ba"), settings.number("smoothing")
    where = settings.path("half_life")
    if (life is None) == (smoothing is None):
        what = "and smoothing are both missing" if life is None else "is given (1000ba by default) beside smoothing"
        raise SolverError(where, what, do="give one of them, and half_life=None beside smoothing")
    given = settings.take("update_interval")
    half = None if life is None else Time.parse(life, where)
    if half is None and given is None:
        what = "is missing, without which Composer fails where smoothing is given"
        raise SolverError(settings.path("update_interval"), what, do="add update_interval='1ba'")
    interval = _interval(settings, f"1{half.unit}" if given is None and half is not None else given)
    if half is not None and half.unit != interval.unit:
        got, do = f"{half} and {interval}", "write both in batches, or both in epochs"
        raise SolverError(where, "and update_interval must have the same unit", got=got, do=do)
    if half is not None and half.value == 0:
        raise SolverError(where, "is nothing, by which Composer divides", got=repr(life), do="lengthen it")
    if smoothing is not None and not 0 <= smoothing <= 1:
        raise SolverError(settings.path("smoothing"), "must be from 0 to 1", got=repr(smoothing), do="correct it")
    moments = Moments(clock, interval.unit == "ep")
    path = settings.path("ema_start")
    start = moments.first(Time.parse(settings.take("ema_start", "0.0dur"), path), path)
    what = "averages whole numbers in buffers too, and cuts them; here they are the model's own"
    settings.notes.say(settings.where or "EMA", what)
    every, unit = int(interval.value), "ep" if moments.by_epoch else "st"
    decay: dict[str, Any] = {"half_life": length(half.value, unit)} if half is not None else {}
    decay = decay or {"decay": smoothing, **({"decay_per": "update"} if every > 1 or unit == "ep" else {})}
    whole: dict[str, Any] = {} if start.text == 1 else {"start": start.text, "before": "hold"}
    if every > 1 and (start.count is None or start.count % every):  # it may begin between two updates
        share = smoothing if half is None else 2.0 ** (-every / half.value)
        decay, whole = {"decay": share, "decay_per": "update"}, {**whole, "every_from": "run"}
    return EMA(**decay, **whole, every=length(every, unit), **more)


# ------------------------------------------------------------------ SWA


def _swa(settings: Settings, clock: Clock, more: Mapping[str, Any]) -> SWA:
    """``SWA``: updated from the first moment at which it may, at intervals from there, until it has ended."""
    interval = _interval(settings, settings.take("update_interval", "1ep"))
    times = [Time.parse(settings.take(key, default), settings.path(key)) for key, default in _WINDOW.items()]
    first, last = times
    path = settings.path("swa_end")
    for key, time in zip(_WINDOW, times):
        if time.unit not in ("dur", "ep"):
            do = "write it as 0.7dur, or 6ep"
            raise SolverError(settings.path(key), "must be a share of the run or in epochs", got=str(time), do=do)
    if first.unit != last.unit or first.value >= last.value:
        got = f"{first} and {last}"
        raise SolverError(path, "must be after swa_start and in its unit", got=got, do="correct it")
    _annealing(settings)
    moments = Moments(clock, interval.unit == "ep")
    start, end = moments.first(first, settings.path("swa_start")), moments.first(last, path)
    every, unit, total = int(interval.value), "ep" if moments.by_epoch else "st", moments.total
    if end.count is None and (every > 1 or (moments.by_epoch and last.value != 1)):
        clock.facts.need("epochs" if moments.run is None else "iters_per_epoch", path, "falls onto some epoch's end")
    until: int | str | None = end.text if end.count is None and not moments.by_epoch else None
    late = end.count is not None and total is not None and end.count > total
    ended = late or (end.count is not None and end.count == total and moments.even)
    if end.count is not None and start.count is not None:
        latest = end.count if total is None else min(end.count, total)
        latest = start.count + (latest - start.count) // every * every
        until = None if latest == total and moments.even else length(latest, unit)
    if not ended and not (last.unit == "dur" and last.value == 1 and moments.by_epoch):
        what = "ends the average; that training then goes on from it, as in Composer, is not mapped"
        settings.notes.unmapped(path, f"{what}: here it goes on from its own weights")
    elif late:
        settings.notes.say(path, "lies beyond the run, so that Composer never uses the average; here it is used")
    settings.notes.say(path, "the statistics of batch norms are those of the trained weights; see update_bn")
    text, pace = start.text, length(every, unit)
    if moments.by_epoch and every > 1 and (start.count is None or start.count % every):
        why = "counts from swa_start on"
        batches = int(clock.facts.need("iters_per_epoch", settings.path("update_interval"), why))
        if start.count is None:
            do = "give max_duration, or swa_start in epochs"
            raise SolverError(settings.path("update_interval"), why, got=str(interval), do=do)
        text, pace = start.count * batches, every * batches
    return SWA(start=text, every=pace, until=until, before="hold", buffers="copy", **more)


_WINDOW = {"swa_start": "0.7dur", "swa_end": "0.97dur"}


def _annealing(settings: Settings) -> None:
    """The learning rate while it averages: Composer's anneals to the rate that it finds, whatever ``swa_lr`` says."""
    annealed = settings.flag("schedule_swa_lr", False)
    strategy = str(settings.take("anneal_strategy", "linear")).lower()
    if strategy not in ("linear", "lin", "cos", "cosine"):
        path = settings.path("anneal_strategy")
        raise SolverError(path, "unknown value", got=repr(strategy), do="write linear or cos")
    if settings.number("anneal_steps", 10) <= 0:
        got = repr(settings.take("anneal_steps"))
        raise SolverError(settings.path("anneal_steps"), "must be above 0", got=got, do="correct it")
    rate = settings.number("swa_lr")
    if annealed:
        what = "is not mapped: Composer anneals to the rate that it finds, whatever swa_lr says"
        do = "write the learning rate from swa_start on as a phase of the schedule"
        settings.notes.unmapped(settings.path("schedule_swa_lr"), f"{what}; {do}")
    elif rate is not None:
        settings.notes.say(settings.path("swa_lr"), "has no effect without schedule_swa_lr, as in Composer")
