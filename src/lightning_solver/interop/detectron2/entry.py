"""How a config of detectron2 or a scheduler of fvcore is read, and which form it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, Settings, imported_spec, refuse_other_peers, simple
from lightning_solver.interop.detectron2.arguments import (
    NOT_HERE,
    arguments_of,
    from_the_start,
    not_here,
    only,
    whole_number,
)
from lightning_solver.interop.detectron2.averages import read_averages
from lightning_solver.interop.detectron2.classic import OLD, OLD_ARGUMENTS, read_class
from lightning_solver.interop.detectron2.clipping import KEY, read_lazy_clipping
from lightning_solver.interop.detectron2.fvcore import FVCORE, read_scheduler
from lightning_solver.interop.detectron2.loading import loaded
from lightning_solver.interop.detectron2.optimizer import PARAMS, has_params, read_optimizer
from lightning_solver.interop.detectron2.shares import phases_of
from lightning_solver.interop.detectron2.yacs import SCHEDULE_KEYS, read_solver, read_yacs_averages
from lightning_solver.interop.detectron2.yacs_optimizer import OPTIMIZER_KEYS
from lightning_solver.interop.reading import Call, read_calls
from lightning_solver.schedules import Schedule

Found = tuple[list[Schedule], dict[str, Any]]
"""The phases of the schedule, and the fields of the spec: how the optimiser is made, what is clipped and averaged."""


def from_detectron2(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a detectron2 config or a scheduler of fvcore as a spec.

    It reads a yacs config with ``SOLVER`` (or ``SOLVER`` by itself) as today's ``build_lr_scheduler`` and DeepLab's
    does; a LazyConfig with ``lr_multiplier`` and ``train.max_iter``; ``param_scheduler`` or the bare text of any
    scheduler of fvcore; and the old classes ``WarmupMultiStepLR``, ``WarmupCosineLR`` and ``WarmupPolyLR``, which
    multiply their warm-up onto the curve (``legacy_class: true`` beside ``SOLVER`` asks for these too).

    Of the optimiser it reads the keys of ``SOLVER`` as ``build_optimizer`` does (``builder`` beside ``SOLVER`` says
    which: ``build_optimizer`` of today, ``build_optimizer of 2020``, ``Mask2Former`` or ``Sparse R-CNN``; the projects
    are also told by what ``MODEL`` holds), and ``optimizer`` of a LazyConfig with ``get_default_optimizer_params``,
    which may also stand beside it. A config without any of these gives a spec without an optimiser. Clipping is
    ``SOLVER.CLIP_GRADIENTS``, or ``train.clip_grad`` as detrex has it. detectron2 accumulates no gradients.

    Args:
        config: A mapping, the path of a YAML (with its ``_BASE_``), JSON or Python file, or the text of a constructor.
        facts: ``total_iters``, where the run has another length than the config says, or the config says none;
            ``functions`` for an ``lr_factor_func`` that is written as text.
        strict: Whether a key that is not mapped is an error.

    Returns:
        The spec with its schedule, optimiser, clipping and average, and what a reader should know.

    Raises:
        SolverError: What detectron2 or fvcore refuse, keys and classes that they do not know, another peer's config,
            and factors below 0.

    Example:
        >>> imported = from_detectron2({"SOLVER": {"MAX_ITER": 90000, "STEPS": (60000, 80000)}})
        >>> for phase in imported.spec.schedules["lr"]:
        ...     print(phase)
        Linear(start=0.001, end=1.0, until=1000)
        MultiStep(at=(60000, 80000), gamma=0.1, start=1.0, until=None)
        >>> from_detectron2({"SOLVER": {"BASE_LR": 0.02}}).spec.optimizer
        OptimizerSpec(name='SGD', args={'lr': 0.02, 'weight_decay': 0.0001, 'momentum': 0.9})
    """
    notes = Notes()
    known = Facts(facts, notes)
    length_of_run = known.get("total_iters")
    reader = _Reader(notes, None if length_of_run is None else int(length_of_run), known.get("functions"))
    phases, fields = reader.read(loaded(config, notes))
    return notes.imported(imported_spec({"lr": simple(phases)} if phases else {}, **fields), strict)


