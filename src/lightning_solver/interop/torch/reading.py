"""Reading a config: which schedulers are stepped, and when."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings, refuse_other_peers
from lightning_solver.interop.reading import Call, Name, read_calls, read_python
from lightning_solver.interop.torch.averages import CLASS, average_call
from lightning_solver.interop.torch.averages import Made as MadeAverage
from lightning_solver.interop.torch.clipping import (
    FUNCTIONS,
    Clips,
    accumulated_in,
    add_clip,
    find_calls,
    of_trainer,
    read_any,
)
from lightning_solver.interop.torch.instances import instance, is_instance
from lightning_solver.interop.torch.made import Made
from lightning_solver.interop.torch.optimizer import OptimizerReader
from lightning_solver.interop.torch.optimizer_forms import is_optimizer, is_optimizer_call
from lightning_solver.interop.torch.script import read_script, text_of
from lightning_solver.interop.torch.signatures import SIGNATURES
from lightning_solver.interop.torch.updates import Calls, calls_in


@dataclass(frozen=True)
class Entry:
    """One scheduler that the training loop steps by itself."""

    call: Call
    where: str
    interval: str | None = None
    frequency: int = 1
    monitor: str | None = None


_LIGHTNING = ("interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")


_HOLDERS = ("schedulers", "scheduler", "lr_scheduler", "lr_schedulers", "lr_scheduler_config", "swa_scheduler")


_LENGTHS = {"epochs": ("epochs", "max_epochs", "num_epochs"), "total_iters": ("max_steps", "total_iters", "max_iters")}


class Given:
    """What a config says."""

    def __init__(self, facts: Facts, notes: Notes) -> None:
        self.facts, self.notes = facts, notes
        self.entries: list[Entry] = []
        self.step_on: str | None = None
        self.step_call: tuple[str, int] | None = None
        self.swa_start: int | None = None
        self.lengths: dict[str, Any] = {}
        self.optimizers: list[Made] = []
        self.optimizer: Made | None = None
        self.averages: list[MadeAverage] = []
        self.calls = Calls()
        self.clips = Clips()
        self.accumulated: int | None = None
        self._instances: dict[int, Call] = {}

    def read(self, config: Any, where: str) -> None:
        """Take in a config, or a part of one."""
        if isinstance(config, Made):
            self.optimizers.append(config)
        elif is_optimizer(config):
            self.optimizers.append(OptimizerReader(self.notes).instance(config, where))
        elif is_optimizer_call(config):
            self.optimizers.append(OptimizerReader(self.notes).called(config, where))
        elif isinstance(config, str) and "(" in config:
            self.read_text(config, where)
        elif (average := average_call(config, where)) is not None:
            self._add_average(average, where)
        elif isinstance(config, Mapping) and not _is_call(config):
            self._mapping(config, where)
        elif isinstance(config, (list, tuple)):
            for i, item in enumerate(config):
                self.read(item, f"{where}[{i}]")
        else:
            self._add(self._call(config, where), where)
        self._drop_nested()

    def _drop_nested(self) -> None:
        """Schedulers that are arguments of others are stepped by these."""
        nested = {id(inner) for entry in self.entries for inner in inside(entry.call)}
        self.entries = [entry for entry in self.entries if id(entry.call) not in nested]

    def read_text(self, text: str, where: str) -> None:
        """Take in a script: its optimisers, and what else is in it."""
        calls = calls_in(text)
        self.calls.updates.update(calls.updates)
        self.calls.statistics.update(calls.statistics)
        used = {*calls.names} - {"swa_start", "step_on", "step_call"}
        for found in find_calls(text, FUNCTIONS):
            add_clip(self.clips, found, found.call.name, self.notes)
            used |= found.names
        accumulated_in(text, self.notes)
        script = read_script(text)
        if script is not None:
            read = [OptimizerReader(self.notes).written(call) for call in script.optimizers]
            self.optimizers += [made for made in read if made is not None]
            for changed in script.changed:
                do = "is not mapped: give the groups their values where the optimiser is made"
                self.notes.unmapped(changed, do)
            text = script.rest
        data = read_python(text, where)
        if data or script is None:
            used |= script.used if script is not None else set()
            self._mapping(data, where, text=True, used=used)
        self._drop_nested()

    def _call(self, config: Any, where: str) -> Call:
        if is_instance(config):
            return instance(config, where, self._instances)
        return read_calls(config, where)[0]

    def _add(self, call: Call, where: str, **wrapped: Any) -> None:
        if all(call is not entry.call for entry in self.entries):
            self.entries.append(Entry(call, where, **wrapped))

    def _add_average(self, call: Call, where: str) -> None:
        if all(call is not made.call for made in self.averages):
            self.averages.append(MadeAverage(call, where))

    def _mapping(self, config: Mapping[str, Any], where: str, text: bool = False, used: Iterable[str] = ()) -> None:
        refuse_other_peers(config, "from_torch", where)
        if "scheduler" in config and any(key in config for key in _LIGHTNING):
            self._wrapped(config, where)
            return
        if config and all(key in SIGNATURES for key in config):
            for key, arguments in config.items():
                path = where if len(config) == 1 else f"{where}.{key}"
                self._add(Call(key, (), arguments if isinstance(arguments, Mapping) else {}), path)
            return
        settings = Settings(config, "" if where == "config" else where, self.notes)
        settings.ignore(*used)
        for key, value in config.items():
            if key == "calls" and isinstance(value, list):
                settings.ignore(key)
                for i, call in enumerate(value):
                    self._statement(call, where if len(value) == 1 else f"{where}[{i}]")
            elif not text and (key == "clip" or key in FUNCTIONS):
                settings.ignore(key)
                self._clip(value if key == "clip" else {key: value}, settings.path(key))
            elif isinstance(value, Call):
                settings.ignore(key)
                self._statement(value, settings.path(key) if not text else str(key))
            elif key in ("optimizer", "optimizers") and _says_optimizer(value):
                settings.ignore(key)
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    self.read(one, settings.path(key))
            elif key in _HOLDERS and value is not None:
                settings.ignore(key)
                lightning = key.startswith("lr_scheduler") and isinstance(value, Mapping)
                if lightning and ("scheduler" in value or _is_call(value)):
                    self._wrapped(value if "scheduler" in value else {"scheduler": value}, settings.path(key))
                else:
                    self.read(value, settings.path(key))
            elif (average := average_call(value, str(key))) is not None:
                settings.ignore(key)
                self._add_average(average, settings.path(key))
        self._surroundings(settings)

    def _clip(self, config: Any, where: str) -> None:
        for found in read_any(config, where, FUNCTIONS):
            add_clip(self.clips, found, where, self.notes)

    def _wrapped(self, config: Mapping[str, Any], where: str) -> None:
        """A scheduler as Lightning takes it, once per epoch unless it says otherwise."""
        settings = Settings(config, where, self.notes)
        interval = settings.choice("interval", ("step", "epoch"), "epoch")
        frequency = settings.number("frequency", 1, low=1)
        monitor = settings.take("monitor")
        settings.ignore("scheduler", "name", "strict", "reduce_on_plateau")
        settings.rest()
        before = len(self.entries)
        self.read(settings.needed("scheduler"), where)
        self.entries[before:] = [
            dataclasses.replace(
                entry, interval=interval, frequency=whole_of(frequency, f"{where}.frequency"), monitor=monitor
            )
            for entry in self.entries[before:]
        ]

    def _statement(self, call: Any, where: str) -> None:
        """A call that stands in a text: a scheduler, or something else that the script makes."""
        if not isinstance(call, Call):
            self.read(call, where)
        elif call.name in SIGNATURES:
            self._add(call, where)
        elif call.name == CLASS:
            self._add_average(call, where)
        elif call.name in ("update_parameters", *(made.where for made in self.averages)) or _of_an_average(call):
            pass  # which have been found wherever they stand
        elif call.name in FUNCTIONS:
            pass  # likewise
        elif call.name != "step" and _takes_optimizer(call):
            self._add(call, where)  # a scheduler that is not known: an error where it is built
        else:
            self.notes.unmapped(f"{where}: {call.name}", "is not part of the schedules")

    def _surroundings(self, settings: Settings) -> None:
        if "step_on" in settings:
            self.step_on = settings.choice("step_on", ("step", "epoch"))
        if "step_call" in settings:
            self.step_call = _step_argument(settings.take("step_call"), settings.path("step_call"))
        if "swa_start" in settings:
            self.swa_start = whole_of(settings.number("swa_start"), settings.path("swa_start"))
        trainer = settings.take("trainer")
        if isinstance(trainer, Mapping):
            inner = Settings(trainer, settings.path("trainer"), self.notes)
            self._lengths(inner)
            self.accumulated = of_trainer(inner, self.clips)
            inner.rest(lambda _: "is not part of the schedules")
        self._lengths(settings)
        settings.rest(lambda key: "is not part of the schedules" if key not in _LIKELY else None, _LIKELY)

    def _lengths(self, settings: Settings) -> None:
        for fact, keys in _LENGTHS.items():
            for key in keys:
                value = settings.take(key) if key in settings else None
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
                    self.lengths.setdefault(fact, value)

    def number_of_groups(self) -> int | None:
        """How many groups the optimiser has, where that is known."""
        if self.optimizer is not None:
            groups = self.optimizer.groups
            return len(groups) if all(group.told for group in groups) else None
        base = self.facts.get("base_lr")
        return len(base) if isinstance(base, (list, tuple)) else None

    def rates(self) -> list[float]:
        """The learning rates of the groups, as far as they are known."""
        if self.optimizer is not None:
            return self.optimizer.rates()
        base = self.facts.get("base_lr")
        return list(base) if isinstance(base, (list, tuple)) else [] if base is None else [base]

    def class_of_optimizer(self) -> str | None:
        """The class of the optimiser, where it is known."""
        known = self.facts.get("optimizer") if self.optimizer is None else self.optimizer.spec.name
        return None if known is None else str(known)

    def length_of_run(self) -> tuple[Fraction | None, Fraction | None]:
        """Optimiser steps and epochs of the run, where they are known."""

        def fact(name: str) -> Fraction | None:
            value = self.facts.get(name)
            return None if value is None else exact(value)

        per_step = fact("batches_per_step") or Fraction(self.accumulated or 1)
        batches, epoch = fact("total_batches"), fact("iters_per_epoch")
        steps = fact("total_iters") or (batches / per_step if batches else None)
        epochs = fact("epochs")
        if steps is None and epochs is None:
            steps, epochs = (exact(self.lengths[k]) if k in self.lengths else None for k in ("total_iters", "epochs"))
        if epoch is not None:
            steps = steps or (None if epochs is None else epochs * epoch / per_step)
            epochs = epochs or (None if steps is None else steps * per_step / epoch)
        return steps, epochs


_LIKELY = ("optimizer", "step_on", "step_call", "swa_start", *_HOLDERS)


def _of_an_average(call: Call) -> bool:
    """Whether a call is one of ``update_bn`` with an average."""
    models = (call.kwargs.get("model"), *call.args[1:2])
    return call.name == "update_bn" and any(isinstance(model, Call) and model.name == CLASS for model in models)


def _is_call(config: Any) -> bool:
    return isinstance(config, Mapping) and any(
        key in config and "scheduler" not in config for key in ("class_path", "type", "_target_", "name")
    )


def _says_optimizer(value: Any) -> bool:
    """Whether a value under ``optimizer`` is one that is read, and not just a name."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_says_optimizer, value))
    return (
        isinstance(value, Made)
        or is_optimizer(value)
        or is_optimizer_call(value)
        or text_of(value) is not None
        or _is_call(value)
    )


