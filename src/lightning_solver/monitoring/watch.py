"""What is watched of one optimiser, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_solver.clipping.at_work import AtWork
from lightning_solver.monitoring.measures import OPTIONS, Mean, Norms, Options, Update
from lightning_solver.monitoring.series import Choice, unique
from lightning_solver.real_steps import RealSteps


@dataclass
class Counts:
    """Steps of an optimiser since the run began.

    Args:
        begun: How often it was about to step.
        made: How many of these steps were real.
    """

    begun: int = 0
    made: int = 0


class Watch:
    """Watches one optimiser.

    Args:
        optimizer: The optimiser; it is given hooks.
        prefix: Its name in the names of series; empty where there is one optimiser only.
        choice: Which series are wanted.
        counts: Its steps so far.
        most_groups: With how many groups each has series of its own.
        per_group: Whether norms are wanted by group.
        each_batch: Whether there is at most one step in a batch; else a step without a batch since the one before it
            is of the same ones.
        work: Gives the clipping of its gradients, which may be another one from step to step; ``None`` where nothing
            clips.

    Attributes:
        optimizer: The optimiser.
        options: The options of its groups.
        values: The options that the latest step used.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        prefix: str,
        choice: Choice,
        counts: Counts,
        most_groups: int = 8,
        per_group: bool = False,
        each_batch: bool = True,
        work: Callable[[], AtWork] | None = None,
    ) -> None:
        self.optimizer, self._work = optimizer, work
        self._prefix, self._choice, self._most, self._per_group = prefix, choice, most_groups, per_group
        self._counts, self._each_batch = counts, each_batch
        self._real = RealSteps(optimizer)
        self._measures_norm = choice.has("grad_norm") or choice.has("grad_norm_clipped")
        kinds = [type(one.clip).__name__ for one in work().planned] if work is not None else []
        self._clips = unique(kinds) if len(kinds) > 1 else [""] * len(kinds)
        self._shares = [Mean() for _ in kinds]
        self._look()
        self.values: list[list[Any]] = []
        self._step: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._collected: int | None = None
        self._unread: AtWork | None = None
        self._update: Update | None = None
        self._held_before = self._held = (0, 0.0)

    def before_clipping(self) -> None:
        """Gradients are about to be clipped in a step that is measured: take what cannot be had afterwards."""
        work = self.work
        self._before = {}
        if work is None or not self._measures_norm:
            return
        with torch.no_grad():
            if not (work.planned and work.planned[0].everything):
                self._before["grad_norm"] = work.gradients.norm()
            if self._per_group and self._norms is not None:
                self._before["grad_norm/"] = self._norms.by_group(work.order)

    def before_step(
        self,
        measured: bool,
        batches: int,
        samples: float,
        scaler: Any = None,
        *,
        again: bool = False,
        carried: bool = False,
    ) -> None:
        """The optimiser is about to step; gradients are clipped.

        Args:
            measured: Whether norms are wanted that are no by-product of the clipping.
            batches: How many batches there were so far.
            samples: How many samples there were so far.
            scaler: The loss scaler, where there is one.
            again: Whether it asks for gradients once more within one step, as LBFGS does.
            carried: Whether there is no step, and its batches are part of the next one.
        """
        if self.options.stale:
            self._look()
        if not again:
            self._counts.begun += 1
            held = (0, 0.0) if carried else self.since(batches, samples)
            if held[0] or self._each_batch:
                self._held = held
        if not carried:
            self._held_before = (batches, samples)
        self.values = self.options.read()
        self._step = {}
        work = self.work
        if work is not None:
            for mean, clipped in zip(self._shares, work.clipped):
                if clipped.share is not None:
                    mean.add(clipped.share)
        self._unread = work  # what it measured is read when it is logged, which most steps are not
        self._step["batches_per_step"], self._step["samples_per_step"] = self._held
        if not again:
            self._update = Update(self.optimizer) if measured and self._choice.has("update_ratio") else None
        if measured:
            self._read()
            self._measure(scaler, work)
            for name, norm in self._before.items():
                if self._step.get(name) is None:
                    self._step[name] = norm
        self._before = {}

    def after_step(self) -> None:
        """The step is made, if it was to be made: say what it has changed, where that is wanted."""
        update, self._update = self._update, None
        if update is not None:
            whole, groups = update.ratios()
            self._step["update_ratio"] = whole
            if self._per_group:
                self._step["update_ratio/"] = groups

    def since(self, batches: int, samples: float) -> tuple[int, float]:
        """Batches and samples since its latest step.

        Args:
            batches: How many batches there were so far.
            samples: How many samples there were so far.
        """
        return batches - self._held_before[0], samples - self._held_before[1]

    @property
    def work(self) -> AtWork | None:
        """The clipping of its gradients."""
        return None if self._work is None else self._work()

    @property
    def begun(self) -> int:
        """How often it was about to step."""
        return self._counts.begun

    def counts(self) -> Counts:
        """Its steps so far."""
        self._counts.made += self._real.take()
        return self._counts

    def collect(self) -> dict[str, Any]:
        """Numbers and tensors by the names of their series, of the latest step; tensors are not waited for here."""
        self._read()
        counts = self.counts()
        fresh, self._collected = counts.begun != self._collected, counts.begun  # another optimiser's step may be logged
        found = self.options.named(self.values) if fresh else {}
        for name, value in self._step.items() if fresh else ():
            if name.endswith("/"):
                groups = range(len(value))
                found |= self.options.by_group(name[:-1], groups, value, beside_total=True)
            elif value is not None:
                series, _, of = name.partition("/")
                found[self.name(series, of)] = value
        for clip, mean in zip(self._clips, self._shares):
            share = mean.take()
            if share is not None:
                found[self.name("clip_share", clip)] = share
        found[self.name("steps")] = counts.made
        found[self.name("skipped_steps")] = counts.begun - counts.made
        work = self.work
        if work is not None and work.nonfinite is not None:
            found[self.name("nonfinite_steps")] = work.found
        return found

    def name(self, series: str, of: str = "") -> str:
        """The name of a series of this optimiser.

        Args:
            series: The name of the series.
            of: What follows it.
        """
        return "/".join(part for part in (series, self._prefix, of) if part)

    def known(self) -> list[str]:
        """The full names of the series by group, and by clipping, that there may be."""
        groups = range(len(self.options.names))
        found = [*self.options.named(self.options.read())]
        for series in ("grad_norm", "grad_norm_clipped", "update_ratio"):
            found.append(self.name(series))
            found += self.options.by_group(series, groups, [0.0] * len(groups), beside_total=True)
        for series in ("clip_share", "clip_limit"):
            found += [self.name(series, clip) for clip in self._clips]
        return found + [self.name(name) for name in _COUNTED]

    def _look(self) -> None:
        """Look for the groups of the optimiser."""
        wanted = [option for option in OPTIONS if self._choice.has(option)]
        self.options = Options(self.optimizer, prefix=self._prefix, wanted=wanted, most=self._most)
        needed = self._measures_norm and (self._work is None or self._per_group)
        self._norms = Norms(self.optimizer) if needed else None

    def _read(self) -> None:
        """What the clipping has measured by itself in the latest step."""
        work, self._unread = self._unread, None
        if work is None:
            return
        clipped, planned = work.clipped, work.planned
        whole = bool(clipped) and planned[0].everything
        self._step["grad_norm"] = work.norm if work.norm is not None else clipped[0].norm if whole else None
        if whole and len(clipped) == 1:
            self._step["grad_norm_clipped"] = clipped[0].clipped_norm
        for clip, found in zip(self._clips, clipped):
            self._step[f"clip_limit/{clip}" if clip else "clip_limit"] = found.limit

    def _measure(self, scaler: Any, work: AtWork | None) -> None:
        """What is measured for the log only."""
        if self._measures_norm and work is not None and work.clipped and "grad_norm_clipped" not in self._step:
            with torch.no_grad():
                self._step["grad_norm_clipped"] = work.gradients.norm(work.order)
        if self._norms is not None:
            scale = 1.0
            if scaler is not None and getattr(self.optimizer, "_step_supports_amp_scaling", False):
                scale = scaler.get_scale()  # the fused kernel divides by it, later
            if work is None:
                self._step["grad_norm"] = self._norms.total() / scale
            if self._per_group:
                clips = work is not None and bool(work.clipped)
                name = "grad_norm_clipped/" if clips else "grad_norm/"
                order = 2.0 if work is None else work.order
                self._step[name] = [norm / scale for norm in self._norms.by_group(order)]
        if self._choice.has("loss_scale") and scaler is not None:
            self._step["loss_scale"] = scaler.get_scale()


_COUNTED = ("steps", "skipped_steps", "nonfinite_steps", "batches_per_step", "samples_per_step", "loss_scale")
