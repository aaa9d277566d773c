"""The averages of projects on detectron2: ``MODEL_EMA`` of D2Go, ``train.model_ema`` of detrex, and ``PRECISE_BN``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning_solver.averaging import EMA, Average, PowerWarmup, UpdateBN
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.detectron2.arguments import NOT_HERE, whole_number

_KEYS = (
    *("enabled", "decay", "include_frozen", "include_buffer", "device", "use_ema_weights_for_eval_only", "use_lerp"),
    *("after_backward", "decay_warm_up_factor"),
)


def read_averages(average: Any, where: str, precise: Any, notes: Notes) -> dict[str, Average]:
    """The averages of a config, by name.

    Args:
        average: The mapping of the average; ``None`` where there is none.
        where: Its path: its keys are in capitals in a yacs config, and in small letters in a LazyConfig.
        precise: The mapping ``TEST.PRECISE_BN``; ``None`` where there is none.
        notes: Takes what is odd or not mapped.

    Raises:
        SolverError: A decay that is none, or a value of the wrong kind.
    """
    found: dict[str, Average] = {}
    if average is not None:
        found = _average(average, where, notes)
    return found if precise is None else _with_statistics(found, Settings(precise, "TEST.PRECISE_BN", notes))


def _average(config: Any, where: str, notes: Notes) -> dict[str, Average]:
    data = (_Capitals if where.isupper() else Settings)(config, where, notes)
    enabled = data.flag("enabled", False)
    decay = data.number("decay", 0.999, low=0)
    if decay > 1:
        raise SolverError(data.path("decay"), "must be from 0 to 1", got=repr(decay), do="correct it")
    fields: dict[str, Any] = {} if data.flag("include_buffer", True) else {"buffers": "copy"}
    if str(data.take("device") or "") == "cpu":
        fields["device"] = "cpu"
    late, factor = data.flag("after_backward", False), data.number("decay_warm_up_factor", -1)
    data.ignore("include_frozen", "use_lerp", "use_ema_weights_for_eval_only")  # what does not move is its own average
    known = [data.path(key).rpartition(".")[2] for key in _KEYS]
    data.rest(lambda key: f"is not mapped; {suggestion(key, known, 'keys')}")
    if not enabled:
        return {}
    if late:
        what = "is not mapped: it averages before the step, so that the average is one step behind; here it is after it"
        notes.unmapped(data.path("after_backward"), what)
    if factor > 1 and (factor - 1) / (factor + 1) > 1 - decay:
        fields["warmup"] = PowerWarmup(gamma=float(factor - 1), power=1.0, ahead=1.0)
    what = "is validated beside the trained weights, whose metrics end in _live here; what is tested, and saved as the"
    notes.say(where, f"{what} state_dict, is the average")
    return {"ema": EMA(decay=float(decay), start=0, evaluate_live=True, **fields)}


def _with_statistics(averages: dict[str, Average], data: Settings) -> dict[str, Average]:
    """The averages, with batch norms estimated anew where ``PreciseBN`` does so."""
    enabled = data.flag("ENABLED", False)
    batches = whole_number(data, "NUM_ITER", 200, 1)
    data.rest(known=("ENABLED", "NUM_ITER"))
    if not enabled:
        return averages
    if not averages:
        data.notes.unmapped(data.where, "is not mapped: statistics are estimated anew for averaged weights only")
        return averages
    what = (
        "detectron2 estimates the statistics of the trained weights; here those of the averaged weights are estimated"
    )
    data.notes.say(data.where, f"{what}, before each validation")
    update = UpdateBN(batches=batches, at="validation")
    return {name: dataclasses.replace(average, update_bn=update) for name, average in averages.items()}


def take_precise(whole: Settings) -> Any:
    """``TEST.PRECISE_BN`` of a yacs config; the other keys of ``TEST`` are noted."""
    test = whole.take("TEST") if "TEST" in whole else None
    if not isinstance(test, Mapping) or "PRECISE_BN" not in test:
        if test is not None:
            whole.notes.unmapped("TEST", NOT_HERE)
        return None
    for key in test:
        if key != "PRECISE_BN":
            whole.notes.unmapped(f"TEST.{key}", NOT_HERE)
    return test["PRECISE_BN"]


class _Capitals(Settings):
    """Settings whose keys are in capitals in the config, and in small letters here."""

    def __init__(self, data: Any, where: str, notes: Notes) -> None:
        super().__init__(data, where, notes)
        for key in [key for key in self._data if not key.isupper()]:
            notes.unmapped(
                f"{where}.{key}", f"is not mapped; {suggestion(key, [own.upper() for own in _KEYS], 'keys')}"
            )
            del self._data[key]
        self._data = {key.lower(): value for key, value in self._data.items()}

    def path(self, key: str) -> str:
        return super().path(key.upper())