@dataclass(frozen=True)
class _Reader:
    """Reads a config; ``run`` is the length of the run in steps, ``functions`` the functions, known from outside."""

    notes: Notes
    run: int | None
    functions: Mapping[str, Any] | None

    def read(self, data: Any) -> Found:
        if isinstance(data, Mapping):
            return self._mapping(data)
        calls = read_calls(data, "config")
        known = [call for call in calls if _is_scheduler(call)]
        makers = [call for call in calls if has_params(call)]
        if makers and not known:
            return [], self._optimizer(only(makers, "config"), None, "config")
        return self._call(only(known or calls, "config"), "config"), {}

    def _mapping(self, data: Mapping[str, Any]) -> Found:
        if "SOLVER" in data:
            return read_solver(data, self.notes, self.run)
        for name in ("cfg", "_C"):  # of Python text: cfg.SOLVER.MAX_ITER = 300
            if isinstance(data.get(name), Mapping):
                return self._mapping({**data[name], **{key: value for key, value in data.items() if key != name}})
        if "lr_multiplier" in data:
            return self._lazy(data)
        if "param_scheduler" in data and _names_fvcore(data["param_scheduler"]):
            settings = Settings(data, "", self.notes)
            where = "param_scheduler"
            phases = self._call(only(read_calls(settings.take(where), where), where), where)
            fields = {**self._optimizer_of(settings, data), **self._train_of(settings)}
            settings.rest(not_here)
            return phases, fields
        if any(key in data for key in ("type", "class_path", "_target_", "legacy_class")):
            rest = {key: value for key, value in data.items() if key != "legacy_class"}
            if has_params(rest):
                return [], self._optimizer(rest, None, "config")
            return self._call(only(read_calls(rest, "config"), "config"), "config"), {}
        if any(key in data for key in (*SCHEDULE_KEYS, *OPTIMIZER_KEYS, KEY)):
            return read_solver({"SOLVER": data}, self.notes, self.run)
        refuse_other_peers(data, "from_detectron2")
        if "MODEL_EMA" in data:
            settings = Settings(data, "", self.notes)
            fields = read_yacs_averages(settings)
            settings.rest(not_here)
            return [], fields
        if PARAMS in data or has_params(data.get("optimizer")) or _is_lazy(data):
            settings = Settings(data, "", self.notes)
            fields = {**self._optimizer_of(settings, data), **self._train_of(settings)}
            settings.rest(not_here)
            return [], fields
        values = [*data.values(), *(data["calls"] if isinstance(data.get("calls"), list) else [])]
        known = [value for value in values if isinstance(value, Call) and _is_scheduler(value)]
        if known or len(data) == 1:
            return self._call(only(known or read_calls(data, "config"), "config"), "config"), {}
        do = "give SOLVER, lr_multiplier, optimizer or param_scheduler; what a Python file imports is not followed"
        raise SolverError("config", "has no schedule of detectron2", got=f"keys {', '.join(data)}"[:120], do=do)

    def _optimizer_of(self, settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a LazyConfig's ``optimizer``, if it has one."""
        settings.ignore("optimizer", PARAMS)
        params = data.get(PARAMS)
        if "optimizer" not in data and params is None:
            return {}
        if "optimizer" not in data:
            settings.needed("optimizer")
        return self._optimizer(data["optimizer"], params, "optimizer")

    def _train_of(self, settings: Settings) -> dict[str, Any]:
        """The fields of a LazyConfig's ``train``, of which the average and detrex's clipping are read."""
        config = settings.take("train")
        if not isinstance(config, Mapping):
            if config is not None:
                self.notes.unmapped("train", NOT_HERE)
            return {}
        train = Settings(config, "train", self.notes)
        averages = read_averages(train.take("model_ema"), "train.model_ema", None, self.notes)
        fields: dict[str, Any] = {"averages": averages} if averages else {}
        if (clip := train.take("clip_grad")) is not None:
            fields |= read_lazy_clipping(clip, "train.clip_grad", self.notes)
        train.ignore("max_iter")
        train.rest(not_here)
        return fields

    def _optimizer(self, config: Any, params: Any, where: str) -> dict[str, Any]:
        return read_optimizer(config, params, self.notes, self.functions, where)

    def _call(self, call: Call, where: str) -> list[Schedule]:
        if call.name in OLD:
            return read_class(call.name, arguments_of(call, where, self.notes, OLD_ARGUMENTS[call.name]), self.run)
        if call.name == "LRMultiplier":
            arguments = arguments_of(call, where, self.notes, ("optimizer", "multiplier", "max_iter", "last_iter"))
            arguments.ignore("optimizer")
            from_the_start(arguments, "last_iter")
            scheduler = read_scheduler(arguments.needed("multiplier"), arguments.path("multiplier"), self.notes)
            total = whole_number(arguments, "max_iter", None, 1)
            return phases_of(scheduler, total, self.run, self.notes, arguments.path("max_iter"))
        return phases_of(read_scheduler(call, where, self.notes), self.run, self.run, self.notes, where)

    def _lazy(self, data: Mapping[str, Any]) -> Found:
        settings = Settings(data, "", self.notes)
        scheduler = read_scheduler(settings.needed("lr_multiplier"), "lr_multiplier", self.notes)
        total = self.run
        if isinstance(data.get("train"), Mapping) and "max_iter" in data["train"]:
            total = whole_number(Settings(data["train"], "train", self.notes), "max_iter", None, 1)
        phases = phases_of(scheduler, total, self.run, self.notes, "train.max_iter")
        fields = {**self._optimizer_of(settings, data), **self._train_of(settings)}
        settings.rest(not_here)
        return phases, fields


def _is_scheduler(call: Call) -> bool:
    return call.name in (*OLD, *FVCORE, "LRMultiplier")


def _is_lazy(data: Mapping[str, Any]) -> bool:
    """Whether a config has what a LazyConfig has: ``optimizer``, saved or by itself, an average, or clipping."""
    train = data.get("train")
    if isinstance(train, Mapping) and ("model_ema" in train or "clip_grad" in train):
        return True
    config = data.get("optimizer")
    return isinstance(config, Mapping) and ("_target_" in config or len(data) == 1)


def _names_fvcore(value: Any) -> bool:
    try:
        return all(call.name.endswith("ParamScheduler") for call in read_calls(value, "param_scheduler"))
    except SolverError:
        return False
