"""From a name and arguments to an optimiser class whose arguments are known to be right."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.optimizers.decoupled import SGDW
from lightning_solver.plain import FrozenDict, conform, freeze, import_dotted

_OWN: Mapping[str, type[Optimizer]] = {"SGDW": SGDW}
"""The optimisers of this package, by short name."""


@dataclass(frozen=True)
class Slot:
    """Where a scheduled option is kept in a parameter group: its key, and its place if the value is a tuple."""

    key: str
    index: int | None = None

    def read(self, options: Mapping[str, Any]) -> float:
        """The option's value in a group."""
        value = options[self.key]
        return float(value if self.index is None else value[self.index])

    def write(self, group: dict[str, Any], value: float) -> None:
        """Set the option in a group of an optimiser."""
        held = group[self.key]
        if self.index is not None:
            group[self.key] = (*held[: self.index], value, *held[self.index + 1 :])
        elif isinstance(held, Tensor):
            held.fill_(value)  # a tensor that a captured graph or a compiled step reads
        else:
            group[self.key] = value


@dataclass(frozen=True)
class Recipe:
    """An optimiser that can be built for any parameters.

    Args:
        cls: The class.
        args: Its checked arguments, without ``params``.
        defaults: Every option of a parameter group and its value where no rule changes it.
        hints: Annotations of the arguments, where the class has them.
        takes: Names of the arguments.
    """

    cls: type[Optimizer]
    args: Mapping[str, Any]
    defaults: Mapping[str, Any]
    hints: Mapping[str, Any]
    takes: frozenset[str]

    def check_option(self, option: str, value: Any, where: str) -> Any:
        """``value`` as the optimiser takes it for ``option``.

        Raises:
            SolverError: No such option, a wrong type, or a learning rate or weight decay below 0.
        """
        if option not in self.defaults:
            do = suggestion(option, self.defaults, "options")
            raise SolverError(where, f"{self.cls.__name__} has no option {option}", got=repr(option), do=do)
        if option not in self.hints and _is_number(self.defaults[option]) and not _is_number(value):
            raise SolverError(where, "must be a number", got=repr(value), do="give a number")
        return _checked(option, value, self.hints, where)

    def slot(self, option: str, where: str) -> Slot:
        """Where an optimiser keeps a numeric option.

        Raises:
            SolverError: It has no such option, or the option is not a number.
        """
        defaults = self.defaults
        if option in ("momentum", "beta2") and option not in defaults and _is_pair(defaults.get("betas")):
            return Slot("betas", 0 if option == "momentum" else 1)
        numeric = [name for name, value in defaults.items() if _is_number(value)]
        if _is_pair(defaults.get("betas")):
            numeric += ["beta2"] if "momentum" in defaults else ["momentum", "beta2"]
        if option in defaults and option in numeric:
            return Slot(option)
        name = self.cls.__name__
        if option in defaults:
            do = (
                "schedule momentum (betas[0]) or beta2 (betas[1])" if option == "betas" else suggestion(option, numeric)
            )
            raise SolverError(where, f"{option} of {name} is not a number", got=repr(defaults[option]), do=do)
        do = suggestion(option, numeric, "options")
        raise SolverError(where, f"{name} has no option {option}", got=repr(option), do=do)

    def changed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a group that are not the optimiser's own."""
        return {option: value for option, value in options.items() if value != self.defaults[option]}

    def try_options(self, options: Mapping[str, Any], where: str) -> None:
        """Let the class check the options of a group as if they were its own, as it never looks at those of a group.

        Raises:
            SolverError: The class refuses them.
        """
        changed = {name: value for name, value in self.changed(options).items() if name in self.takes}
        if changed:
            _try(self.cls, _one_number(), {**self.args, **changed}, where)

    def try_groups(self, groups: Sequence[tuple[Mapping[str, Any], Sequence[Tensor]]]) -> None:
        """Build the optimiser once over stand-ins that have the shapes of the parameters and take no memory.

        Raises:
            SolverError: The class refuses the number of groups or the shape of a parameter.
        """
        kinds = dict.fromkeys((tensor.shape, tensor.dtype) for _, tensors in groups for tensor in tensors)
        made = [torch.zeros((), dtype=dtype).expand(shape).requires_grad_() for shape, dtype in kinds]
        stand_ins: list[dict[str, Any]] = [{"params": made} | self.changed(groups[0][0])]
        if len(groups) > 1:  # two stand for many: torch compares each group with all that were there before it
            shape, dtype = groups[1][1][0].shape, groups[1][1][0].dtype
            other = torch.zeros((), dtype=dtype).expand(shape).requires_grad_()
            stand_ins.append({"params": [other]} | self.changed(groups[1][0]))
        _try(self.cls, stand_ins, self.args, "optimizer.name")

    def build(self, groups: list[dict[str, Any]], extra: Mapping[str, Any] | None = None) -> Optimizer:
        """The optimiser over parameter groups.

        Args:
            groups: The groups.
            extra: Further arguments, such as those of an :class:`.Implementation`; they win over its own.
        """
        return self.cls(groups, **{**self.args, **(extra or {})})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) >= 2 and all(map(_is_number, value))


