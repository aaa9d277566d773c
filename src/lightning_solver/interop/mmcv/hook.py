"""The hook of an MMCV 1.x config that makes the steps, ``optimizer_config``: clipping, accumulation, precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Facts, Settings
from lightning_solver.interop.clip_arguments import read_norm
from lightning_solver.interop.mmcv.run import Run
from lightning_solver.interop.openmmlab.accumulating import read_windows
from lightning_solver.interop.openmmlab.hooks import INERT, class_name
from lightning_solver.interop.openmmlab.precision import trainer_words

_COUNTS = ("cumulative_iters", "update_interval")
_CLIP, _SUMS = ("grad_clip",), ("coalesce", "bucket_size_mb", "distributed")
_HOOKS: Mapping[str, tuple[str, ...]] = {
    "OptimizerHook": (*_CLIP, "detect_anomalous_params"),
    "GradientCumulativeOptimizerHook": ("cumulative_iters", *_CLIP, "detect_anomalous_params"),
    "Fp16OptimizerHook": (*_CLIP, *_SUMS, "loss_scale"),
    "GradientCumulativeFp16OptimizerHook": ("cumulative_iters", *_CLIP, *_SUMS, "loss_scale"),
    "DistOptimizerHook": ("update_interval", *_CLIP, "coalesce", "bucket_size_mb", "use_fp16", "frozen_layers_cfg"),
    "GradAccumFp16OptimizerHook": ("update_interval", *_CLIP, *_SUMS, "loss_scale", "frozen_layers_cfg"),
}
"""Hooks of MMCV, and the last two of projects on it (MMSelfSup, Swin, ConvNeXt): their arguments."""


def read_per_step(settings: Settings, facts: Facts) -> Any:
    """How many batches make an optimiser step.

    Args:
        settings: The whole config.
        facts: What the config leaves open.

    Raises:
        SolverError: A number that is none, that the hook does not take, or that contradicts the facts.
    """
    config = settings.take("optimizer_config")
    per_step = facts.get("batches_per_step")
    if config is None:
        return per_step or 1
    hook = Settings(config, "optimizer_config", settings.notes)
    kind = _named(hook)
    said = [(key, hook.number(key)) for key in _COUNTS if key in hook]
    for key, value in said:
        if kind in ("OptimizerHook", "Fp16OptimizerHook"):
            do = "use type='GradientCumulativeOptimizerHook'"
            raise SolverError(hook.path(key), f"{kind} accumulates no gradients", got=repr(value), do=do)
        if not isinstance(value, int) or value < 1:
            raise SolverError(hook.path(key), "must be a whole number >= 1", got=repr(value), do="correct it")
        if per_step not in (None, value):
            got = f"{value}, and facts.batches_per_step {per_step}"
            raise SolverError(hook.path(key), "contradicts the facts", got=got, do="leave one of them out")
    return said[-1][1] if said else per_step or 1


def read_hook(settings: Settings, run: Run, facts: Facts) -> dict[str, Any]:
    """What ``optimizer_config`` and ``fp16`` make of a spec: field -> value.

    Args:
        settings: The whole config.
        run: The run.
        facts: What the config leaves open.

    Raises:
        SolverError: What MMCV or torch refuse.
    """
    config, half = settings.take("optimizer_config"), settings.take("fp16")
    if half is not None:
        inner = Settings(half, "fp16", settings.notes)
        words = trainer_words(inner.take("loss_scale", 512.0), inner.path("loss_scale"))
        settings.notes.unmapped("fp16", words)
    if config is None:
        return {}
    hook = Settings(config, "optimizer_config", settings.notes)
    kind = _named(hook)
    hook.ignore(*INERT)
    known = _HOOKS.get(kind)
    if known is None:
        close = suggestion(kind, _HOOKS, "hooks")
        what = f"is not mapped: {kind} is a hook of its own; what is said of clipping and accumulation is read; {close}"
        hook.notes.unmapped(hook.path("type"), what)
    fields: dict[str, Any] = {}
    clip = hook.take("grad_clip")
    if clip is not None:
        fields |= read_norm(Settings(clip, hook.path("grad_clip"), hook.notes))
    if "Fp16" in kind:
        words = trainer_words(hook.take("loss_scale", 512.0), hook.path("loss_scale"))
        hook.notes.unmapped(hook.path("type"), words)
    for key in [key for key in _COUNTS if key in hook]:
        per_epoch = facts.get("iters_per_epoch")
        fields |= read_windows(int(hook.number(key)), hook.path(key), "MMCV", (per_epoch, run.batches), hook.notes)
        if key == "update_interval" and fields.get("accumulate"):
            what = "what is left over at the end of the run makes no step with this hook; here it makes one"
            hook.notes.say(hook.path(key), what)
    _surroundings(hook, known)
    return fields


def _surroundings(hook: Settings, known: tuple[str, ...] | None) -> None:
    """What has no figure in a spec: how gradients are summed up over devices, what is logged."""
    for key in _SUMS:
        if key in hook and (known is None or key in known):
            hook.ignore(key)
            hook.notes.say(hook.path(key), "is not needed: the Trainer's strategy sums up gradients over devices")
    if (known is None or "use_fp16" in known) and hook.flag("use_fp16", False):
        hook.notes.unmapped(hook.path("use_fp16"), trainer_words("dynamic", hook.path("use_fp16")))
    if (known is None or "detect_anomalous_params" in known) and hook.flag("detect_anomalous_params", False):
        what = "is not mapped: it logs which parameters the loss does not depend on"
        hook.notes.unmapped(hook.path("detect_anomalous_params"), what)
    if known is None or "frozen_layers_cfg" in known:
        frozen = hook.take("frozen_layers_cfg")
        if frozen:
            what = "is not mapped: write a rule with frozen_until for these layers"
            hook.notes.unmapped(hook.path("frozen_layers_cfg"), what)
    kind = _named(hook)
    names = known or ()
    hook.rest(
        None if known is None else lambda key: f"is not mapped: {kind} has no such argument; {suggestion(key, names)}"
    )


def _named(hook: Settings) -> str:
    """The class of the hook without its module or scope."""
    given = hook.take("type", "OptimizerHook")
    name = class_name(given)
    if not name:
        do = f"give one of {', '.join(_HOOKS)}"
        raise SolverError(hook.path("type"), "is not a hook", got=repr(given)[:120], do=do)
    return name
