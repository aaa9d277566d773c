"""The mixin that gives a LightningModule its ``configure_optimizers``."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_solver.averaging.averaged import Averaged
from lightning_solver.callbacks.follow_metrics import FollowMetrics
from lightning_solver.callbacks.freezing import Freezing
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.callbacks.plan_guard import PlanGuard
from lightning_solver.callbacks.solver_accumulation import SolverAccumulation
from lightning_solver.callbacks.solver_averages import SolverAverages
from lightning_solver.callbacks.solver_clipping import SolverClipping
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.logs import report
from lightning_solver.manual import Turn, alone_trainable
from lightning_solver.members import lr_factor
from lightning_solver.optimizers.implementation import unscale_before
from lightning_solver.optimizers.recipe import resolve_optimizer
from lightning_solver.parts import Part, accumulation_of_turns, batches_per_step, share_out
from lightning_solver.plain import FrozenDict, field_hints
from lightning_solver.plan import Plan
from lightning_solver.real_steps import RealSteps
from lightning_solver.run_length import manual_run_lengths, trainer_run_length
from lightning_solver.scheduler import PlanScheduler
from lightning_solver.several import ALONE, Solver, by_name, read_solver
from lightning_solver.spec import SolverSpec

if TYPE_CHECKING:
    _Base = LightningModule
else:
    _Base = object


class SolverMixin(_Base):
    """Implements ``configure_optimizers`` from a specification: ``class Net(SolverMixin, LightningModule)``.

    Set ``self.solver`` in ``__init__`` to a :class:`SolverSpec` or its mapping, or leave it to the top-level key
    ``solver:`` of :class:`SolverCLI`.

    Several optimisers, under manual optimisation, are a mapping of names to specifications: a name is that of a
    submodule (or parameter), whose parameters the optimiser trains unless its ``only`` says otherwise; each trainable
    parameter belongs to exactly one. Each has its own schedules, counted in its own steps; :meth:`solver_turn` steps
    one of them.

    Attributes:
        solver: The specification, or specifications by name.
        solver_plan: The plan, once ``configure_optimizers`` has made it; of a single specification.
        solver_plans: The plans by name; that of a single specification is called ``solver``.
        solver_lr: The learning rate, for ``Tuner.lr_find(model, attr_name="solver_lr")``.

    Raises:
        SolverError: If the mixin does not stand before LightningModule in the list of bases.
    """

    _solver: Solver | None = None
    _solver_parts: Mapping[str, Part] = MappingProxyType({})
    _solver_turn: Turn | None = None
    _solver_callbacks: tuple[Callback, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if LightningModule in order and order.index(SolverMixin) > order.index(LightningModule):
            do = f"write class {cls.__name__}(SolverMixin, ...)"
            what = "SolverMixin must stand before LightningModule, or its configure_optimizers is never called"
            raise SolverError(cls.__name__, what, got=", ".join(base.__name__ for base in cls.__bases__), do=do)

    @property
    def solver(self) -> Solver | None:
        """The specification, or specifications by name; a mapping that is assigned is read as such."""
        return self._solver

    @solver.setter
    def solver(self, value: Any) -> None:
        if not (value is None or isinstance(value, (SolverSpec, Mapping))):
            do = "assign a SolverSpec or its mapping"
            raise SolverError(f"{type(self).__name__}.solver", "is not a SolverSpec", got=repr(value), do=do)
        self._solver = None if value is None else read_solver(value)

    @property
    def solver_parts(self) -> Mapping[str, Part]:
        """The optimisers of the present or the last ``fit`` by name, each with its plan, scheduler and counts."""
        return self._solver_parts

    @property
    def solver_plans(self) -> Mapping[str, Plan]:
        """The plans of the present or the last ``fit`` by name."""
        return {name: part.plan for name, part in self._solver_parts.items()}

    @property
    def solver_schedulers(self) -> Mapping[str, PlanScheduler]:
        """The schedulers of the present or the last ``fit`` by name; ``last_epoch`` is each one's number of steps."""
        return {name: part.scheduler for name, part in self._solver_parts.items()}

    @property
    def solver_plan(self) -> Plan | None:
        """The plan of the present or the last ``fit``, where the solver is a single specification."""
        return self.solver_plans.get(ALONE)

    @property
    def solver_scheduler(self) -> PlanScheduler | None:
        """The scheduler that :attr:`solver_plan` built."""
        return self.solver_schedulers.get(ALONE)

    @property
    def solver_averages(self) -> Mapping[str, Averaged]:
        """The averages of the present or the last ``fit`` by name; of several optimisers ``generator.ema``."""
        return next((one.averaged for one in self._solver_callbacks if isinstance(one, SolverAverages)), {})

    def release_averages(self) -> None:
        """Let go of the averages and of the live weights of the last ``fit``; the module keeps what it holds."""
        for callback in self._solver_callbacks:
            if isinstance(callback, SolverAverages):
                callback.release()

    @property
    def solver_lr(self) -> float:
        """The optimiser's learning rate; setting it moves every group, ratios kept."""
        spec = self._single_solver()
        if self.solver_plan is not None:
            plan = self.solver_plan
            return float(plan.recipe.defaults["lr"]) / lr_factor(plan.spec, plan.run)
        if spec.optimizer is None:
            raise AttributeError("a solver without an optimiser has no learning rate")
        return float(resolve_optimizer(spec.optimizer, spec.lr).defaults["lr"])

    @solver_lr.setter
    def solver_lr(self, value: float) -> None:
        self._solver = self._single_solver().at_rate(float(value), before=self.solver_lr)
        if self.solver_plan is not None:
            self.plan_anew({ALONE: self.solver_plan.run})

    def plan_anew(self, runs: Mapping[str, RunLength]) -> None:
        """Go on in mid-run by the present specifications and another length of the run.

        Args:
            runs: Name of an optimiser -> the length of the run in its steps; ``solver`` for a single specification.
        """
        if self._solver_parts:
            for name, plan in self._make_plans(runs).items():
                part = self._solver_parts[name]
                part.plan = plan
                part.scheduler.follow(plan)

    def run_lengths(self) -> dict[str, RunLength]:
        """The length of the run that the Trainer is about to make or makes, in the steps of each optimiser.

        Raises:
            SolverError: ``batches_per_step`` under automatic optimisation.
        """
        specs = by_name(self._given_solver())
        if not self.automatic_optimization:
            return manual_run_lengths(self.trainer, {name: batches_per_step(spec) for name, spec in specs.items()})
        for spec in specs.values():
            if spec.batches_per_step is not None:
                what = "is for manual optimisation, and this module is under automatic optimisation"
                do = "use accumulate, or set self.automatic_optimization = False"
                raise SolverError("batches_per_step", what, got=str(spec.batches_per_step), do=do)
        return {name: trainer_run_length(self.trainer) for name in specs}

    def configure_optimizers(self) -> Any:
        """The optimisers and schedulers that the specifications say, for the run that is about to start.

        Raises:
            SolverError: Whatever is wrong with a specification, the model or the length of the run.
        """
        single = isinstance(self._given_solver(), SolverSpec)
        if self.automatic_optimization and not single:
            name = type(self).__name__
            what = "several optimisers need manual optimisation, and this module is under automatic optimisation"
            do = "set self.automatic_optimization = False in __init__ and use self.solver_turn(name) in training_step"
            raise SolverError(f"{name}.solver", what, got=", ".join(by_name(self._given_solver())), do=do)
        earlier = {name: part.scheduler.last_epoch for name, part in self._solver_parts.items()}
        parts = {}
        for name, plan in self._make_plans(self.run_lengths()).items():
            if plan.notes:
                report("notes on the plan:" if single else f"notes on the plan of {name}:", plan.notes)
            optimizer, scheduler = plan.build()
            unscale_before(optimizer)  # gradients are clipped and looked at as they are, also by fused optimisers
            before = earlier.get(name, 0) if self.trainer.global_step > 0 else 0
            parts[name] = Part(name, plan, optimizer, scheduler, RealSteps(optimizer), earlier=before)
            optimizer.register_step_pre_hook(self._before_optimizer_step)
        self._solver_parts = MappingProxyType(parts)
        # The name is the prefix under which Lightning's LearningRateMonitor logs the groups.
        made = [
            {
                "optimizer": part.optimizer,
                "lr_scheduler": {
                    "scheduler": part.scheduler,
                    "interval": "step",
                    "name": "lr" if single else f"lr/{part.name}",
                },
            }
            for part in parts.values()
        ]
        return made[0] if single else made

    @contextlib.contextmanager
    def solver_turn(self, name: str | None = None, *, accumulate: int | None = None) -> Iterator[Turn]:
        """One optimiser's turn under manual optimisation: compute its loss within, and hand it to ``turn.step``.

        Within it no parameter of another optimiser requires a gradient: what others make is detached by itself, and
        nothing is left behind in their gradients. ``turn.step(loss)`` does backward, accumulation, clipping, the step,
        and moves the schedules of this optimiser after a real step only.

        Under DDP each backward pass reaches the parameters of one optimiser only: give the Trainer
        ``strategy="ddp_find_unused_parameters_true"``, and not ``static_graph=True``. Under FSDP2, which does not see
        that a parameter requires no gradient for a while, the gradients of the others are computed and dropped: detach
        what they make yourself where that saves time.

        A window of ``accumulate`` batches goes on into the next epoch. A checkpoint does not hold the gradients that
        were gathered so far: a run that is resumed in mid-window begins a new window, and says so.

        Args:
            name: Whose turn it is; may be left out where there is one optimiser.
            accumulate: Batches (calls of ``turn.step``) whose gradients are averaged for one step; by default what
                ``accumulate`` of the specification says. If they differ, the plan must know: ``batches_per_step``.

        Yields:
            The turn: ``turn.step(loss)`` returns whether a real step was made, ``turn.steps`` counts them.

        Raises:
            SolverError: No optimiser of this name, automatic optimisation, or a turn within a turn.

        Example:
            >>> def training_step(self, images, batch_idx):
            ...     with self.solver_turn("discriminator") as turn:
            ...         turn.step(self.discriminator_loss(images))
            ...     with self.solver_turn("generator") as turn:
            ...         turn.step(self.generator_loss(len(images)))
        """
        part = self._part(name)
        turn = Turn(self, part, accumulate=accumulation_of_turns(part.plan.spec) if accumulate is None else accumulate)
        self._solver_turn = turn
        try:
            with alone_trainable(part, self._solver_parts.values()):
                yield turn
        finally:
            self._solver_turn = None
            turn.close()

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
            self._solver_callbacks = (
                PlanGuard(),
                FollowMetrics(),
                SolverAccumulation(),
                Freezing(),
                SolverClipping(),
                SolverAverages(),
                OptimizerMode(),
            )
        given: Any = super().configure_callbacks()
        found = [*given] if isinstance(given, (list, tuple)) else [given]
        present = getattr(self._trainer, "callbacks", ())  # where an earlier run has attached them
        return found if self._solver_callbacks[0] in present else [*found, *self._solver_callbacks]

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any | None) -> None:
        """Moves the schedule on after a real optimiser step only."""
        part = self._solver_parts.get(ALONE)
        if part is None or scheduler is not part.scheduler:
            super().lr_scheduler_step(scheduler, metric)
        elif part.real_steps.take():
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

    def _given_solver(self) -> Solver:
        if self._solver is None:
            do = "set self.solver = SolverSpec(...) in __init__, or give solver: in the YAML of SolverCLI"
            raise SolverError(f"{type(self).__name__}.solver", "is not set", got="None", do=do)
        return self._solver

    def _single_solver(self) -> SolverSpec:
        solver = self._given_solver()
        if not isinstance(solver, SolverSpec):
            raise AttributeError(f"several optimisers have no one learning rate: {', '.join(solver)}")
        return solver

    def _make_plans(self, runs: Mapping[str, RunLength]) -> dict[str, Plan]:
        """The plans for a run; for ``fast_dev_run`` with phases allowed to reach beyond its few batches."""
        solver = self._given_solver()
        specs = by_name(solver)
        if not isinstance(solver, SolverSpec):
            specs = share_out(specs, self)
        if getattr(self.trainer, "fast_dev_run", False):
            specs = {name: spec.replace(beyond_run="allow") for name, spec in specs.items()}
        plans = {}
        for name, spec in specs.items():
            try:
                plans[name] = spec.plan(self, run=runs[name])
            except SolverError as error:
                head = error.where.partition(".")[0].partition("[")[0]
                if isinstance(solver, SolverSpec) or head not in field_hints(SolverSpec):
                    raise
                raise error.moved(head, f"{name}.{head}") from error
        return plans

    def _part(self, name: str | None) -> Part:
        """The optimiser of a name, ready for its turn."""
        where, parts = "solver_turn", self._solver_parts
        if self.automatic_optimization:
            do = "set self.automatic_optimization = False in __init__"
            raise SolverError(where, "is for manual optimisation", got="automatic optimisation", do=do)
        if not parts:
            do = "call it in training_step, and leave configure_optimizers to SolverMixin"
            raise SolverError(where, "there are no optimisers of the solver", do=do)
        if self._solver_turn is not None:
            raise SolverError(where, "turns cannot lie within each other", got=repr(name), do="close the first one")
        if name is None and len(parts) == 1:
            return next(iter(parts.values()))
        if name is None:
            raise SolverError(where, "whose turn is it?", got="no name", do=f"give one of {', '.join(parts)}")
        if name not in parts:
            do = suggestion(name, parts, "optimisers")
            raise SolverError(where, "there is no optimiser of this name", got=repr(name), do=do)
        return parts[name]

    def _before_optimizer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the ratios between groups while Lightning's learning-rate finder is at work, and after it."""
        part = next((part for part in self._solver_parts.values() if part.optimizer is optimizer), None)
        if part is None or self._trainer is None:
            return
        active: list[Any] = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        if any(scheduler is part.scheduler for scheduler in active):
            if part.scheduler.stale:
                part.scheduler.apply()
        elif active and type(active[0]).__module__ == "lightning.pytorch.tuner.lr_finder":
            main = float(part.plan.recipe.defaults["lr"]) / lr_factor(part.plan.spec, part.plan.run) or 1.0
            (tried, *_) = active[0].get_last_lr()
            for group, base in zip(optimizer.param_groups, part.scheduler.base_lrs):
                group["lr"] = float(tried) * base / main


_OF_A_RUN = frozenset({"_solver_parts", "_solver_turn", "_solver_callbacks"})


def _plain(value: Any) -> Any:
    """Hyper-parameters with every specification in them as a mapping."""
    if isinstance(value, SolverSpec):
        return value.to_dict()
    if isinstance(value, Mapping):
        kind: Any = dict if isinstance(value, FrozenDict) else type(value)
        return kind({key: _plain(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)) and any(isinstance(inner, (SolverSpec, Mapping)) for inner in value):
        return [_plain(inner) for inner in value]
    return value
