"""Clipping and microbatches: the algorithm ``GradientClipping``, and what the trainer is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.clipping import AGC, Clip, GlobalNorm, Value
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.clip_arguments import read_limit

CLIPPING: dict[str, tuple[str, ...]] = {"GradientClipping": ("clipping_type", "clipping_threshold")}
"""The algorithm: its arguments in order."""

_MICROBATCHES = ("device_train_microbatch_size", "device_train_grad_accum", "grad_accum")
TRAINER = (*_MICROBATCHES, "accumulate_train_batch_on_tokens")
"""Arguments of the trainer that are about gradients; the shards are looked at, but not read."""


def is_sharded(settings: Settings) -> bool:
    """Whether the trainer shards by the first form of FSDP, under which Composer clips in another way.

    Args:
        settings: The arguments of the trainer.
    """
    sharded = False
    for key in ("parallelism_config", "fsdp_config"):
        if key not in settings:
            continue
        given = settings.take(key)
        settings.notes.unmapped(settings.path(key), "is not part of the solver: give the Trainer its strategy")
        if isinstance(given, Mapping):
            sharded = sharded or bool(given.get("fsdp") if key == "parallelism_config" else given)
    return sharded


def read_clipping(algorithms: Sequence[Settings], sharded: bool) -> dict[str, Any]:
    """The clipping, as a field of a spec.

    Args:
        algorithms: The arguments of every ``GradientClipping``, in order.
        sharded: Whether the trainer shards by the first form of FSDP.

    Raises:
        SolverError: What Composer refuses, or a threshold that makes no sense.
    """
    clips = [clip for settings in algorithms if (clip := _clip(settings, sharded)) is not None]
    if len(clips) > 1:
        clips.reverse()
        what = "of several the last acts first, as in Composer, which turns the order after a batch round"
        algorithms[0].notes.say(algorithms[0].where, what)
    return {} if not clips else {"clip": clips[0] if len(clips) == 1 else tuple(clips)}


def _clip(settings: Settings, sharded: bool) -> Clip | None:
    kind = settings.needed("clipping_type")
    settings.needed("clipping_threshold")
    threshold = read_limit(settings, "clipping_threshold")
    settings.rest()
    if kind not in ("norm", "value", "adaptive"):
        do = "give norm, value or adaptive"
        raise SolverError(settings.path("clipping_type"), "unknown value", got=repr(kind), do=do)
    if kind == "adaptive" and sharded:
        do = "give norm or value, or leave fsdp_config out"
        raise SolverError(settings.path("clipping_type"), "is refused by Composer with FSDP", got="adaptive", do=do)
    if threshold is None:
        return None
    if kind == "value" and sharded:
        what = "with FSDP Composer scales all gradients down to this greatest absolute value, in place of cutting off"
        settings.notes.say(settings.path("clipping_type"), what)
        return GlobalNorm(threshold, norm_type="inf")
    if kind == "norm":
        return GlobalNorm(threshold)
    if kind == "value":
        return Value(threshold)
    what = "a unit whose weights are all 0 has its gradient made 0 for good, as in Composer; eps: 1.0e-3 mends that"
    settings.notes.say(settings.path("clipping_type"), what)
    return AGC(threshold, eps=0.0)


def read_microbatches(settings: Settings, notes: Notes) -> None:
    """Note how the trainer divides a batch: by samples, so that the gradients are those of the whole batch.

    Args:
        settings: The arguments of the trainer.
        notes: Takes notes.
    """
    for key in _MICROBATCHES:
        if settings.take(key) is None:
            continue
        what = "divides a batch to save memory, with the gradients of the whole: nothing is changed by leaving it out; "
        do = "to save it here too, let the loader give less and write accumulate: {samples: ...}, those of the whole"
        notes.say(settings.path(key), what + do)
    if settings.flag("accumulate_train_batch_on_tokens", False):
        do = "give the module a method tokens(batch), and write accumulate: {batches: 1, weigh_by: tokens}"
        what = f"is not mapped: {do}"
        notes.unmapped(settings.path("accumulate_train_batch_on_tokens"), what)
