"""Evaluation of the live weights beside that of the average: a second pass over every batch, logged as ``..._live``."""

from __future__ import annotations

import copy
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.apply_func import apply_to_collection
from torch import nn
from torchmetrics import Metric, MetricCollection

from lightning_solver.callbacks.statistics import undisturbed_random_numbers
from lightning_solver.errors import SolverError
from lightning_solver.logs import report

_M: TypeAlias = Metric | MetricCollection

SUFFIX = "_live"
"""What is added to every name that is logged for the live weights."""


class LiveEvaluation:
    """Validates or tests each batch once more, with whatever weights the module holds then.

    The module's ``validation_step``, ``on_validation_batch_start``, ``on_validation_batch_end`` and
    ``on_validation_epoch_end``, or those of the test, are run a second time. What they log gets a suffix: ``val_loss``
    becomes ``val_loss_live``, with all that is said about how it is logged, so that it can be monitored like any other
    metric. Metrics of torchmetrics that are attributes of the module have states of their own in the second pass, which
    begin afresh with each evaluation. Each pass has its own copy of the batch, and starts from the same random numbers;
    those of training are not disturbed.

    What a module keeps by hand cannot be told apart: a Python list to which each step appends has the outputs of both
    passes (which is reported), metrics that are no attributes of the module have the states of both, and a logger that
    is written to directly gets both under one name.

    To be called before the average is evaluated on the same batch, so that hooks of the module do not interleave.
    """

    def __init__(self) -> None:
        self._metrics = _Metrics()
        self._begun = self._told = False
        self._log: _LiveLog | None = None

    def batch(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Validate or test a batch that is on its device already.

        Args:
            trainer: The Trainer, in its validation or test loop.
            module: The module, with the live weights.
            batch: The batch.
            batch_idx: Its number, 0-based.
            dataloader_idx: The number of its loader, 0-based.

        Raises:
            SolverError: The module fetches its batches itself.
        """
        stage = _stage(trainer)
        step = getattr(module, f"{stage}_step")
        if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
            do = "take the batch as an argument, or drop evaluate_live"
            raise SolverError("evaluate_live", f"{stage}_step fetches its own batches: they are gone then", do=do)
        given: list[Any] = [_copied(batch), batch_idx]
        # Lightning's own note of whether steps are told of the loader.
        results = trainer._results
        if results is not None and results.dataloader_idx is not None:
            given.append(dataloader_idx)
        numbered = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        before = _lengths(module)
        with self._second_pass(module):
            _call(module, f"on_{stage}_batch_start", *given)
            evaluate: Callable[..., Any] = getattr(trainer.strategy, f"{stage}_step")
            output = evaluate(*(given if numbered else given[:1] + given[2:]))
            _call(module, f"on_{stage}_batch_end", output, *given)
        after = _lengths(module)
        grown = [name for name in after if after[name] > before.get(name, 0)]
        if grown and not self._told:
            self._told = True
            names = ", ".join(f"self.{name}" for name in grown)
            do = "log it, or update a metric of torchmetrics with it"
            report(f"evaluate_live: {names} gathers what comes of both sets of weights: {do}")

    def epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """End the epoch for the live weights, before it ends for the average.

        Args:
            trainer: The Trainer, in its validation or test loop.
            module: The module, with the live weights.
        """
        hook = f"on_{_stage(trainer)}_epoch_end"
        if is_overridden(hook, module):
            with self._second_pass(module):
                _call(module, hook)
        self._begun = False

    def abort(self, module: LightningModule) -> None:
        """Undo all that may be in place, whatever has happened.

        Args:
            module: The module.
        """
        self._leave(module)
        self._begun = False

    @contextmanager
    def _second_pass(self, module: LightningModule) -> Iterator[None]:
        if not self._begun:
            self._metrics.begin(module)
            self._begun = True
        with undisturbed_random_numbers():
            try:
                self._metrics.enter()
                self._log = _LiveLog(module, self._metrics)
                self._log.put()
                yield
            finally:
                self._leave(module)

    def _leave(self, module: LightningModule) -> None:
        if self._log is not None:
            self._log.remove()
            self._log = None
        self._metrics.leave()


def _lengths(module: LightningModule) -> dict[str, int]:
    """How long the lists and mappings are that a module keeps by hand, by the names of its attributes."""
    kept = vars(module).items()
    return {name: len(value) for name, value in kept if isinstance(value, (list, dict)) and not name.startswith("_")}


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "validation"


def _call(module: LightningModule, hook: str, *given: Any) -> None:
    if is_overridden(hook, module):
        getattr(module, hook)(*given)


class _LiveLog:
    """Stands in the place of the module's ``log``, to which ``log_dict`` comes too."""

    def __init__(self, module: LightningModule, metrics: _Metrics) -> None:
        self._module, self._metrics = module, metrics
        self._own = {key: value for key, value in vars(module).items() if key == "log"}
        self._log: Callable[..., None] = module.log

    def put(self) -> None:
        vars(self._module)["log"] = self

    def __call__(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(value, Metric):
            value, path = self._metrics.twin(value)
            if path is not None:  # which Lightning would look for among the modules
                kwargs.setdefault("metric_attribute", path)
        self._log(f"{name}{SUFFIX}", value, *args, **kwargs)

    def remove(self) -> None:
        vars(self._module).pop("log", None)
        vars(self._module).update(self._own)


class _Metrics:
    """The metrics of a module, which have other states while the live weights are validated.

    The objects stay the same, as anybody may hold them; what they hold changes places with what their twins hold.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[str, _M, _M]] = []
        self._aside: list[dict[str, Any]] | None = None

    def begin(self, module: nn.Module) -> None:
        """Begin a validation: a twin for each metric, which is reset.

        Twins stay from one validation to the next, as do those metrics that remember more than one.

        Args:
            module: The module that has the metrics.
        """
        named = [
            (path, inner) for path, inner in module.named_modules() if isinstance(inner, (Metric, MetricCollection))
        ]
        memo: dict[int, Any] = {id(module): module, **{id(metric): twin for _, metric, twin in self._pairs}}
        for _, metric in named:
            memo |= {id(parameter): parameter for parameter in metric.parameters()}  # networks are not copied
            group = getattr(metric, "process_group", None)
            memo[id(group)] = group
        self._pairs = [(path, metric, copy.deepcopy(metric, memo)) for path, metric in named]
        for _, metric, twin in self._pairs:
            if isinstance(metric, Metric):
                twin.to(metric.device)
                twin.reset()

    def enter(self) -> None:
        """Give the metrics the states of their twins."""
        self._aside = [_state(metric) for _, metric, _ in self._pairs]
        for _, metric, twin in self._pairs:
            _set_state(metric, _state(twin))

    def leave(self) -> None:
        """Give the metrics their own states back; nothing happens if they have them."""
        if self._aside is None:
            return
        for _, metric, twin in self._pairs:
            _set_state(twin, _state(metric))
        for (_, metric, _), state in zip(self._pairs, self._aside):
            _set_state(metric, state)
        self._aside = None

    def twin(self, metric: Metric) -> tuple[Metric, str | None]:
        """What is logged in the place of a metric in the middle of the pass, and the path of the metric in the module.

        Args:
            metric: The metric; if it is none of the module's, it is returned as it is.
        """
        for path, own, twin in self._pairs:
            if own is metric and isinstance(twin, Metric):
                _set_state(twin, _state(metric))
                return twin, path
        return metric, None


_FIXED = ("update", "compute", "_update_signature", "_modules", "_parameters", "training")
"""What does not change places: functions that are bound to the object, and what is in it as a module."""


def _state(metric: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(metric).items() if key not in _FIXED}


def _set_state(metric: nn.Module, state: dict[str, Any]) -> None:
    held = vars(metric)
    for key in [key for key in held if key not in _FIXED and key not in state]:
        del held[key]
    held.update(state)


class _Cloneable(ABCMeta):
    """Of tensors, and of batches of other libraries that can be copied like one."""

    def __instancecheck__(cls, instance: object) -> bool:
        return callable(getattr(instance, "clone", None))


class _Clone(metaclass=_Cloneable):
    pass


def _copied(batch: Any) -> Any:
    """A copy of a batch and of the tensors in it, so that a step may change what it is given."""
    return apply_to_collection(batch, _Clone, lambda part: part.clone())
