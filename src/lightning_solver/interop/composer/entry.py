"""How a Composer recipe is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, Phases, Settings, imported_spec, single
from lightning_solver.interop.composer.algorithms import read_algorithms
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.gradients import TRAINER, is_sharded, read_microbatches
from lightning_solver.interop.composer.of_torch import are_of_torch, read_torch
from lightning_solver.interop.composer.optimizer import KEYS, read_optimizer, script_of, without_optimizers
from lightning_solver.interop.composer.schedulers import read_schedule
from lightning_solver.interop.composer.trainer import OTHERS, scheduler_calls, trainer_arguments, why
from lightning_solver.interop.reading import Call, load
from lightning_solver.schedules import Constant, Over, Shift, Staircase
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay


def from_composer(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedulers, the optimiser, the clipping and the averages of the weights of a Composer recipe as a spec.

    Args:
        config: Arguments of Composer's ``Trainer``: ``schedulers`` (the text of one constructor call or of a list of
            them, or mappings), ``optimizers`` (the text of a call, a mapping, or an optimiser itself),
            ``algorithms`` (``EMA``, ``SWA`` and ``GradientClipping`` are read), ``max_duration``,
            ``scale_schedule_ratio``, ``step_schedulers_every_batch``; a config of llm-foundry with ``scheduler``,
            ``optimizer`` and ``max_duration``; the Python text of a ``Trainer(...)``, of schedulers or of algorithms;
            or the path of a ``.py``, ``.yaml`` or ``.json`` file with one of these.
        facts: What the config leaves open: ``iters_per_epoch``, the batches of an epoch, where Composer rounds a length
            to whole batches; ``samples_per_iter``, the samples of a batch, for times in samples; ``total_iters``, the
            batches of the run, or ``epochs``, where ``max_duration`` does not say.
        strict: Whether a key that is not mapped is an error.

    Returns:
        A spec with ``schedules.lr``, the optimiser and rules for its groups where there is one, the clipping, the
        averages ``ema`` and ``swa`` where there are any, and notes.

    Raises:
        SolverError: What Composer refuses; times in tokens or seconds; schedulers that are functions of the user's own;
            something that only a missing fact can tell; a config of another system.

    Example:
        >>> config = {"schedulers": "LinearWithWarmupScheduler(t_warmup='4ba')", "max_duration": "10ba"}
        >>> imported = from_composer(config)
        >>> imported.spec.curve("lr", [1.0], total_steps=10)[[0, 1, 2, 5, 8], 0].tolist()
        [0.0, 0.0, 0.25, 1.0, 0.5]
    """
    notes = Notes()
    known = Facts(facts, notes)
    script = script_of(config)
    settings = Settings(
        trainer_arguments(load(config) if script is None else without_optimizers(config, script)), "", notes
    )
    key = "schedulers" if "schedulers" in settings or "scheduler" not in settings else "scheduler"
    ratio = settings.number("scale_schedule_ratio", 1.0)
    if ratio <= 0:
        raise SolverError("scale_schedule_ratio", "must be > 0", got=repr(ratio), do="correct it")
    calls = scheduler_calls(settings.take(key), key)
    every_batch = settings.take("step_schedulers_every_batch")
    if every_batch is not None:
        every_batch = settings.flag("step_schedulers_every_batch", True)
    clock = Clock.of(settings, ratio, known, notes)
    named = next((name for name in KEYS if name in settings), KEYS[0])
    optimizer = read_optimizer(settings.take(named), named, script, calls, notes)
    own = {} if optimizer is None else optimizer.settings(notes)
    sharded = is_sharded(settings)
    read = read_algorithms(settings.take("algorithms"), clock, sharded, notes)
    read_microbatches(settings, notes)
    settings.rest(why, [*OTHERS, *TRAINER])
    if not calls:
        if ratio != 1:
            do = "leave it out; the training itself is not scaled without schedulers"
            raise SolverError("scale_schedule_ratio", "has no effect without schedulers", got=repr(ratio), do=do)
        notes.say(key, "there is no scheduler: the learning rate stays as it is")
        return notes.imported(imported_spec({}, **read, **own), strict)
    clock.explain()
    if are_of_torch(calls, key):
        return read_torch(calls, clock, bool(every_batch), strict, optimizer, read)
    several = len(calls) > 1
    if several:
        what = "they do not multiply, whatever the manual says"
        notes.say(key, f"the last of several schedulers decides, {calls[-1].name}: {what}")
    for i, call in enumerate(calls):
        schedule = read_schedule(call, clock, f"{key}[{i}]" if several else key, notes)
    if every_batch is False:
        notes.say("step_schedulers_every_batch", "the rate changes from epoch to epoch")
    elif not isinstance(schedule, Constant):
        notes.say(key, "the rates come one batch late, as Composer's scheduler is asked before its clock moves on")
    phases = _looked_up(schedule, every_batch is not False)
    first = _first_rate(calls[-1], schedule, clock, key)
    if first is not None:
        what = "the first rate comes from max_duration before it is scaled, which makes a difference here"
        notes.say("scale_schedule_ratio", what)
        phases = (Constant(first, until="1ep" if every_batch is False else 1), Over(single(phases), begin=0))
    return notes.imported(imported_spec({"lr": phases}, **read, **own), strict)


def _looked_up(schedule: Phases, every_batch: bool) -> Phases:
    """The schedule as the trainer looks at it: after each batch, one too late, or at the end of each epoch."""
    if isinstance(schedule, Constant):
        return schedule
    return Shift(schedule, later=1) if every_batch else Staircase(schedule, every="1ep")


def _first_rate(call: Call, schedule: Phases, clock: Clock, where: str) -> float | None:
    """The first factor where it is not that of the schedule: it is asked for before ``max_duration`` is scaled."""
    if clock.ratio == 1 or clock.length is None:
        return None
    before = dataclasses.replace(clock, run=clock.given, steps=1, notes=Notes())
    total = math.ceil(clock.length)
    run = RunLength(total_steps=total, steps_per_epoch=clock.batches or 1, samples_per_step=clock.samples or 1)
    window = run_window([1.0], run, where, beyond="allow")
    rates = [lay(phases, window).at(0)[0] for phases in (read_schedule(call, before, where, before.notes), schedule)]
    return rates[0] if rates[0] != rates[1] else None
