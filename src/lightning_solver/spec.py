"""What the user said: frozen, plain data that reads and writes as one block of YAML."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_solver.accumulation import Accumulation, milestones
from lightning_solver.averaging.average import Average, check_name, find_evaluated
from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.nonfinite import NonFinite, Policy
from lightning_solver.durations import Rational, RunLength
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.factors import LayerDecay
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.plain import Plain, read, thaw
from lightning_solver.rule import Rule, refuse_empty
from lightning_solver.schedules.base import Floats, Schedule, run_window
from lightning_solver.schedules.join import contains, lay
from lightning_solver.schedules.plateau import Feed, Plateau

if TYPE_CHECKING:
    from torch import nn

    from lightning_solver.plan import Plan

VERSION = 1
_POSITIVE = re.compile("[1-9][0-9]*(/[1-9][0-9]*)?")


@dataclass(frozen=True)
class SolverSpec(Plain):
    """How a model is trained: its optimiser, what each parameter gets, and how every hyper-parameter moves.

    Args:
        optimizer: The optimiser. Without one the spec is good for :meth:`curve`, an error for :meth:`plan`.
        lr: The learning rate, in place of ``optimizer.args.lr``: one number for sweeps and command lines. Learning
            rates that rules write out stay.
        base_batch_size: Number of samples in an optimiser step for which every learning rate is meant; for another
            number, over all devices and accumulated batches, they are scaled.
        batch_scaling: ``linear`` in the number of samples (Goyal et al. 2017), or by its square root, ``sqrt``
            (Krizhevsky 2014), which is the choice for adaptive optimisers.
        rules: Settings for some of the parameters. They apply in order, option by option; the last match wins.
        default_rules: Whether the built-in rule goes before ``rules``: no weight decay on biases and on normalisation
            layers.
        layer_decay: Layer-wise decay of the learning rate: the factor from one depth to the one below it, or
            :class:`LayerDecay`. It goes before ``rules``, so that their factors multiply it.
        depth: How the depth of a parameter is known: ``auto`` (the model's own methods, then names that are known),
            the name of a method or naming (see :mod:`lightning_solver.rules.depth`), or regular expressions from the
            input to the head.
        only: Globs of the parameters that this optimiser trains, where another trains the others.
        batches_per_step: Under manual optimisation, how many batches one step of this optimiser takes: ``5``, or
            ``"1/2"`` for two steps a batch.
        tied: Which names of a tensor that has several the rules see: ``any`` of them, or the ``first`` alone.
        schedules: Option (``lr``, ``weight_decay``, ``momentum``, which stands for ``betas[0]`` where there is no
            momentum, ``beta2``, or any other numeric option) -> a schedule, or a list of phases one after another.
        clip: How gradients are clipped: ``GlobalNorm``, ``Value``, ``AGC`` ...; several act one after another.
        nonfinite: What is done when the norm of the gradients is not finite: ``error``, ``skip``, ``zero``, or
            :class:`~lightning_solver.clipping.NonFinite`. By default nothing is looked at.
        accumulate: How many batches make an optimiser step: a number, a mapping such as ``{0: 1, 5ep: 4}``, or
            :class:`~lightning_solver.accumulation.Accumulation`.
        averages: Name -> an average of the weights: ``EMA``, ``SWA`` or ``PowerEMA``.
        beyond_run: ``allow`` if a phase or milestone may lie beyond the end of the run; it becomes a note then.
        version: Version of this format.

    Example:
        >>> spec = SolverSpec.from_dict({
        ...     "optimizer": {"name": "AdamW", "args": {"lr": 0.001}},
        ...     "schedules": {"lr": [
        ...         {"class_path": "Linear", "init_args": {"start": 0.0, "until": "10%"}},
        ...         {"class_path": "Cosine"},
        ...     ]},
        ... })
        >>> SolverSpec.from_dict(spec.to_dict()) == spec
        True
    """

    optimizer: OptimizerSpec | None = None
    lr: float | None = None
    base_batch_size: int | None = None
    batch_scaling: Literal["linear", "sqrt"] = "linear"
    rules: Sequence[Rule] = ()
    default_rules: bool = True
    layer_decay: float | LayerDecay | None = None
    depth: str | Sequence[str] = "auto"
    tied: Literal["any", "first"] = "any"
    only: str | Sequence[str] | None = None
    batches_per_step: int | str | None = None
    schedules: dict[str, Schedule | Sequence[Schedule]] = field(default_factory=dict)
    clip: Clip | Sequence[Clip] | None = None
    nonfinite: NonFinite | Policy | None = None
    accumulate: Accumulation | int | dict[int | str, int] | None = None
    averages: dict[str, Average] = field(default_factory=dict)
    beyond_run: Literal["error", "allow"] = "error"
    version: int = VERSION

    def check(self) -> None:
        if self.version != VERSION:
            do = f"this release reads version {VERSION}: install the release that wrote it"
            raise self._error("version", "is not a version that can be read", got=self.version, do=do)
        if self.lr is not None and self.lr < 0:
            raise self._error("lr", "must not be negative", got=self.lr, do="give a value >= 0")
        if self.base_batch_size is not None and self.base_batch_size < 1:
            raise self._error("base_batch_size", "must be at least 1", got=self.base_batch_size, do="correct it")
        if self.batch_scaling != "linear" and self.base_batch_size is None:
            do = "give base_batch_size too: the number of samples in a step for which lr is meant"
            raise self._error("batch_scaling", "is given without base_batch_size", got=self.batch_scaling, do=do)
        if isinstance(self.layer_decay, float):
            try:
                LayerDecay(self.layer_decay)
            except SolverError as error:
                raise error.moved("LayerDecay.rate", "SolverSpec.layer_decay") from None
        if self.only == ():
            raise self._error("only", "is empty", got=[], do="give at least one glob, or leave it out")
        if self.batches_per_step is not None and not _POSITIVE.fullmatch(str(self.batches_per_step)):
            do = "give a whole number, or a fraction such as 1/2"
            raise self._error("batches_per_step", "is not a number of batches", got=self.batches_per_step, do=do)
        if self.clip == ():
            raise self._error("clip", "is empty", got=[], do="give at least one, or leave it out")
        if self.accumulate is not None:
            if not isinstance(self.accumulate, Accumulation):
                milestones(self.accumulate, "SolverSpec.accumulate")
            if self.batches_per_step is not None:
                do = "under manual optimisation one of them is enough, under automatic optimisation drop the latter"
                raise self._error("accumulate", "is given beside batches_per_step", got=thaw(self.accumulate), do=do)
        if self.depth == ():
            raise self._error("depth", "is empty", got=[], do="give regular expressions from input to head, or auto")
        refuse_empty(self.schedules, "SolverSpec.schedules")
        if "clip" in self.schedules:
            do = "write it as schedule: of the clipping itself"
            raise self._error("schedules.clip", "the limit of a clipping is no option of the optimiser", do=do)
        for name in self.averages:
            check_name(name, "SolverSpec.averages")
        find_evaluated(self.averages, "SolverSpec.averages")

    def to_dict(self) -> dict[str, Any]:
        """Plain data (dicts, lists, texts, numbers) that :meth:`from_dict` reads back; defaults are left out.

        The version is always written, so that a later release knows what the defaults were.
        """
        return {**thaw(self), "version": self.version}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "solver") -> SolverSpec:
        """Read what :meth:`to_dict` wrote, or the same block from YAML.

        Args:
            data: The block.
            where: Its path, for error messages.

        Raises:
            SolverError: An unknown key, a value of the wrong type, or one that makes no sense.
        """
        if not isinstance(data, Mapping):
            raise SolverError(where, "must be a mapping", got=repr(data), do="write the block as key: value")
        return read(cls, data, where)

    def replace(self, **changes: Any) -> SolverSpec:
        """A spec like this one with some of its fields changed."""
        return dataclasses.replace(self, **changes)

    def at_rate(self, lr: float, before: float) -> SolverSpec:
        """The same with another learning rate, and those that rules write out moved in proportion.

        Args:
            lr: The learning rate of the optimiser itself.
            before: What it is now.

        Example:
            >>> spec = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1}), rules=[Rule(match="head.*", lr=1.0)])
            >>> spec.at_rate(0.2, before=0.1).rules[0].lr
            2.0
        """
        factor = lr / before if before else 1.0
        return self.replace(lr=lr, rules=tuple(_at_rate(rule, factor) for rule in self.rules))

    def decay(self) -> LayerDecay | None:
        """The layer-wise decay, where there is one."""
        return LayerDecay(self.layer_decay) if isinstance(self.layer_decay, float) else self.layer_decay

    def accumulation(self) -> Accumulation | None:
        """How gradients are accumulated, where the spec says so."""
        given = self.accumulate
        return Accumulation(given) if isinstance(given, (int, Mapping)) else given

    def policy(self) -> NonFinite | None:
        """What is done about gradients that are not finite, where the spec says so."""
        return NonFinite(self.nonfinite) if isinstance(self.nonfinite, str) else self.nonfinite

    def own_value(self, option: str) -> Any:
        """What the spec says of an option of the optimiser itself; ``None`` where it says nothing."""
        if option == "lr" and self.lr is not None:
            return self.lr
        args = self.optimizer.args if self.optimizer is not None else {}
        return args[option] if option in args else _in_betas(option, args)

    def plan(
        self,
        module: nn.Module,
        *,
        total_steps: int | None = None,
        steps_per_epoch: Rational | None = None,
        run: RunLength | None = None,
    ) -> Plan:
        """What will happen when ``module`` is trained by this spec.

        Args:
            module: Any module, also on the meta device. It is not changed.
            total_steps: Optimiser steps of the whole run; left out only if no schedule needs it.
            steps_per_epoch: Optimiser steps of an epoch, for durations in epochs.
            run: The length of the run, in place of the two numbers, where epochs differ.

        Raises:
            SolverError: Whatever can be found wrong before the first step.
        """
        from lightning_solver.plan import make_plan

        return make_plan(self, module, run_length(run, total_steps, steps_per_epoch))

    def curve(
        self,
        option: str,
        groups: Sequence[float | Mapping[str, Any]],
        *,
        total_steps: int | None = None,
        steps_per_epoch: Rational | None = None,
        run: RunLength | None = None,
        metrics: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    ) -> Floats:
        """The values of an option over a whole run, without a model.

        Args:
            option: ``lr``, ``weight_decay``, ``momentum`` or another numeric option.
            groups: The base value of each group, or mappings of options to values (``lr``, ``lr_scale``, ``momentum``,
                ...).
            total_steps: Optimiser steps of the whole run.
            steps_per_epoch: Optimiser steps of an epoch, for durations in epochs.
            run: The length of the run, in place of the two numbers.
            metrics: What a ``Plateau`` follows: the value after each epoch, or a mapping of names to such values.

        Returns:
            float64 array of shape (total_steps, len(groups)); row ``i`` holds when step ``i`` (0-based) is taken.

        Raises:
            SolverError: A schedule that does not fit the run, or a group without a base value.
        """
        run = run_length(run, total_steps, steps_per_epoch)
        pairs = [_base_value(option, group, f"groups[{i}]") for i, group in enumerate(groups)]
        bases, scales = [base for base, _ in pairs], [scale for _, scale in pairs]
        schedule = self.schedules.get(option)
        if schedule is None:
            known = suggestion(option, self.schedules, "schedules") if self.schedules else "the spec has no schedules"
            if option not in ("lr", "weight_decay", "momentum") and not any(isinstance(g, Mapping) for g in groups):
                raise SolverError(f"schedules.{option}", "there is no schedule for it", got=repr(option), do=known)
            return np.tile(np.array(bases, dtype=np.float64), (whole_steps(run), 1))
        own = self.own_value(option)
        if own is not None and not _is_number(own):
            raise SolverError(f"optimizer.args: {option}", "must be a number", got=repr(own), do="correct it")
        feed, where = Feed(), f"schedules.{option}"
        window = run_window(bases, run, where, own=own, beyond=self.beyond_run, scales=scales, feed=feed)
        curve = lay(schedule, window)
        if metrics is not None and not contains(schedule, Plateau):
            raise SolverError("metrics", "no schedule of this option follows a metric", do="leave metrics out")
        if metrics is not None:
            _play(metrics, feed, run)
        values = curve.over(np.arange(whole_steps(run)))
        refuse_negative(values, where)
        return values


def _at_rate(rule: Rule, factor: float) -> Rule:
    """A rule with the learning rates that it writes out multiplied."""
    named = rule.optimizer
    if named is not None and _is_number(named.args.get("lr")):
        named = dataclasses.replace(named, args={**named.args, "lr": named.args["lr"] * factor})
    return dataclasses.replace(rule, optimizer=named, lr=None if rule.lr is None else rule.lr * factor)


def refuse_negative(values: Floats, where: str) -> None:
    """Refuse a curve that goes below 0, as a sum or a chain may.

    Raises:
        SolverError: It does.
    """
    if values.size and values.min() < -1e-12 * max(float(values.max()), 0.0):  # less is rounding
        raise SolverError(where, "goes below 0", got=f"{values.min():g}", do="mend its terms")


def _play(metrics: Sequence[float] | Mapping[str, Sequence[float]], feed: Feed, run: RunLength) -> None:
    """Feed the trackers of a curve with one value after each epoch."""
    given = metrics if isinstance(metrics, Mapping) else dict.fromkeys(feed.monitors, metrics)
    for name in feed.monitors - given.keys():
        got = ", ".join(map(repr, given)) or "none"
        raise SolverError("metrics", f"a plateau follows {name}, which is not among them", got=got, do=f"add {name}")
    for epoch in range(max(map(len, given.values()), default=0)):
        values = {name: float(series[epoch]) for name, series in given.items() if epoch < len(series)}
        feed.take(math.ceil(run.steps_at_epoch(Fraction(epoch + 1), "metrics")), values)


def _in_betas(option: str, options: Mapping[str, Any]) -> Any:
    """What ``betas`` say of ``momentum`` or ``beta2``; ``None`` where they say nothing."""
    betas, index = options.get("betas"), {"momentum": 0, "beta2": 1}.get(option)
    if index is None or betas is None:
        return None
    if not isinstance(betas, (list, tuple)):
        return {"betas": betas}  # no number: whoever asks refuses it
    return betas[index] if index < len(betas) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _base_value(option: str, group: float | Mapping[str, Any], where: str) -> tuple[float, float]:
    """The base value of a group, its scale included, and the scale."""
    if not isinstance(group, Mapping):
        if not _is_number(group):
            raise SolverError(where, "is neither a base value nor a mapping", got=repr(group), do="give a number")
        return float(group), 1.0
    value = group[option] if option in group else _in_betas(option, group)
    if not _is_number(value):
        raise SolverError(f"{where}.{option}", "the group has no base value", got=repr(dict(group)), do=f"add {option}")
    scale = float(group.get(f"{option}_scale", 1.0))
    return float(value) * scale, scale


def run_length(run: RunLength | None, total_steps: int | None, steps_per_epoch: Rational | None) -> RunLength:
    """The run's length from either way of giving it."""
    if run is None:
        return RunLength(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    if not isinstance(run, RunLength):
        raise SolverError("run", "must be a RunLength", got=repr(run), do="give one, or total_steps")
    if total_steps is not None or steps_per_epoch is not None:
        raise SolverError("run", "is given beside total_steps or steps_per_epoch", do="give one or the other")
    return run


def whole_steps(run: RunLength) -> int:
    """The number of steps of a run whose length is known."""
    total = run.known_total("total_steps")
    if total != int(total):
        raise SolverError("total_steps", "must be a whole number", got=str(total), do="correct it")
    return int(total)


def difference(old: SolverSpec, new: SolverSpec) -> list[str]:
    """What differs between two specs, a line for each setting: ``path: old -> new``.

    Example:
        >>> difference(SolverSpec(lr=0.1), SolverSpec(lr=0.2))
        ['lr: 0.1 -> 0.2']
    """
    before, after = _flattened(thaw(old)), _flattened(thaw(new))
    paths = [*before, *(path for path in after if path not in before)]
    return [
        f"{path}: {before.get(path, '(not set)')} -> {after.get(path, '(not set)')}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _flattened(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, Mapping) and data:
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in data.items()]
    elif isinstance(data, list) and data and any(isinstance(value, (Mapping, list)) for value in data):
        items = [(f"{path}[{i}]", value) for i, value in enumerate(data)]
    else:
        return {path: data} if path else {}
    return {inner: leaf for key, value in items for inner, leaf in _flattened(value, key).items()}