def resolve_optimizer(spec: OptimizerSpec, lr: float | None = None, where: str = "optimizer") -> Recipe:
    """Find the class that ``spec`` names and check its arguments, by trying them on a parameter of one number.

    Args:
        spec: Name and arguments.
        lr: Learning rate in place of the one in the arguments.
        where: Path for error messages.

    Raises:
        SolverError: An unknown class or argument, a wrong type, or what the class itself refuses.
    """
    cls = _find(spec.name, f"{where}.name")
    signature = inspect.signature(cls.__init__)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    names = [n for n, p in signature.parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][2:]
    args = dict(spec.args)
    places = {name: f"{where}.args.{name}" for name in args}
    if lr is not None:
        args["lr"], places["lr"] = lr, "lr"
    hints = _hints(cls.__init__)
    for name, value in args.items():
        if name not in names and not takes_any:
            do = suggestion(name, names, "arguments")
            raise SolverError(places[name], f"{cls.__name__} has no argument {name}", got=repr(name), do=do)
        args[name] = _checked(name, value, hints, places[name])
    missing = [
        name for name in names if signature.parameters[name].default is inspect.Parameter.empty and name not in args
    ]
    if missing:
        _refuse_wrapper(cls, f"{where}.name")
        raise SolverError(f"{where}.args", f"{cls.__name__} needs {' and '.join(missing)}", got=repr(args), do="add it")
    trial = _try(cls, _one_number(), args, f"{where}.args")
    _refuse_without_hooks(trial, f"{where}.name")
    defaults = {name: value for name, value in trial.defaults.items() if name != "params"}
    return Recipe(cls, FrozenDict(args), freeze(defaults), FrozenDict(hints), frozenset(names))


def _try(cls: type[Optimizer], params: list[Any], args: Mapping[str, Any], where: str) -> Optimizer:
    try:
        return cls(params, **args)
    except Exception as error:  # whatever a third party's class may raise for what it does not like
        _refuse_wrapper(cls, f"{where.partition('.')[0]}.name")
        got = ", ".join(f"{name}={value!r}" for name, value in args.items()) or "no arguments"
        raise SolverError(where, f"{cls.__name__} refuses them: {error}", got=got, do="correct them") from error


def _one_number() -> list[dict[str, Any]]:
    """The smallest group that a class can be tried on; some ask for matrices."""
    return [{"params": [torch.nn.Parameter(torch.zeros(1, 1))]}]


def _refuse_wrapper(cls: type[Optimizer], where: str) -> None:
    """Say of a class that has failed that it never takes parameters, where its first argument shows that.

    Raises:
        SolverError: It is made from something else, such as a module or another optimiser.
    """
    first = list(inspect.signature(cls.__init__).parameters)[1:2]
    if first and first[0] in ("model", "module", "optimizer", "base_optimizer"):
        do = "name an optimiser whose first argument are the parameters, or build this one in your own code"
        raise SolverError(
            where, f"{cls.__name__} is not made from parameters", got=f"{first[0]} as first argument", do=do
        )


def _refuse_without_hooks(trial: Optimizer, where: str) -> None:
    """Refuse an optimiser whose state could not be carried over.

    Raises:
        SolverError: It has no hooks.
    """
    try:
        trial.register_state_dict_post_hook(_unchanged).remove()
    except AttributeError as error:
        what = f"{type(trial).__name__} has none of torch's hooks, with which its state is carried over"
        do = "call super().__init__(params, defaults) in its __init__, or name another optimiser"
        raise SolverError(where, what, got=str(error), do=do) from error


def _unchanged(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    return state_dict


def _find(name: str, where: str) -> type[Optimizer]:
    if "." not in name:
        found = _OWN.get(name) or getattr(torch.optim, name, None)
        if isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer:
            return found
        known = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, Optimizer)]
        known = [*known, *_OWN]
        known.remove("Optimizer")
        do = f"{suggestion(name, known, 'optimisers')} (an optimiser of another package is named by its dotted path)"
        raise SolverError(where, "torch.optim has no optimiser of this name", got=repr(name), do=do)
    cls = import_dotted(name, where)
    if not (isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer):
        raise SolverError(where, "is not a torch.optim.Optimizer", got=repr(name), do="name an optimiser class")
    return cls


def _hints(init: Callable[..., None]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(init)
    except (NameError, TypeError):  # annotations that are only there for a type checker
        return {}


def _checked(name: str, value: Any, hints: Mapping[str, Any], where: str) -> Any:
    if name in hints:
        value = conform(value, hints[name], where)
    if name in ("lr", "weight_decay"):
        value = conform(value, float, where)
        if value < 0:
            raise SolverError(where, "must not be negative", got=repr(value), do="give a value >= 0")
    return value
