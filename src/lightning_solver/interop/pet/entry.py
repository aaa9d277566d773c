"""How a config of Pet is read, and which form it has."""

from __future__ import annotations

import ast
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
from lightning_solver.interop.detectron2.clipping import KEY
from lightning_solver.interop.pet.forms import FLAT, NESTED, read_flat, read_nested
from lightning_solver.interop.pet.optimizer import BUILDERS, FLAT_OPTIMIZER, NESTED_OPTIMIZER, read_optimizer
from lightning_solver.interop.reading import load_mapping


def from_pet(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the optimiser, the clipping and the learning rate schedule of a Pet config.

    The scheduler is taken as newly made: its argument ``start_iter`` is 0. It moves with every iteration, also where
    lengths are in epochs.

    Args:
        config: A whole config with ``SOLVER``, or the mapping ``SOLVER``, ``SCHEDULER`` or ``OPTIMIZER`` itself; a
            mapping, the path of a .yaml, .json or .py file, or Python text. Read are ``SCHEDULER`` (``POLICY``,
            ``TOTAL_EPOCHS``, ...) and ``OPTIMIZER`` (``TYPE``, ``BASE_LR``, ``CLIP_GRADIENTS``, ...), or the flat names
            of earlier releases (``LR_POLICY``, ``MAX_ITER``, ``MAX_EPOCHS``, ``WARM_UP_EPOCH``, ``OPTIMIZER: SGD``,
            ``BASE_LR``, ...). ``builder: QANet`` or ``builder: Pet`` beside ``SOLVER`` says which rules made the
            parameter groups, where the keys do not.
        facts: ``total_iters`` (or ``epochs``) and ``iters_per_epoch``, only where the run is not as long as the config
            says.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes.

    Raises:
        SolverError: What Pet refuses: unknown policies, methods and types, ``STEPS`` that are not sorted, a missing
            length, and ``STEP_COSINE``, which fails when its cosine begins. A config of another system.

    Example:
        >>> config = "SCHEDULER = dict(POLICY='POLY', TOTAL_ITERS=90000, WARM_UP_ITERS=0, LR_POW=2.0)"
        >>> from_pet(config).spec.schedules
        {'lr': Polynomial(power=2.0, start=1.0, end=0.0, time_power=1.0, until=None)}
        >>> from_pet({"OPTIMIZER": {"TYPE": "ADAM", "BASE_LR": 0.001, "WEIGHT_DECAY": 0.0}}).spec.optimizer
        OptimizerSpec(name='Adam', args={'lr': 0.001, 'weight_decay': 0.0})
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load_mapping(config)
    whole = Settings(data, "", notes)
    refuse_other_peers(data, "from_pet")
    has_solver = "SOLVER" in whole
    solver = whole.take("SOLVER") if has_solver else data
    outer = Settings(_decoded(solver), "SOLVER" if has_solver else "", notes)
    _refuse_detectron2(outer)
    builder = _builder(outer, whole)
    phases = _schedule(outer, given, notes)
    fields = _optimizer(outer, builder)
    if phases is None and not fields and not _says_clipping(outer):
        names = [str(key) for key in solver]
        do = f"rename {near[0]}" if (near := nearest("SCHEDULER", names)) else "give SOLVER.SCHEDULER"
        raise SolverError(outer.path("SCHEDULER"), "is missing", got=f"keys {', '.join(names) or '(none)'}", do=do)
    outer.rest(lambda key: _beside(key, outer) or _why(key), (*FLAT, *FLAT_OPTIMIZER, *NESTED))
    if has_solver:
        whole.rest(_why)
    return notes.imported(imported_spec({} if phases is None else {"lr": phases}, **fields), strict)


def _builder(outer: Settings, whole: Settings) -> str | None:
    for settings in (whole, outer):
        if "builder" in settings:
            return settings.choice("builder", BUILDERS)
    return None


def _schedule(outer: Settings, facts: Facts, notes: Notes) -> Phases | None:
    if "SCHEDULER" in outer:
        inner = Settings(_decoded(outer.take("SCHEDULER")), outer.path("SCHEDULER"), notes)
        phases = read_nested(inner, facts, notes)
        inner.rest(known=NESTED)
        return phases
    if any(key in outer for key in ("POLICY", "TOTAL_ITERS", "TOTAL_EPOCHS")):
        return read_nested(outer, facts, notes)
    if any(key in outer for key in FLAT):
        return read_flat(outer, facts, notes)
    return None


def _optimizer(outer: Settings, builder: str | None) -> dict[str, Any]:
    if "OPTIMIZER" in outer and isinstance(outer.take("OPTIMIZER"), Mapping):
        inner = Settings(_decoded(outer.take("OPTIMIZER")), outer.path("OPTIMIZER"), outer.notes)
        fields = read_optimizer(inner, "TYPE", builder)
        inner.rest(_why, NESTED_OPTIMIZER)
        return fields
    return read_optimizer(outer, "TYPE" if "TYPE" in outer else "OPTIMIZER", builder)


def _says_clipping(outer: Settings) -> bool:
    """Whether there is clipping to read, though it may be turned off."""
    inner = outer.take("OPTIMIZER")
    return KEY in outer or (isinstance(inner, Mapping) and KEY in inner)


def _beside(key: str, outer: Settings) -> str | None:
    """Why a key is not read that another form of the same has in its place."""
    if key in FLAT and "SCHEDULER" in outer:
        return f"is not read beside {outer.path('SCHEDULER')}"
    if key in FLAT_OPTIMIZER and isinstance(outer.take("OPTIMIZER"), Mapping):
        return f"is not read beside {outer.path('OPTIMIZER')}"
    return None


def _why(key: str) -> str | None:
    others = (
        *("LR_MULTIPLE", "AMP", "SNAPSHOT_EPOCHS", "SNAPSHOT_ITERS"),
        *("MODEL", "DATA", "DATALOADER", "TRAIN", "TEST", "MISC", "VIS", "DATASETS"),
    )
    return "is not part of the schedules" if key in others else None


def _refuse_detectron2(solver: Settings) -> None:
    for mark in ("LR_SCHEDULER_NAME", "WARMUP_ITERS", "WARMUP_FACTOR", "WARMUP_METHOD", "BASE_LR_END"):
        if mark in solver:
            do = "use interop.from_detectron2"
            raise SolverError(solver.path(mark), "is a key of detectron2", got=repr(solver.take(mark)), do=do)


def _decoded(data: Any) -> Any:
    """A mapping whose texts are read as yacs reads them: ``"(30, 40)"`` is a list, ``"None"`` nothing."""
    if not isinstance(data, Mapping):
        return data
    result = dict(data)
    for key, value in result.items():
        if isinstance(value, Mapping):
            result[key] = _decoded(value)
        elif isinstance(value, str):
            try:
                result[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                continue
    return result
