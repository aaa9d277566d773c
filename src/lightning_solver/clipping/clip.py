"""What every clipping has in common: which parameters it is for, and how its limit moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_solver.durations import Rational, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.plain import Plain
from lightning_solver.rule import Selector
from lightning_solver.schedules.base import Curve, Floats, Integers, Schedule, run_window
from lightning_solver.schedules.join import contains, lay
from lightning_solver.schedules.plateau import Plateau

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightning_solver.clipping.clipper import Clipped, Clipper
    from lightning_solver.clipping.ways import Way


@dataclass(frozen=True, kw_only=True)
class Clip(Plain, ABC):
    """How gradients are clipped, in place, once for each optimiser step.

    Args:
        of: Which parameters, by the selectors of rules; all that are trained by default.
        unless: Which of these are spared, or several selectors of which one holds.
        schedule: How the limit moves over the run, step by step: a schedule, or a list of phases. Its values are
            factors of the limit that is written here.
    """

    of: Selector | None = None
    unless: Selector | Sequence[Selector] | None = None
    schedule: Schedule | Sequence[Schedule] | None = None

    @property
    @abstractmethod
    def limit(self) -> float | None:
        """The limit, which a schedule moves; ``None`` for a kind that finds its own."""

    @abstractmethod
    def way(self) -> Way:
        """What does it."""

    def check(self) -> None:
        name = type(self).__name__
        if self.limit is not None and not self.limit > 0:
            do = "correct it, or leave the clipping out"
            raise SolverError(f"{name}.{self.limited_by}", "must be above 0", got=repr(self.limit), do=do)
        if self.unless == ():
            raise self._error("unless", "is empty", got=[], do="leave it out")
        if self.schedule is None:
            return
        if self.limit is None:
            do = "leave the schedule out"
            raise self._error("schedule", "has nothing to move: this kind finds its limit itself", do=do)
        if self.schedule == ():
            raise self._error("schedule", "has no phases", got=[], do="give at least one, or leave it out")
        if contains(self.schedule, Plateau):
            do = "use a schedule of the number of the step"
            raise self._error("schedule", "a limit cannot follow a metric", got="Plateau", do=do)

    @property
    def limited_by(self) -> str:
        """The name of the field that is the limit."""
        return "max_norm"

    @property
    def learns(self) -> bool:
        """Whether it finds its limit from step to step."""
        return False

    @property
    def order(self) -> float:
        """The order of the norms that it measures."""
        return 2.0

    @property
    def by_joint_norm(self) -> bool:
        """Whether it goes by the norm of all that it is for together, which is measured in any case then."""
        return False

    @property
    def spared(self) -> int:
        """How many of the last parameters of the module are spared, selected or not."""
        return 0

    @property
    def exceptions(self) -> tuple[Selector, ...]:
        """The selectors of what is spared."""
        if self.unless is None:
            return ()
        return (self.unless,) if isinstance(self.unless, Selector) else tuple(self.unless)

    def curve(
        self,
        run: RunLength,
        where: str = "clip",
        notes: list[str] | None = None,
        *,
        beyond: Literal["error", "allow"] = "error",
    ) -> Curve | None:
        """The limit at each step of a run; ``None`` where nothing moves it.

        Args:
            run: The length of the run.
            where: The path of the clipping, for error messages.
            notes: What is odd is added here.
            beyond: ``allow`` if a phase may reach beyond the run.

        Raises:
            SolverError: A schedule that does not fit the run, or that reaches 0.
        """
        if self.schedule is None or self.limit is None:
            return None
        window = run_window([self.limit], run, f"{where}.schedule", own=self.limit, beyond=beyond)
        curve = lay(self.schedule, window)
        if notes is not None:
            notes.extend(window.notes)
        last = 0 if run.total_steps is None else int(run.total_steps) - 1
        seen = curve.over(np.arange(last + 1))
        if not seen.min() > 0:
            step = int(seen[:, 0].argmin())
            do = "let it stay above 0: with a limit of 0 nothing is learnt"
            raise SolverError(f"{where}.schedule", f"is not above 0 at step {step}", got=f"{seen.min():g}", do=do)
        return curve

    def limits(self, *, total_steps: int, steps_per_epoch: Rational | None = None) -> Floats:
        """The limit at each step of a run.

        Args:
            total_steps: Optimiser steps of the whole run.
            steps_per_epoch: Optimiser steps of an epoch, for durations in epochs.

        Returns:
            float64 array of shape (total_steps,); ``nan`` for a kind that finds its own.
        """
        return self.limits_at(np.arange(total_steps), self.curve(RunLength(total_steps, steps_per_epoch)))

    def limits_at(self, steps: Integers, curve: Curve | None) -> Floats:
        """The limit in some steps.

        Args:
            steps: Their numbers (0-based).
            curve: What :meth:`curve` gave.

        Returns:
            float64 array of the shape of ``steps``; ``nan`` for a kind that finds its own.
        """
        if curve is not None:
            return curve.over(steps)[:, 0]
        return np.full(len(steps), np.nan if self.limit is None else self.limit)

    def over(self, parameters: nn.Module | Iterable[Tensor] | Sequence[Iterable[Tensor]]) -> Clipper:
        """This clipping at work on some parameters, to be applied before each step.

        Args:
            parameters: A module (its parameters); parameters; or lists of parameters, which are groups. Selectors
                need the module.

        Raises:
            SolverError: Selectors without a module, or one that selects nothing.
        """
        from lightning_solver.clipping.clipper import make_clipper

        return make_clipper(self, parameters)

    def apply(self, parameters: nn.Module | Iterable[Tensor] | Sequence[Iterable[Tensor]]) -> Clipped:
        """Clip the gradients of some parameters once, in place.

        For kinds that learn from step to step (``AutoClip``, ``ZClip``) use :meth:`over`, which keeps what they learn.

        Args:
            parameters: A module (its parameters); parameters; or lists of parameters, which are groups. Parameters
                without a gradient are passed over.

        Returns:
            What was measured.

        Raises:
            SolverError: A kind that learns.

        Example:
            >>> import torch
            >>> from lightning_solver.clipping import GlobalNorm
            >>> weight = torch.zeros(2, requires_grad=True)
            >>> weight.grad = torch.tensor([3.0, 4.0])
            >>> clipped = GlobalNorm(max_norm=1.0).apply([weight])
            >>> float(clipped.norm), round(float(clipped.clipped_norm), 4)
            (5.0, 1.0)
        """
        if self.learns:
            do = "make it once, clipper = clip.over(model), and call clipper.apply() in the loop"
            what = "learns from step to step, and would forget at once"
            raise SolverError(f"{type(self).__name__}.apply", what, do=do)
        return self.over(parameters).apply()

    def describe(self) -> str:
        """The clipping in a few words, as tables show it.

        Example:
            >>> from lightning_solver.clipping import GlobalNorm
            >>> GlobalNorm(max_norm=1.0, of={"match": "backbone.*"}).describe()
            'GlobalNorm (max_norm 1) of match backbone.*'
        """
        own = [field for field in fields(self) if field.name not in ("of", "unless", "schedule")]
        told = [f"{f.name} {_told(getattr(self, f.name))}" for f in own if getattr(self, f.name) != f.default]
        words = [type(self).__name__ + (f" ({', '.join(told)})" if told else "")]
        words += [f"of {self.of.describe()}"] if self.of is not None else []
        words += [f"unless {selector.describe()}" for selector in self.exceptions]
        return " ".join(words) + (", scheduled" if self.schedule is not None else "")


def numbered_clips(clips: Clip | Sequence[Clip] | None, where: str = "clip") -> list[tuple[Clip, str]]:
    """Each clipping with its path.

    Args:
        clips: One, several or none.
        where: The path of all.
    """
    if clips is None:
        return []
    if isinstance(clips, Clip):
        return [(clips, where)]
    return [(clip, f"{where}[{i}]") for i, clip in enumerate(clips)]


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
