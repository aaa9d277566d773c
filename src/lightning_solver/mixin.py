"""The mixin that gives a LightningModule its ``configure_optimizers``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, MutableMapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_solver.callbacks.follow_metrics import FollowMetrics
from lightning_solver.callbacks.plan_guard import PlanGuard
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.optimizers.recipe import resolve_optimizer
from lightning_solver.plan import Plan
from lightning_solver.real_steps import RealSteps
from lightning_solver.run_length import trainer_run_length
from lightning_solver.scheduler import PlanScheduler
from lightning_solver.spec import SolverSpec

if TYPE_CHECKING:
    _Base = LightningModule
else:
    _Base = object


class SolverMixin(_Base):
    """Implements ``configure_optimizers`` from a specification: ``class Net(SolverMixin, LightningModule)``.

    Set ``self.solver`` in ``__init__`` to a :class:`SolverSpec` or its mapping, or leave it to the top-level key
    ``solver:`` of :class:`SolverCLI`.

    Attributes:
        solver: The specification.
        solver_plan: The plan, once ``configure_optimizers`` has made it.
        solver_lr: The learning rate, for ``Tuner.lr_find(model, attr_name="solver_lr")``.

    Raises:
        SolverError: If the mixin does not stand before LightningModule in the list of bases.
    """

    _solver: SolverSpec | None = None
    _solver_plan: Plan | None = None
    _solver_scheduler: PlanScheduler | None = None
    _solver_callbacks: tuple[Callback, ...] = ()
    _real_steps: RealSteps | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if LightningModule in order and order.index(SolverMixin) > order.index(LightningModule):
            do = f"write class {cls.__name__}(SolverMixin, ...)"
            what = "SolverMixin must stand before LightningModule, or its configure_optimizers is never called"
            raise SolverError(cls.__name__, what, got=", ".join(base.__name__ for base in cls.__bases__), do=do)

    @property
    def solver(self) -> SolverSpec | None:
        """The specification; a mapping that is assigned is read as one."""
        return self._solver

    @solver.setter
    def solver(self, value: Any) -> None:
        if isinstance(value, Mapping):
            value = SolverSpec.from_dict(value)
        elif not (value is None or isinstance(value, SolverSpec)):
            do = "assign a SolverSpec or its mapping"
            raise SolverError(f"{type(self).__name__}.solver", "is not a SolverSpec", got=repr(value), do=do)
        self._solver = value

    @property
    def solver_plan(self) -> Plan | None:
        """The plan of the present or the last ``fit``."""
        return self._solver_plan

    @property
    def solver_scheduler(self) -> PlanScheduler | None:
        """The scheduler that the plan of the present or the last ``fit`` built."""
        return self._solver_scheduler

    @property
    def solver_lr(self) -> float:
        """The optimiser's learning rate; setting it moves every group, ratios kept."""
        spec = self._given_solver()
        if self._solver_plan is not None:
            return float(self._solver_plan.recipe.defaults["lr"])
        if spec.optimizer is None:
            raise AttributeError("a solver without an optimiser has no learning rate")
        return float(resolve_optimizer(spec.optimizer, spec.lr).defaults["lr"])

    @solver_lr.setter
    def solver_lr(self, value: float) -> None:
        self._solver = self._given_solver().replace(lr=float(value))
        if self._solver_plan is not None:
            self.plan_anew(self._solver_plan.run)

    def plan_anew(self, run: RunLength) -> None:
        """Go on in mid-run by the present specification and another length of the run.

        Args:
            run: The length of the run.
        """
        if self._solver_scheduler is not None:
            self._solver_plan = self._solver_spec_for_run().plan(self, run=run)
            self._solver_scheduler.follow(self._solver_plan)

    def configure_optimizers(self) -> Any:
        """The optimiser and the scheduler that the specification says, for the run that is about to start.

        Raises:
            SolverError: Whatever is wrong with the specification, the model or the length of the run.
        """
        spec = self._solver_spec_for_run()
        plan = spec.plan(self, run=trainer_run_length(self.trainer))
        if plan.notes:
            report("notes on the plan:", plan.notes)
        optimizer, scheduler = plan.build()
        self._solver_plan, self._solver_scheduler = plan, scheduler
        self._real_steps = RealSteps(optimizer)
        optimizer.register_step_pre_hook(self._before_optimizer_step)
        # The name is the prefix under which Lightning's LearningRateMonitor logs the groups.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks that the specification asks for, the same instances at every ``fit`` and ``test``.

        Raises:
            SolverError: If ``configure_optimizers`` of this module was replaced, as LightningCLI does for
                ``--optimizer``.
        """
        if "configure_optimizers" in vars(self):
            what = "LightningCLI has replaced configure_optimizers of the module, so that its solver would be ignored"
            do = "drop optimizer and lr_scheduler from the command line and YAML, or use SolverCLI"
            raise SolverError(type(self).__name__, what, do=do)
        if not self._solver_callbacks:
            self._solver_callbacks = (PlanGuard(), FollowMetrics())
        given: Any = super().configure_callbacks()
        found = [*given] if isinstance(given, (list, tuple)) else [given]
        present = getattr(self._trainer, "callbacks", ())  # where an earlier run has attached them
        return found if self._solver_callbacks[0] in present else [*found, *self._solver_callbacks]

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any | None) -> None:
        """Moves the schedule on after a real optimiser step only."""
        if scheduler is not self._solver_scheduler:
            super().lr_scheduler_step(scheduler, metric)
        elif self._real_steps is not None and self._real_steps.take():
            scheduler.step()

    def save_hyperparameters(
        self, *args: Any, ignore: Any = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """As Lightning's, with specifications turned into plain data, so that checkpoints load with weights_only."""
        if frame is None:
            current = inspect.currentframe()
            frame = current.f_back if current is not None else None
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        for kept in (self.hparams, getattr(self, "_hparams_initial", {})):
            for key, value in kept.items():
                kept[key] = _plain(value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy and a pickle of the module leave behind what belongs to a run."""
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key not in _OF_A_RUN}

    # ------------------------------------------------------------------ not for users

    def _given_solver(self) -> SolverSpec:
        if self._solver is None:
            do = "set self.solver = SolverSpec(...) in __init__, or give solver: in the YAML of SolverCLI"
            raise SolverError(f"{type(self).__name__}.solver", "is not set", got="None", do=do)
        return self._solver

    def _solver_spec_for_run(self) -> SolverSpec:
        """The spec; for ``fast_dev_run`` with phases allowed to reach beyond its few batches."""
        spec = self._given_solver()
        return spec.replace(beyond_run="allow") if getattr(self.trainer, "fast_dev_run", False) else spec

    def _before_optimizer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the ratios between groups while Lightning's learning-rate finder is at work, and after it."""
        scheduler, plan = self._solver_scheduler, self._solver_plan
        if scheduler is None or plan is None or self._trainer is None:
            return
        active: Any = self.trainer.lr_scheduler_configs[0].scheduler if self.trainer.lr_scheduler_configs else None
        if active is scheduler:
            if scheduler.stale:
                scheduler.apply()
        elif active is not None and type(active).__module__ == "lightning.pytorch.tuner.lr_finder":
            main = float(plan.recipe.defaults["lr"]) or 1.0
            (tried, *_) = active.get_last_lr()
            for group, base in zip(optimizer.param_groups, scheduler.base_lrs):
                group["lr"] = float(tried) * base / main


_OF_A_RUN = frozenset({"_solver_plan", "_solver_scheduler", "_solver_callbacks", "_real_steps"})


def _plain(value: Any) -> Any:
    """Hyper-parameters with every specification in them as a mapping."""
    if isinstance(value, SolverSpec):
        return value.to_dict()
    if isinstance(value, MutableMapping):
        return type(value)({key: _plain(inner) for key, inner in value.items()})  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)) and any(isinstance(inner, (SolverSpec, Mapping)) for inner in value):
        return [_plain(inner) for inner in value]
    return value
