"""What the user said: frozen, plain data that reads and writes as one block of YAML."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_solver.durations import Rational, RunLength
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.plain import Plain, read, thaw
from lightning_solver.schedules.base import Floats, Schedule, run_window
from lightning_solver.schedules.join import contains, lay
from lightning_solver.schedules.plateau import Feed, Plateau

if TYPE_CHECKING:
    from torch import nn

    from lightning_solver.plan import Plan

VERSION = 1
Kind = Literal["bias", "norm", "embedding", "position", "token", "depthwise"]
KINDS: tuple[str, ...] = typing.get_args(Kind)


@dataclass(frozen=True)
class OptimizerSpec(Plain):
    """The optimiser.

    Args:
        name: A class of ``torch.optim`` by name (``AdamW``), or the dotted path of any optimiser class.
        args: Its arguments but ``params``, checked against its signature when the plan is made.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule(Plain):
    """Settings for some of the parameters. A parameter is selected if every selector that is given holds.

    Args:
        match: Glob, or globs of which one holds, on the qualified name; ``*`` matches dots too, ``backbone.*``.
        regex: Regular expression, or several of which one holds, found anywhere in the qualified name.
        kind: What the parameter is: ``bias``, ``norm`` (weight or bias of a normalisation layer), ``embedding``,
            ``position`` (position tables), ``token`` (class and mask tokens), ``depthwise`` (depthwise convolution).
            Several: one holds. May select nothing.
        module_class: Class, or base class, of the module that holds the parameter: its name, or its dotted path.
        ndim: Number of dimensions of the parameter.
        name: What the rule is called in group names and tables.
        lr: Learning rate of the selected parameters, in place of the optimiser's.
        lr_scale: Factor of the optimiser's learning rate.
        weight_decay: Weight decay, in place of the optimiser's.
        weight_decay_scale: Factor of the optimiser's weight decay.
        set: Any other option of the optimiser, in place of the optimiser's value.
        scale: Factors of any other numeric option of the optimiser.
        schedules: Schedules of the selected parameters, in place of the solver's for the same options.
        unmatched: ``allow`` if the selectors may select nothing.
    """

    match: str | Sequence[str] | None = None
    regex: str | Sequence[str] | None = None
    kind: Kind | Sequence[Kind] | None = None
    module_class: str | Sequence[str] | None = None
    ndim: int | Sequence[int] | None = None
    name: str | None = None
    lr: float | None = None
    lr_scale: float | None = None
    weight_decay: float | None = None
    weight_decay_scale: float | None = None
    set: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    schedules: dict[str, Schedule | Sequence[Schedule]] = field(default_factory=dict)
    unmatched: Literal["error", "allow"] = "error"

    def check(self) -> None:
        if not self.selectors():
            do = f"give one of {', '.join(SELECTORS)}; for every parameter use optimizer.args"
            raise SolverError("Rule", "selects nothing, as it has no selector", do=do)
        if not self.settings() and not self.schedules:
            raise SolverError("Rule", "changes nothing", do="set, scale or schedule at least one option")
        _refuse_empty(self.schedules, "Rule.schedules")
        for selector in SELECTORS:
            if self.selectors().get(selector) == ():
                raise self._error(selector, "is empty", got=[], do="give at least one, or leave it out")
        for pattern in self.selectors().get("regex", ()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise self._error(
                    "regex", f"is not a regular expression ({error})", got=pattern, do="mend it"
                ) from None
        for option in ("lr", "weight_decay"):
            value, factor = getattr(self, option), getattr(self, f"{option}_scale")
            if value is not None and factor is not None:
                got = f"{option} {value} and {option}_scale {factor}"
                raise SolverError(f"Rule.{option}", "is both set and scaled", got=got, do="give one of the two")
            for name, number in ((option, value), (f"{option}_scale", factor)):
                if number is not None and number < 0:
                    raise self._error(name, "must not be negative", got=number, do="give a value >= 0")
            for mapping in ("set", "scale"):
                if option in getattr(self, mapping):
                    do = f"write {option if mapping == 'set' else option + '_scale'} of the rule instead"
                    raise self._error(f"{mapping}.{option}", "has a field of its own", do=do)
        for option in self.set.keys() & self.scale.keys():
            raise self._error(f"set.{option}", "is both set and scaled", do="give one of the two")

    def selectors(self) -> dict[str, tuple[Any, ...]]:
        """The selectors that are given: name -> the choices, of which one has to hold."""
        given = {name: getattr(self, name) for name in SELECTORS}
        return {
            name: value if isinstance(value, tuple) else (value,) for name, value in given.items() if value is not None
        }

    def settings(self) -> dict[str, tuple[Literal["set", "scale"], Any]]:
        """Option -> how the rule changes it and the value or factor."""
        found: dict[str, tuple[Literal["set", "scale"], Any]] = {}
        for option in ("lr", "weight_decay"):
            if getattr(self, option) is not None:
                found[option] = ("set", getattr(self, option))
            if getattr(self, f"{option}_scale") is not None:
                found[option] = ("scale", getattr(self, f"{option}_scale"))
        found.update({option: ("set", value) for option, value in self.set.items()})
        found.update({option: ("scale", factor) for option, factor in self.scale.items()})
        return found

    def short_name(self) -> str | None:
        """The rule's name, or what its one glob says apart from wildcards; ``None`` where that is nothing.

        Example:
            >>> Rule(match="backbone.*", lr_scale=0.1).short_name()
            'backbone'
        """
        globs = self.selectors().get("match", ())
        return self.name or (re.sub(r"[*?\[\]!.]+", ".", globs[0]).strip(".") if len(globs) == 1 else None) or None

    def describe(self) -> str:
        """The rule's name, or its selectors in words.

        Example:
            >>> Rule(kind=["norm", "bias"], ndim=1, weight_decay=0.0).describe()
            'kind norm|bias, ndim 1'
        """
        words = [f"{key} {'|'.join(map(str, choices))}" for key, choices in self.selectors().items()]
        return self.name or ", ".join(words)


SELECTORS = ("match", "regex", "kind", "module_class", "ndim")


@dataclass(frozen=True)
class SolverSpec(Plain):
    """How a model is trained: its optimiser, what each parameter gets, and how every hyper-parameter moves.

    Args:
        optimizer: The optimiser. Without one the spec is good for :meth:`curve`, an error for :meth:`plan`.
        lr: The learning rate, in place of ``optimizer.args.lr``: one number for sweeps, command lines and LR finders.
        rules: Settings for some of the parameters. They apply in order, option by option; the last match wins.
        default_rules: Whether the built-in rule goes before ``rules``: no weight decay on biases and on normalisation
            layers.
        schedules: Option (``lr``, ``weight_decay``, ``momentum``, which stands for ``betas[0]`` where there is no
            momentum, ``beta2``, or any other numeric option) -> a schedule, or a list of phases one after another.
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
    rules: Sequence[Rule] = ()
    default_rules: bool = True
    schedules: dict[str, Schedule | Sequence[Schedule]] = field(default_factory=dict)
    beyond_run: Literal["error", "allow"] = "error"
    version: int = VERSION

    def check(self) -> None:
        if self.version != VERSION:
            do = f"this release reads version {VERSION}: install the release that wrote it"
            raise self._error("version", "is not a version that can be read", got=self.version, do=do)
        if self.lr is not None and self.lr < 0:
            raise self._error("lr", "must not be negative", got=self.lr, do="give a value >= 0")
        _refuse_empty(self.schedules, "SolverSpec.schedules")

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


def _refuse_empty(schedules: Mapping[str, Any], where: str) -> None:
    for option, phases in schedules.items():
        if phases == ():
            do = "give at least one, or leave it out"
            raise SolverError(f"{where}.{option}", "has no phases", got="[]", do=do)


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
