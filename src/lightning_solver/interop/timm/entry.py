"""How a schedule of timm is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.interop.base import Facts, Imported, Notes, imported_spec
from lightning_solver.interop.reading import load
from lightning_solver.interop.timm.arguments import CLASSES
from lightning_solver.interop.timm.classes import of_class
from lightning_solver.interop.timm.factory import of_factory
from lightning_solver.interop.timm.forms import read_config


def from_timm(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a schedule of timm 1.0 as a spec.

    Args:
        config: One of: ``{"create_scheduler_v2": {...}}``, its keywords alone, or the text of the call;
            ``{"create_scheduler": {...}}``; the arguments of ``train.py`` by name, with dashes or underscores, or the
            ``args.yaml`` that it wrote; a class of ``timm.scheduler``, as ``{"type": "CosineLRScheduler", ...}`` or as
            the text of the call. Or the path of a ``.yaml``, ``.json`` or ``.py`` file with one of these.
        facts: What the config leaves open: ``epochs`` or ``total_iters`` where the run is not as long as timm would
            make it, ``iters_per_epoch`` where a length in updates is rounded, ``base_lr`` where a group's rate may lie
            below ``min_lr``, ``lr_scale`` for ``sched="none"``, ``metrics`` by name for a plateau.
        strict: Whether a key that is not mapped is an error.

    Raises:
        SolverError: What timm refuses, what has no counterpart, a config of another system, a fact that is needed.

    Example:
        >>> imported = from_timm("CosineLRScheduler(optimizer, t_initial=20, t_in_epochs=False)")
        >>> imported.spec.to_dict()["schedules"]["lr"][0]
        {'class_path': 'Cosine', 'init_args': {'until': 20}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    name, settings = read_config(load(config), notes)
    phases = (of_class if name in CLASSES else of_factory)(name, settings, known)
    return notes.imported(imported_spec({} if phases is None else {"lr": phases}), strict)
