"""A callback that logs what a run really did: rates, norms, clipping, averages, steps, time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.averaging.averaged import Averaged
from lightning_solver.callbacks.accumulating import Accumulating
from lightning_solver.callbacks.averaging import Averaging
from lightning_solver.callbacks.clipping import Clipping
from lightning_solver.callbacks.order import take_places
from lightning_solver.clipping.at_work import AtWork
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.monitoring.history import KEPT, Histories, History, to_floats
from lightning_solver.monitoring.measures import Clock, changed_rates, samples_in
from lightning_solver.monitoring.series import Choice, safe, unique
from lightning_solver.monitoring.watch import Counts, Watch
from lightning_solver.real_steps import loss_scaler
from lightning_solver.run_length import replicas

_BAR = ("lr", "grad_norm")
_LINES = 8  # groups that a message lists


@dataclass
class _Run:
    """What belongs to a run.

    Args:
        watches: ``id`` of an optimiser -> what watches it.
        averages: The averages of the weights by name.
        accumulating: What accumulates gradients.
        clock: The time that batches take.
        scaler: The loss scaler.
        every: Steps between two that are logged; 0: none but the first and the last.
        automatic: Whether optimisation is automatic.
        replicas: Processes that have batches of their own.
        counts_samples: Whether samples are counted.
        running: Whether training is going on.
        first: Whether no step was logged so far.
        due: Whether the present step is logged.
        measured: Whether what is measured for the log only is measured in the present batch.
        stepped: Whether an optimiser was about to step in the present batch.
        now: The number of the present step, as loggers have it.
        latest: The number of the latest step; -1 before the first.
        since: Steps since one was logged.
        batches: Batches that were part of a step.
        samples: Samples in them.
        in_batch: Samples in the present batch.
        shown: What is in the progress bar.
    """

    watches: dict[int, Watch] = field(default_factory=dict)
    averages: dict[str, Averaged] = field(default_factory=dict)
    accumulating: list[Accumulating] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    scaler: Any = None
    every: int = 0
    automatic: bool = True
    replicas: int = 1
    counts_samples: bool = False
    running: bool = False
    first: bool = True
    due: bool = False
    measured: bool = False
    stepped: bool = False
    now: int = 0
    latest: int = -1
    since: int = 0
    batches: int = 0
    samples: float = 0.0
    in_batch: float = 0.0
    shown: dict[str, float] = field(default_factory=dict)


class SolverMonitor(Callback):
    """Logs the values that each step really used, and keeps them.

    Every series of :data:`lightning_solver.monitoring.SERIES` is logged to every logger, at the step that Lightning's
    own metrics have. The first and the last step of a run are always logged, however the run ends. Without a logger the
    histories are kept all the same. What has to be waited for on a device is looked at only when it is logged.

    Args:
        every: Steps between two that are logged; by default ``log_every_n_steps`` of the Trainer.
        series: The series that are wanted, by their names or by what these begin with (``lr``, ``time/data``,
            ``lr/backbone``); by default all but ``update_ratio``.
        per_group: Whether norms of gradients and update ratios are logged by group, too.
        update_ratio: Whether the ratio of update to weights is logged; it copies the weights in steps that are logged.
        most_groups: With how many groups each has series of its own. With more there are the least and the greatest
            value, ``lr/min`` and ``lr/max``, and as ``lr`` that of the group with the most weights.
        lr_change: A factor, such as Pet's 1.1: a message tells when a learning rate changes by more from one step to
            the next, from the third step on. By default nothing is said.
        progress_bar: Whether the learning rate and the norm of the gradients are in the progress bar, or names of
            series that are.
        samples: A function that says how many samples a batch has; by default the length of the first tensor in it.
        kept: How many values of each series are kept one by one.

    Raises:
        SolverError: A setting that makes no sense, or a series that does not exist.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = SolverMonitor(series=["lr", "grad_norm"], progress_bar=True)
        >>> trainer = Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    role = "monitor"

    def __init__(
        self,
        *,
        every: int | None = None,
        series: str | Sequence[str] | None = None,
        per_group: bool = False,
        update_ratio: bool = False,
        most_groups: int = 8,
        lr_change: float | None = None,
        progress_bar: bool | str | Sequence[str] = False,
        samples: Callable[[Any], int] | None = None,
        kept: int = KEPT,
    ) -> None:
        for name, number in (("every", every), ("most_groups", most_groups), ("kept", kept)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                what, do = "must be a whole number >= 1", "give a number of steps, groups or values"
                raise SolverError(f"SolverMonitor.{name}", what, got=repr(number), do=do)
        given: Any = samples
        if given is not None and not callable(given):
            raise SolverError("SolverMonitor.samples", "must be a function", got=repr(given), do="let it take a batch")
        if lr_change is not None and not (isinstance(lr_change, (int, float)) and lr_change > 1.0):
            do = "give a factor such as 1.1, or None for no message"
            raise SolverError("SolverMonitor.lr_change", "must be greater than 1", got=repr(lr_change), do=do)
        self._asked_every, self._per_group, self._most = every, per_group, most_groups
        self._lr_change, self._count_samples = lr_change, samples or samples_in
        self._choice = Choice(series, ("update_ratio",) if update_ratio else (), "SolverMonitor.series")
        names = _BAR if progress_bar is True else progress_bar
        self._bar = Choice(names, where="SolverMonitor.progress_bar") if names else None
        self._main = progress_bar is True
        self.histories = Histories(kept)
        self._counts: dict[str, Counts] = {}
        self._restored: dict[str, Any] | None = None
        self._rates: dict[str, list[float]] = {}
        self._run = _Run()

    def history(self, name: str) -> History:
        """What a series was: ``latest``, ``mean(window)``, ``median(window)``, ``global_mean``, ``count``, ``values``.

        Args:
            name: The name of the series.

        Raises:
            SolverError: Nothing was logged by this name.
        """
        return self.histories.called(name)

    def latest(self) -> dict[str, float]:
        """The latest value of every series."""
        return {name: history.latest for name, history in self.histories.items()}

    def put(self, name: str, value: float | Tensor, *, smooth: bool = True) -> None:
        """Log a value of your own with the others. A tensor is not waited for until then.

        Every value goes into the history; what is logged is their mean since the last time, or the latest one.

        Args:
            name: The name of the series.
            value: A number, or a tensor of one.
            smooth: Whether the mean is logged.

        Raises:
            SolverError: A name that not every logger takes or that another series has, or a value that is no number.
        """
        self.histories.put(self._run.now, name, value, smooth=smooth)

    # ------------------------------------------------------------------ the beginning and the end

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to.

        Raises:
            SolverError: There are two monitors.
        """
        if sum(isinstance(one, SolverMonitor) for one in trainer.callbacks) > 1:
            do = "give one, with the series of both"
            raise SolverError("Trainer.callbacks", "there are two monitors", got="SolverMonitor", do=do)
        take_places(trainer)
        if stage == "fit":
            self._restored = None  # of a run that never began; the checkpoint of this one is read later
            if trainer.global_step == 0:  # another run, also where its checkpoint knows nothing of what is logged here
                self._counts, self._rates = {}, {}
                self.histories.load_state_dict({})

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Look for what is to be watched."""
        run = self._run = _Run()
        run.accumulating = [one for one in trainer.callbacks if isinstance(one, Accumulating)]
        restored, self._restored = self._restored, None
        if restored is not None:
            self._go_on(restored)
            # What a window has gathered is part of its step, if it was kept.
            run.batches = sum(one.holds for one in run.accumulating)
            run.samples = restored.get("samples", 0.0) if run.batches else 0.0
        run.every = trainer.log_every_n_steps if self._asked_every is None else self._asked_every
        run.automatic = pl_module.automatic_optimization
        run.replicas = replicas(trainer)
        run.scaler = loss_scaler(trainer)
        run.counts_samples = self._wants("samples_per_step")
        clippings = [one for one in trainer.callbacks if isinstance(one, Clipping)]
        for optimizer, name in _names(trainer, pl_module).items():
            base = _steps_before(trainer, pl_module, name)
            run.watches[id(optimizer)] = Watch(
                optimizer,
                prefix=name if len(trainer.optimizers) > 1 else "",
                choice=self._all(),
                counts=self._counts.setdefault(name, Counts(base, base)),
                most_groups=self._most,
                per_group=self._per_group,
                each_batch=run.automatic,
                work=_work(clippings, pl_module, optimizer),
            )
        self._average(trainer)
        known = [name for watch in run.watches.values() for name in watch.known()]
        known += ["time/step", "time/data", *(f"decay/{name}" for name in run.averages)]
        self._choice.check(known)
        if self._bar is not None:
            self._bar.check(known)
        run.running = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step is logged, if it was not."""
        if self._run.running:
            self._log_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As at the end of training, as far as the device still answers."""
        if self._run.running:
            with contextlib.suppress(RuntimeError):
                self._log_last(trainer)
        self._run = _Run()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Optimisers and weights are let go; histories stay."""
        self._restored = None
        if stage == "fit":
            self._run = _Run()

    # ------------------------------------------------------------------ training

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first batch is waited for."""
        self._run.clock.wait()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Decide whether the step that this batch belongs to is logged; all processes decide alike."""
        run = self._run
        run.clock.begin()
        if run.automatic:
            run.now = now = trainer.global_step
            done = now + 1
        else:
            run.now = now = trainer.fit_loop.epoch_loop.total_batch_idx
            done = trainer.global_step + len(run.watches)
        last = trainer.is_last_batch
        # A run may end at the end of any epoch: there it is measured, whether or not it is logged.
        run.due = run.due or run.first or (run.every > 0 and (now + 1) % run.every == 0)
        run.due = run.due or done >= trainer.max_steps > 0 or (last and _is_last_epoch(trainer))
        measured = run.due or last
        if measured is not run.measured:
            run.measured = measured
            for watch in run.watches.values():
                work = watch.work
                if work is not None:
                    work.measure, work.before = measured, watch.before_clipping
        if run.counts_samples:
            run.in_batch = self._count_samples(batch) * run.replicas
        if not run.automatic:
            self._held(run.in_batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The batch is part of a step."""
        if self._run.automatic:
            self._held(self._run.in_batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take the values that the step uses, once gradients are what it will see."""
        run = self._run
        watch = run.watches.get(id(getattr(optimizer, "optimizer", optimizer)))
        if watch is None:
            return
        again = run.stepped and run.automatic
        run.stepped = True
        # A loss scaler makes no step after a batch without a loss: the next one takes in what was gathered.
        carried = any(one.holds for one in run.accumulating)
        watch.before_step(run.measured, run.batches, run.samples, run.scaler, again=again, carried=carried)
        if self._lr_change is not None and not again:
            self._tell_change(watch, self._lr_change)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step, if it is due and was made in this batch."""
        run = self._run
        run.clock.end()
        logged = False
        if run.stepped:
            run.stepped = False
            run.latest, run.since = run.now, run.since + 1
            if run.measured:
                for watch in run.watches.values():
                    watch.after_step()
            if run.due:
                self._log(trainer)
                logged = True
        # Lightning drops what a progress bar shows when an epoch begins.
        if run.shown and (logged or batch_idx == 0):
            # Not by self.log: the module may log by these names in the same hook. As texts: a bar that writes three
            # decimals of every number has nothing left of a learning rate.
            shown: dict[str, Any] = trainer.progress_bar_metrics
            shown.update({name: f"{number:.3g}" for name, number in run.shown.items()})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is neither work on a step nor waiting for data."""
        self._run.clock.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next batch is waited for."""
        if self._run.running and not trainer.sanity_checking:
            self._run.clock.wait()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is done between epochs is neither."""
        self._run.clock.pause()

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Counts and histories, as tensors and plain data."""
        run, samples = self._run, 0.0
        for watch in run.watches.values():
            watch.counts()
            samples = watch.since(run.batches, run.samples)[1] if run.automatic else 0.0
        return {
            "samples": samples,
            "counts": {name: [counts.begun, counts.made] for name, counts in self._counts.items()},
            "rates": {name: [*rates] for name, rates in self._rates.items()},
            "histories": self.histories.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._restored = state_dict

    # ------------------------------------------------------------------ not for users

    def _go_on(self, state: Mapping[str, Any]) -> None:
        self._counts = {name: Counts(*counts) for name, counts in state["counts"].items()}
        self._rates = {name: [*rates] for name, rates in state["rates"].items()}
        self.histories.load_state_dict(state["histories"])

    def _all(self) -> Choice:
        """The series that are looked at: those that are logged, of the progress bar, and of the message."""
        found = self._choice if self._bar is None else self._choice.union(self._bar)
        return found if self._lr_change is None else found.union(Choice("lr"))

    def _wants(self, series: str) -> bool:
        return self._all().has(series)

    def _average(self, trainer: Any) -> None:
        """Look for the averages of the weights."""
        averaging = next((one for one in trainer.callbacks if isinstance(one, Averaging)), None)
        if averaging is None or not self._wants("decay"):
            return
        self._run.averages = {safe(name): averaged for name, averaged in averaging.averaged.items()}

    def _held(self, samples: float) -> None:
        self._run.batches += 1
        self._run.samples += samples

    def _log_last(self, trainer: Trainer) -> None:
        run = self._run
        run.running = False
        if run.stepped:  # in a batch that was not brought to its end
            run.latest, run.since = run.now, run.since + 1
        if run.since:
            self._log(trainer)
        elif own := self.histories.take():
            self._send(trainer, own)

    def _log(self, trainer: Trainer) -> None:
        """Log the latest step; only here is the device waited for."""
        run = self._run
        found: dict[str, Any] = {}
        for watch in run.watches.values():
            found |= watch.collect()
        for name, averaged in run.averages.items():
            if averaged.latest_share is not None:
                found[f"decay/{name}"] = 1.0 - averaged.latest_share
        found |= run.clock.take(run.since)
        logged = [name for name in found if self._choice.takes(name)]
        shown = self._choose_shown(found)
        names = [*dict.fromkeys([*logged, *shown.values()])]
        numbers = dict(zip(names, to_floats([found[name] for name in names])))
        numbers = {name: n for name, n in numbers.items() if not (math.isnan(n) and name.startswith("samples_per_"))}
        run.shown = {name: numbers[source] for name, source in shown.items() if source in numbers}
        wanted = {name: numbers[name] for name in logged if name in numbers}
        self.histories.add(run.latest, wanted)
        run.first = run.due = False
        run.since = 0
        self._send(trainer, wanted | self.histories.take())

    def _send(self, trainer: Any, numbers: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=max(self._run.latest, 0))
        trainer.callback_metrics.update({name: torch.tensor(number) for name, number in numbers.items()})

    def _choose_shown(self, found: dict[str, Any]) -> dict[str, str]:
        """Name in the progress bar -> name of the series."""
        if self._bar is None:
            return {}
        if not self._main:
            return {name: name for name in found if self._bar.takes(name)}
        shown = {}
        for watch in self._run.watches.values():
            rate, norm = watch.name("lr"), watch.name("grad_norm")
            main = watch.options.main(watch.values).get("lr")
            if main is not None:
                found.setdefault(rate, main)
                shown[rate] = rate
            if norm in found:
                shown[norm] = norm
        return shown

    def _tell_change(self, watch: Watch, factor: float) -> None:
        """Say when a learning rate has jumped."""
        rates = watch.options.rates(watch.values)
        if any(isinstance(rate, Tensor) for rate in rates):
            return  # its value would have to be waited for at every step
        name = watch.name("lr")
        before, self._rates[name] = self._rates.get(name), rates
        if before is None or before == rates or len(before) != len(rates) or watch.begun <= 2:
            return
        changed = changed_rates(before, rates, factor)
        if not changed:
            return
        lines = [f"{watch.options.names[i]}: {before[i]:.7f} -> {rates[i]:.7f}" for i in changed]
        headline = f"step {self._run.now}: the learning rate changes"
        if len(rates) == 1:
            report(f"{headline} {before[0]:.7f} -> {rates[0]:.7f}")
        else:
            more = [f"and {len(lines) - _LINES} further groups"] if len(lines) > _LINES else []
            report(f"{headline}:", [*lines[:_LINES], *more])


def _names(trainer: Trainer, module: Any) -> dict[Optimizer, str]:
    """The optimisers with their names: those of a solver, else their classes."""
    parts: Mapping[str, Any] = getattr(module, "solver_parts", {})
    own = {id(part.optimizer): name for name, part in parts.items()}
    names = [own.get(id(optimizer), type(optimizer).__name__) for optimizer in trainer.optimizers]
    return dict(zip(trainer.optimizers, unique(map(safe, names))))


def _steps_before(trainer: Trainer, module: Any, name: str) -> int:
    """The steps that an optimiser has made when nothing was counted so far."""
    parts: Mapping[str, Any] = getattr(module, "solver_parts", {})
    if name in parts:
        return int(parts[name].scheduler.last_epoch)
    return trainer.global_step // max(len(trainer.optimizers), 1)


def _work(clippings: Sequence[Clipping], module: LightningModule, optimizer: Optimizer) -> Callable[[], AtWork] | None:
    """What gives the clipping of the gradients of an optimiser, which is another one once parameters are added."""
    for clipping in clippings:
        name = clipping.name_of(module, optimizer)
        if name in clipping.at_work:
            return partial(clipping.at_work.__getitem__, name)
    return None


def _is_last_epoch(trainer: Trainer) -> bool:
    epochs = trainer.max_epochs
    return epochs is not None and epochs > 0 and trainer.current_epoch + 1 >= epochs
