"""The one scheduler: it writes every scheduled option of every group, once per optimiser step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.plan import Plan
from lightning_solver.resume import Settings, carry_state_by_name
from lightning_solver.schedules.plateau import Feed
from lightning_solver.spec import SolverSpec, difference


class PlanScheduler(LRScheduler):
    """Applies a plan to its optimiser. Made by :meth:`Plan.build`.

    The values of step 0 are written when it is made; call :meth:`step` after each ``optimizer.step()``. Every value is
    computed afresh from the number of steps, so that the state is that number and the spec.

    Args:
        optimizer: The optimiser that the plan built.
        plan: The plan.

    Attributes:
        last_epoch: Number of steps taken, which is the 0-based number of the step that comes next. The name is torch's;
            it never counts epochs.
        stale: Whether the plan was changed since a step was made; what the groups hold is then written again before it.
    """

    def __init__(self, optimizer: Optimizer, plan: Plan) -> None:
        # The base class is not initialised: it would replace optimizer.step to be able to warn about the order of
        # calls, and write learning rates by a recurrence.
        plan.spec.to_dict()  # which a checkpoint will hold: a function that has no name is found now
        self.optimizer = optimizer
        self.last_epoch = 0
        self.stale = False
        self._feed = Feed()
        self._take(plan)
        carry_state_by_name(optimizer, self._settings)
        optimizer.register_step_pre_hook(self._before_step)
        self.apply()

    def step(self, epoch: int | None = None) -> None:
        """Move on to the next step.

        Args:
            epoch: Not supported: the plan knows where epochs end.

        Raises:
            SolverError: ``epoch`` was given.
        """
        if epoch is not None:
            do = "call step() after each optimizer.step()"
            raise SolverError("scheduler.step", "counts optimiser steps, not epochs", got=repr(epoch), do=do)
        self.go_to(self.last_epoch + 1)

    def go_to(self, step: int) -> None:
        """Stand before a step of the run (0-based), with its values written."""
        self.last_epoch = step
        self.apply()

    @property
    def monitors(self) -> set[str]:
        """Names of the metrics that the schedules follow."""
        return self._feed.monitors

    def observe(self, metrics: Mapping[str, float]) -> list[str]:
        """Take the metrics of a validation; schedules that follow one may lower what the groups hold.

        Call it once after each validation, with the same numbers in every process.

        Args:
            metrics: Name -> value. What no schedule follows is left alone.

        Returns:
            The paths of the schedules that have dropped.
        """
        dropped = self._feed.take(self.last_epoch, metrics)
        if dropped:
            self.apply()
        return dropped

    def apply(self) -> None:
        """Write the values of the step that comes next into the optimiser's groups."""
        self.stale = False
        groups = self.optimizer.param_groups
        for slots, curve in self._moves:
            for slot, group, value in zip(slots, groups, curve.at(self.last_epoch)):
                if slot is not None:
                    slot.write(group, value)

    @property
    def freezes(self) -> bool:
        """Whether anything is frozen at any step of the run."""
        return bool(self._frozen or self.plan.never)

    def frozen(self) -> list[int]:
        """The groups, by index, that are frozen in the step that comes next."""
        return [index for index, frozen in self._frozen if frozen.at(self.last_epoch)]

    def drop_frozen(self) -> None:
        """Drop the gradients of the groups that are frozen in the step that comes next, so that they do not move.

        The optimiser does so by itself before each step; call it earlier where gradients are read in between, as
        clipping by a norm over all of them does.
        """
        for tensor in self.plan.never:
            tensor.grad = None
        for index in self.frozen():
            for tensor in self.optimizer.param_groups[index]["params"]:
                tensor.grad = None

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Drop the gradients of what is frozen: those that are there, and those that a closure is about to make."""
        if not (self._frozen or self.plan.never) or self._makes_state_alone():
            return None
        self.drop_frozen()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def evaluated() -> Any:
            loss = closure()
            self.drop_frozen()
            return loss

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    def _makes_state_alone(self) -> bool:
        """Whether this is the step, at a rate of 0 and on gradients of 0, by which torch makes the optimiser's state.

        It does so before it loads a sharded one, and that of what is frozen has to be there too.
        """
        groups = self.optimizer.param_groups
        if self.optimizer.state or any(float(group["lr"]) for group in groups):
            return False
        tensors = [tensor for group in groups for tensor in group["params"]]
        return all(tensor.grad is not None and not bool(tensor.grad.any()) for tensor in tensors)

    def follow(self, plan: Plan) -> None:
        """Go on from the present step by another plan for the same groups.

        Raises:
            SolverError: The plan groups the parameters in another way.
        """
        if [group.names for group in plan.groups] != [group.names for group in self.plan.groups]:
            raise SolverError("plan", "groups the parameters in another way", do="build a new optimiser from it")
        for made, group in zip(self.optimizer.param_groups, plan.groups):
            for option, value in plan.held_by(group).items():
                if isinstance(made[option], Tensor):
                    made[option].fill_(value)
                else:
                    made[option] = value
        self._take(plan)
        self.apply()
        self.stale = True

    def _take(self, plan: Plan) -> None:
        """Make ``plan`` the one that is applied."""
        self.plan = plan
        self.base_lrs = [float(group.options.get("lr", 0.0)) for group in plan.groups]
        feed, curves = plan.follow_metrics()
        feed.load(self._feed.state())
        self._feed = feed
        self._moves = [(plan.slots(option), curve) for option, curve in curves.items()]
        self._frozen = [(i, group.frozen) for i, group in enumerate(plan.groups) if group.frozen is not None]
        for made, lr in zip(self.optimizer.param_groups, self.base_lrs):
            made["initial_lr"] = lr

    def _settings(self) -> Settings:
        moved = {slot.key for slots, _ in self._moves for slot in slots if slot is not None}
        groups = self.plan.groups
        return [self.plan.held_by(group) for group in groups], moved, [group.member.recipe for group in groups]

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rate that each group holds."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate that each group holds."""
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """What cannot be recomputed: the number of steps, and what schedules that follow a metric have seen of it.

        The spec is there too, as plain data, to say what changed.
        """
        state: dict[str, Any] = {"step": self.last_epoch, "spec": self.plan.spec.to_dict()}
        if self._feed.trackers:
            state["plateaus"] = self._feed.state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved step by the present plan; what differs from the saved spec is reported.

        Raises:
            SolverError: The state is that of another kind of scheduler.
        """
        if state_dict.keys() - {"plateaus"} != {"step", "spec"} or not isinstance(state_dict["step"], int):
            do = "resume by the scheduler that wrote it, or load the weights alone"
            got = f"keys {', '.join(map(repr, state_dict))}"
            raise SolverError("scheduler", "the saved state is not one of lightning_solver", got=got, do=do)
        self.last_epoch = state_dict["step"]
        changes = difference(SolverSpec.from_dict(state_dict["spec"], "saved spec"), self.plan.spec)
        changes += [f"{where}: {what}" for where, what in self._feed.load(state_dict.get("plateaus", {})).items()]
        if changes:
            report("resumed by a changed spec, which is followed from here on:", changes)
        self.apply()
