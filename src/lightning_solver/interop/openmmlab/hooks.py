"""The hooks of a config: which of them make averages of the weights or estimate statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from lightning_solver.averaging import Average, UpdateBN
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Settings
from lightning_solver.interop.reading import Call, Name

INERT = ("type", "_delete_", "_scope_")
"""Keys of a hook that are none of its arguments."""


def find_hooks(settings: Settings, wanted: Container[str]) -> list[tuple[str, Settings]]:
    """The hooks of ``custom_hooks`` and ``default_hooks`` that are read, with their names; the others are noted.

    Args:
        settings: The whole config.
        wanted: Names of classes, without their module or scope.

    Raises:
        SolverError: ``custom_hooks`` is no list.
    """
    found: list[tuple[str, Settings]] = []
    custom = settings.take("custom_hooks") or ()
    if not isinstance(custom, (list, tuple)):
        raise SolverError("custom_hooks", "must be a list", got=repr(custom)[:120], do="write a list of hooks")
    for i, hook in enumerate(custom):
        _sort(hook, f"custom_hooks[{i}]", wanted, settings, found)
    default = settings.take("default_hooks") if "default_hooks" in settings else None
    if isinstance(default, Mapping) and any(_named(hook) in wanted for hook in default.values()):
        for name, hook in default.items():
            _sort(hook, f"default_hooks.{name}", wanted, settings, found)
    elif default is not None:
        settings.notes.unmapped("default_hooks", "is not part of the schedules")
    return found


def _sort(hook: Any, where: str, wanted: Container[str], settings: Settings, found: list[tuple[str, Settings]]) -> None:
    if hook is None:
        return
    name = _named(hook)
    if name not in wanted:
        settings.notes.unmapped(where, f"{name or 'this hook'} is not part of the schedules")
        return
    if isinstance(hook, Call) and hook.args:
        raise SolverError(where, "has arguments without a name", got=str(hook.args), do="name them")
    found.append((name, Settings(hook.kwargs if isinstance(hook, Call) else hook, where, settings.notes)))


def class_name(given: Any) -> str:
    """The name of a class without its module or scope, however it is given; nothing where it is none."""
    text = given.text if isinstance(given, Name) else given if isinstance(given, str) else None
    return getattr(given, "__name__", "") if text is None else text.rpartition(".")[2]


def _named(hook: Any) -> str:
    if isinstance(hook, Call):
        return hook.name
    return class_name(hook.get("type")) if isinstance(hook, Mapping) else ""


def note_rest(data: Settings, owner: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> None:
    """Note every argument that nobody read, which its owner would refuse.

    Args:
        data: The arguments.
        owner: The class.
        known: The arguments that it has.
        meant: Other names that some of them go by.
    """
    names = list(known)

    def why(key: str) -> str:
        hint = f"did you mean {meant[key]}?" if meant and key in meant else suggestion(key, names, "arguments")
        return f"is not mapped: {owner} has no such argument; {hint}"

    data.rest(why)


def whole(data: Settings, key: str, default: int, low: int) -> int:
    """A whole number.

    Raises:
        SolverError: It is something else, or lower than ``low``.
    """
    value = data.number(key, default, low=low)
    if value != int(value):
        raise SolverError(data.path(key), "must be a whole number", got=repr(value), do="correct it")
    return int(value)


def momentum_of(data: Settings) -> float:
    """The share of the present weights, which these systems call the momentum.

    Raises:
        SolverError: It is not between 0 and 1, or one of these.
    """
    value = data.number("momentum", 0.0002)
    if not 0 < value < 1:
        do = "give the share of the present weights: 1 less the decay"
        raise SolverError(data.path("momentum"), "must be above 0 and below 1", got=repr(value), do=do)
    return float(value)


def with_statistics(
    averages: Mapping[str, Average], hooks: Sequence[Settings], peer: str, facts: Facts
) -> dict[str, Average]:
    """The averages, with batch norms estimated anew where a ``PreciseBNHook`` does so.

    Args:
        averages: The averages by name.
        hooks: The settings of each such hook.
        peer: What the peer is called.
        facts: What the config leaves open.
    """
    result = dict(averages)
    for hook in hooks:
        samples, interval = whole(hook, "num_samples", 8192, 1), whole(hook, "interval", 1, 1)
        hook.ignore("priority", *INERT)
        note_rest(hook, "PreciseBNHook", ("num_samples", "interval", "priority"))
        shown = [name for name, average in result.items() if average.evaluated is not False]
        if not shown:
            hook.notes.unmapped(hook.where, "is not mapped: statistics are estimated anew for averaged weights only")
            continue
        what = f"{peer} estimates the statistics of the trained weights, after an epoch; here those of the averaged"
        hook.notes.say(hook.where, f"{what} weights are estimated, before each validation")
        if interval > 1:
            hook.notes.unmapped(hook.path("interval"), "is not mapped: it is done before each validation")
        update = UpdateBN(batches=_batches(hook, samples, facts), at="validation")
        result |= {name: dataclasses.replace(result[name], update_bn=update) for name in shown}
    return result


def _batches(hook: Settings, samples: int, facts: Facts) -> int | None:
    """How many batches hold so many samples, at most those of an epoch; ``None`` for all of these."""
    size, per_epoch = facts.get("samples_per_iter"), facts.get("iters_per_epoch")
    if size is None:
        what = "is a number of samples: all batches of an epoch are used"
        do = "give facts={'samples_per_iter': ...} (samples of a batch, over all devices) for as many batches"
        hook.notes.unmapped(hook.path("num_samples"), f"{what}; {do}")
        return None
    batches = int(samples // size)
    if batches < 1:
        do = f"give at least {size:g}"
        raise SolverError(hook.path("num_samples"), "is less than one batch", got=str(samples), do=do)
    return None if per_epoch is not None and batches >= per_epoch else batches
