"""How a config of MMEngine is read."""

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
    imported_spec,
    refuse_other_peers,
)
from lightning_solver.interop.mmengine.averages import CLASSES, read_averages
from lightning_solver.interop.mmengine.optimizer import read_optimizer
from lightning_solver.interop.mmengine.run import accumulated, read_per_step, read_run
from lightning_solver.interop.mmengine.schedulers import read_schedulers
from lightning_solver.interop.mmengine.together import schedule_of
from lightning_solver.interop.openmmlab.accumulating import read_windows
from lightning_solver.interop.reading import Call, load, read_python


def from_mmengine(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedules, the optimiser, its groups, clipping, accumulation and the averages of an MMEngine config.

    Args:
        config: A whole config, or ``param_scheduler`` alone: one scheduler or a list of them; a mapping, the path of a
            .py (with its ``_base_``), .yaml or .json file, or Python text. Read are ``param_scheduler``, ``train_cfg``,
            ``optim_wrapper`` (its optimiser, ``paramwise_cfg``, ``constructor``, ``clip_grad``,
            ``accumulative_counts``), ``auto_scale_lr``, and of the hooks ``EMAHook`` and MMPretrain's
            ``PreciseBNHook``. ``average`` in place of these is the constructor call of an average, such as
            ``ExponentialMovingAverage(model, momentum=0.1)``.
        facts: What the config leaves open. ``epochs``, ``iters_per_epoch``, ``total_batches`` or ``total_iters`` are
            needed only where a scheduler cannot be written without them, and make the spec simpler elsewhere; with
            ``iters_per_epoch`` it is known whether steps of several batches cross epochs; ``train_loop`` (``by_epoch``
            or ``by_iter``) where there is no ``train_cfg``; ``batches_per_step``; ``samples_per_iter`` for
            ``PreciseBNHook``. A run that they say is longer or shorter than the config's ``train_cfg`` is the one that
            is written.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes. A scheduler that ends with the run is written without an end of its own. Where the config
        has no optimiser, the spec has none. The average is called ``ema``, an equal one ``swa``.

    Raises:
        SolverError: What MMEngine refuses, at the start or in the middle of the run; schedulers of several optimisers;
            schedulers that overlap where one of them sets the value and forgets the others; a config of another system;
            or a length that has to be known.

    Example:
        >>> text = "param_scheduler = dict(type='MultiStepLR', milestones=[100, 150])"
        >>> from_mmengine(text).spec.schedules
        {'lr': MultiStep(at=('100ep', '150ep'), gamma=0.1, start=1.0, until=None)}
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load(config)
    data = read_python(data) if isinstance(data, str) else data
    alone = isinstance(data, (list, tuple, Call)) or (isinstance(data, Mapping) and "type" in data)
    if not alone and isinstance(data, Mapping):
        data = _with_average(data)
        _recognise(data)
        if "param_scheduler" not in data and "calls" in data and "average" not in data:
            data, alone = data["calls"], True
    settings = Settings({"param_scheduler": data} if alone else data, "", notes)
    per_step = read_per_step(settings, given)
    run = read_run(settings, given, per_step, notes)
    readers = read_schedulers(settings.take("param_scheduler"), run, given, notes)
    schedules: dict[str, Phases] = {}
    for option in dict.fromkeys(reader.option for reader in readers):
        schedules[option] = schedule_of([reader for reader in readers if reader.option == option], per_step)
    fields = {} if alone else read_optimizer(settings, per_step, notes)
    if (said := accumulated(settings)) is not None:
        fields |= read_windows(per_step, said, "MMEngine", (run.per_epoch, run.batches), notes)
    if averages := read_averages(settings, run, per_step, given):
        fields["averages"] = averages
    settings.rest(_why, _KEYS)
    return notes.imported(imported_spec(schedules, **fields), strict)


_KEYS = {
    "_base_": "is followed only where the config is given as the path of its file",
    **dict.fromkeys(
        ("param_scheduler", "optim_wrapper", "optimizer", "auto_scale_lr", "train_cfg", "custom_hooks"), ""
    ),
    **dict.fromkeys(
        (
            *("model", "data_preprocessor", "dataset_type", "data_root", "train_pipeline", "val_pipeline"),
            *("test_pipeline", "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator"),
            *("test_evaluator", "val_cfg", "test_cfg", "default_scope", "env_cfg", "visualizer"),
            *("vis_backends", "log_processor", "log_level", "load_from", "resume", "work_dir", "launcher"),
            *("randomness", "custom_imports", "tta_model", "tta_pipeline", "backend_args"),
            *("experiment_name", "cfg", "max_epochs", "max_iters", "base_lr", "img_scale", "num_classes"),
        ),
        "is not part of the schedules",
    ),
}
"""Keys of whole configs, with what to say of those that are not read."""


_ENOUGH = ("optim_wrapper", "optimizer", "auto_scale_lr", "train_cfg", "calls", "custom_hooks", "average")
"""Keys of which a config needs one, beside ``param_scheduler``."""


def _with_average(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Python text that makes an average, such as ``ema = ExponentialMovingAverage(model)``, under its own key."""
    values = [(key, value) for key, value in data.items() if isinstance(value, Call) and value.name in CLASSES]
    bare = [call for call in data.get("calls") or () if isinstance(call, Call)]
    found = [*(value for _, value in values), *(call for call in bare if call.name in CLASSES)]
    if not found or "average" in data:
        return data
    rest = {key: value for key, value in data.items() if key not in ("calls", *(key for key, _ in values))}
    others = [call for call in data.get("calls") or () if call not in found]
    return {**rest, **({"param_scheduler": others} if others else {}), "average": found}


def _why(key: str) -> str | None:
    return _KEYS.get(key) or None


def _recognise(data: Mapping[str, Any]) -> None:
    """Refuse what is no config of this system."""
    if "param_scheduler" in data:
        return
    refuse_other_peers(data, "from_mmengine")
    if not any(key in data for key in _ENOUGH):
        close = nearest("param_scheduler", data, 1)
        do = f"rename {close[0]}" if close else "give param_scheduler"
        raise SolverError("param_scheduler", "is missing", got=f"keys {', '.join(map(str, data)) or '(none)'}", do=do)