def _takes_optimizer(call: Call) -> bool:
    first = call.kwargs.get("optimizer", call.args[0] if call.args else None)
    return isinstance(first, Name) and first.text.rpartition(".")[2].startswith("opt")


def inside(call: Call) -> Iterator[Call]:
    """The calls among the arguments of a call."""
    for value in (*call.args, *call.kwargs.values()):
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(inner, Call):
                yield inner
                yield from inside(inner)


def _step_argument(text: Any, where: str) -> tuple[str, int] | None:
    """What ``scheduler.step(...)`` is given: ``("epoch", 1)`` for epoch + 1, ``("fraction", 0)`` for epoch + i / n."""
    do = "write scheduler.step(), scheduler.step(epoch) or scheduler.step(epoch + i / iters)"
    try:
        node = ast.parse(str(text), mode="eval").body
    except SyntaxError:
        raise SolverError(where, "is not a call", got=repr(text), do=do) from None
    if isinstance(node, ast.Call):
        if not node.args:
            return None
        node = node.args[0]
    if isinstance(node, ast.Name):
        return ("epoch", 0)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.left, ast.Name):
        share = node.right
        if isinstance(share, ast.Constant) and share.value == 1:
            return ("epoch", 1)
        if isinstance(share, ast.BinOp) and isinstance(share.op, ast.Div):
            if isinstance(share.left, ast.Name):
                return ("fraction", 0)
            plus = share.left
            if isinstance(plus, ast.BinOp) and isinstance(plus.op, ast.Add) and ast.unparse(plus.right) == "1":
                return ("fraction", 1)
    raise SolverError(where, "is not a call that is understood", got=repr(text), do=do)


def whole_of(value: Any, where: str, low: int | None = None) -> int:
    """A whole number, at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise SolverError(where, "must be a whole number", got=repr(value), do="correct it")
    if low is not None and value < low:
        raise SolverError(where, f"must be at least {low}", got=repr(value), do="correct it")
    return int(value)
