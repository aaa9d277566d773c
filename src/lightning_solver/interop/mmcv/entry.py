"""How a config of MMCV 1.x is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, nearest
from lightning_solver.interop.base import (
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    batches_to_steps,
    imported_spec,
    refuse_other_peers,
)
from lightning_solver.interop.mmcv.averages import read_averages
from lightning_solver.interop.mmcv.hook import read_hook, read_per_step
from lightning_solver.interop.mmcv.optimizer import read_optimizer
from lightning_solver.interop.mmcv.policies import read_schedule
from lightning_solver.interop.mmcv.run import read_run, to_last_step
from lightning_solver.interop.reading import load_mapping


def from_mmcv(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedules, the optimiser, its groups, clipping, accumulation and the average of an MMCV 1.x config.

    Args:
        config: A whole config, or the mapping of ``lr_config`` alone; a mapping, the path of a .py (with its
            ``_base_``), .yaml or .json file, or Python text. Read are ``lr_config``, ``momentum_config``,
            ``optimizer`` with its ``paramwise_cfg``, ``auto_scale_lr``, ``runner`` (``total_epochs``, ``total_iters``),
            ``optimizer_config`` (``grad_clip``, ``cumulative_iters``), and of ``custom_hooks`` the ``EMAHook``,
            MMDetection's ``LinearMomentumEMAHook`` and ``ExpMomentumEMAHook``, and MMClassification's
            ``PreciseBNHook``.
        facts: What the config leaves open. ``epochs``, ``iters_per_epoch``, ``total_batches`` or ``total_iters`` where
            a policy rounds to whole epochs or iterations; ``iters_per_epoch`` where steps of several batches may cross
            epochs; ``runner`` where the config has none and it is not the ``EpochBasedRunner``; ``batches_per_step``;
            ``samples_per_iter`` for ``PreciseBNHook``. They win over the config.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes. In MMCV a schedule lasts as long as the run, and so it does here. Where the config has no
        ``optimizer``, the spec has none. The average is called ``ema``.

    Raises:
        SolverError: What MMCV refuses (policies and keys that it does not know, a warm-up without a length, ...), a
            config of another system, or a length that has to be known.

    Example:
        >>> from_mmcv("lr_config = dict(policy='step', step=[100, 150])").spec.schedules
        {'lr': MultiStep(at=('100ep', '150ep'), gamma=0.1, start=1.0, until=None)}
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load_mapping(config)
    alone = "policy" in data and "lr_config" not in data
    settings = Settings({"lr_config": data} if alone else data, "", notes)
    if not alone:
        _recognise(data)
    per_step = read_per_step(settings, given)
    run = read_run(settings, given, per_step, notes)
    schedules: dict[str, Phases] = {}
    for option in ("lr", "momentum"):
        inner = settings.take(f"{option}_config")
        if inner is not None:
            schedules[option] = read_schedule(option, inner, "" if alone else f"{option}_config", run, given, notes)
    if run.last_is_short:
        schedules = {option: to_last_step(phases, run, per_step) for option, phases in schedules.items()}
    schedules = batches_to_steps(schedules, per_step, notes, "optimizer_config")
    fields = {} if alone else {**read_optimizer(settings, per_step, notes), **read_hook(settings, run, given)}
    if averages := read_averages(settings, run, per_step, given):
        fields["averages"] = averages
    settings.rest(_KEYS.get, _KEYS)
    return notes.imported(imported_spec(schedules, **fields), strict)


_OWN = ("lr_config", "momentum_config", "optimizer_config")
_OTHERS = """
    checkpoint_config cudnn_benchmark custom_imports data data_root dataset_type device dist_params
    evaluation find_unused_parameters gpu_ids img_norm_cfg load_from log_config log_level model mp_start_method
    opencv_num_threads resume_from seed test_cfg test_pipeline train_cfg train_pipeline work_dir workflow
"""
_KEYS = {
    **dict.fromkeys(
        (*_OWN, "optimizer", "auto_scale_lr", "runner", "total_epochs", "total_iters", "custom_hooks", "fp16")
    ),
    **dict.fromkeys(_OTHERS.split(), "is not part of the schedules"),
    "paramwise_cfg": "is read where it stands in optimizer",
    "_base_": "is followed only where the config is given as the path of its file",
}
"""Keys of whole configs, with what to say of those that are not read."""


def _recognise(data: Mapping[str, Any]) -> None:
    """Refuse what is no config of this system, and hooks that move the learning rate behind its back."""
    if not any(key in data for key in _OWN):
        refuse_other_peers(data, "from_mmcv")
        if not any(key in data for key in _KEYS):
            names = [str(key) for key in data]
            do = f"rename {near[0]}" if (near := nearest("lr_config", names)) else "give lr_config"
            raise SolverError("lr_config", "is missing", got=f"keys {', '.join(names) or '(none)'}", do=do)
    hooks = data.get("custom_hooks")
    for i, hook in enumerate(hooks if isinstance(hooks, (list, tuple)) else ()):
        name = str(hook.get("type")) if isinstance(hook, Mapping) else ""
        if name.endswith(("LrUpdaterHook", "MomentumUpdaterHook")):
            do = "write it as lr_config or momentum_config"
            raise SolverError(f"custom_hooks[{i}]", "makes a schedule that is not read", got=name, do=do)
