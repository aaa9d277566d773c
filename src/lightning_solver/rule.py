"""Rules: which parameters are selected, and what they get."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_solver.durations import Duration
from lightning_solver.errors import SolverError
from lightning_solver.factors import Factor
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.plain import Plain
from lightning_solver.schedules.base import Schedule

Kind = Literal["bias", "norm", "embedding", "position", "token", "depthwise", "offset", "flat", "head", "hidden"]
KINDS: tuple[str, ...] = typing.get_args(Kind)
SELECTORS = ("match", "regex", "kind", "module_class", "inside", "ndim", "depth", "listed_by")

_DEPTH = re.compile(r"(?:(?P<sign><=|>=|<|>)(?P<bound>[0-9]+)|(?P<first>[0-9]+)-(?P<last>[0-9]+))")


@dataclass(frozen=True)
class Selector(Plain):
    """Which parameters: one is selected if every selector that is given holds.

    Args:
        match: Glob, or globs of which one holds, on the qualified name; ``*`` matches dots too, ``backbone.*``.
        regex: Regular expression, or several of which one holds, found anywhere in the qualified name.
        kind: What the parameter is: ``bias``, ``norm`` (weight or bias of a normalisation layer), ``embedding``,
            ``position`` (position tables), ``token`` (class and mask tokens), ``depthwise`` (weight or bias of a
            depthwise convolution), ``offset`` (of the convolution that gives a deformable one its offsets), ``flat``
            (at most one dimension), ``head`` (the layer that gives the output), ``hidden`` (a matrix that is none of
            these). Several: one holds. May select nothing.
        module_class: Class, or base class, of the module that holds the parameter: its name, or its dotted path.
        inside: Class, or base class, of any module around the parameter, the one that holds it included.
        ndim: Number of dimensions of the parameter.
        depth: How deep it lies, as ``depth`` of the solver says: ``0`` nearest the input, ``-1`` for the greatest
            depth, a stretch ``"0-5"``, or ``"<4"``, ``"<=4"``, ``">4"``, ``">=4"``.
        listed_by: Name of a method of the model, or of a module in it outside of numbered blocks, that lists names or
            globs of parameters: ``no_weight_decay``. The outermost module that has it is asked.
    """

    match: str | Sequence[str] | None = None
    regex: str | Sequence[str] | None = None
    kind: Kind | Sequence[Kind] | None = None
    module_class: str | Sequence[str] | None = None
    inside: str | Sequence[str] | None = None
    ndim: int | Sequence[int] | None = None
    depth: int | str | Sequence[int | str] | None = None
    listed_by: str | Sequence[str] | None = None

    def check(self) -> None:
        if not self.selectors():
            do = f"give one of {', '.join(SELECTORS)}; for every parameter use match: '*'"
            raise SolverError(type(self).__name__, "selects nothing, as it has no selector", do=do)
        for selector, choices in self.selectors().items():
            if choices == ():
                raise self._error(selector, "is empty", got=[], do="give at least one, or leave it out")
        for pattern in self.selectors().get("regex", ()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise self._error(
                    "regex", f"is not a regular expression ({error})", got=pattern, do="mend it"
                ) from None
        for choice in self.selectors().get("depth", ()):
            if isinstance(choice, str) and not _DEPTH.fullmatch(choice):
                raise self._error("depth", "is not a depth", got=choice, do="write 3, -1, 0-5, <4, <=4, >4 or >=4")

    def selectors(self) -> dict[str, tuple[Any, ...]]:
        """The selectors that are given: name -> the choices, of which one has to hold."""
        given = {name: getattr(self, name) for name in SELECTORS}
        return {
            name: value if isinstance(value, tuple) else (value,) for name, value in given.items() if value is not None
        }

    def short_name(self) -> str | None:
        """What its one glob says apart from wildcards; ``None`` where that is nothing."""
        globs = self.selectors().get("match", ())
        return (re.sub(r"[*?\[\]!.]+", ".", globs[0]).strip(".") if len(globs) == 1 else None) or None

    def describe(self) -> str:
        """The selectors in words.

        Example:
            >>> Selector(kind=["norm", "bias"], ndim=1).describe()
            'kind norm|bias, ndim 1'
        """
        return ", ".join(f"{key} {'|'.join(map(str, choices))}" for key, choices in self.selectors().items())


def depth_holds(choice: int | str, depth: int, top: int) -> bool:
    """Whether a parameter lies at the depth that a selector asks for.

    Args:
        choice: What :class:`Selector` takes for ``depth``.
        depth: The parameter's depth, 0 nearest the input.
        top: The greatest depth.

    Example:
        >>> depth_holds("<=3", 3, 12), depth_holds(-1, 12, 12), depth_holds("4-6", 3, 12)
        (True, True, False)
    """
    if isinstance(choice, int):
        return depth == (choice if choice >= 0 else top + 1 + choice)
    found = _DEPTH.fullmatch(choice)
    assert found is not None
    if found["sign"] is None:
        return int(found["first"]) <= depth <= int(found["last"])
    bound = int(found["bound"])
    return {"<": depth < bound, "<=": depth <= bound, ">": depth > bound, ">=": depth >= bound}[found["sign"]]


@dataclass(frozen=True)
class Rule(Selector):
    """Settings for some of the parameters: those that the selectors select, which are those of :class:`Selector`.

    Args:
        unless: Leaves out what it selects, or what one of several selects.
        name: What the rule is called in group names and tables.
        fresh: Whether the rule starts from the optimiser's own values, as if no rule before it had matched; or the
            options for which it does.
        optimizer: The optimiser of the selected parameters, in place of the solver's; without an ``lr`` of its own it
            takes the solver's. Values that earlier rules have set give way to its arguments; their factors stay.
        lr: Learning rate of the selected parameters, in place of the optimiser's.
        lr_scale: Factor of the learning rate; ``{class_path: FanIn, ...}`` for one that differs by parameter.
        weight_decay: Weight decay, in place of the optimiser's.
        weight_decay_scale: Factor of the weight decay.
        set: Any other option of the optimiser, in place of the optimiser's value.
        scale: Factors of any other numeric option of the optimiser.
        schedules: Schedules of the selected parameters, in place of the solver's for the same options.
        frozen: ``true`` leaves the parameters out of the optimiser; ``false`` undoes what earlier rules have frozen.
        frozen_until: Duration from the start in which they are frozen: their gradients are dropped, they do not move.
        frozen_from: Point of the run from which on they are frozen.
        unfreeze_every: Duration of gradual unfreezing from the top: the greatest depth is trained from the start, and
            after each such duration the next depth below it too (Howard & Ruder 2018, "ULMFiT").
        unmatched: ``allow`` if the selectors may select nothing.
    """

    unless: Selector | Sequence[Selector] | None = None
    name: str | None = None
    fresh: bool | Sequence[str] = False
    optimizer: OptimizerSpec | None = None
    lr: float | None = None
    lr_scale: float | Factor | None = None
    weight_decay: float | None = None
    weight_decay_scale: float | Factor | None = None
    set: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, float | Factor] = field(default_factory=dict)
    schedules: dict[str, Schedule | Sequence[Schedule]] = field(default_factory=dict)
    frozen: bool | None = None
    frozen_until: int | str | None = None
    frozen_from: int | str | None = None
    unfreeze_every: int | str | None = None
    unmatched: Literal["error", "allow"] = "error"

    def check(self) -> None:
        super().check()
        freezes = self.freezes()
        if not (self.settings() or self.schedules or freezes or self.optimizer or self.fresh):
            what, do = "changes nothing", "set, scale, schedule or freeze, or name an optimizer"
            raise SolverError("Rule", what, do=do)
        refuse_empty(self.schedules, "Rule.schedules")
        if self.unless == () or self.fresh == ():
            raise self._error("unless" if self.unless == () else "fresh", "is empty", got=[], do="leave it out")
        if len(freezes) > 1 and {*freezes} != {"frozen_until", "frozen_from"}:
            got = " and ".join(f"{name} {value}" for name, value in freezes.items())
            raise SolverError(f"Rule.{next(iter(freezes))}", "is given beside another", got=got, do="give one of them")
        for name, duration in freezes.items():
            if name != "frozen":
                parsed = Duration.parse(duration, f"Rule.{name}")
                if name == "unfreeze_every" and not any(value for value, _ in parsed.terms):
                    raise self._error(name, "must be longer than nothing", got=duration, do="give a length > 0")
        for option in ("lr", "weight_decay"):
            value, factor = getattr(self, option), getattr(self, f"{option}_scale")
            if value is not None and factor is not None:
                got = f"{option} {value} and {option}_scale {factor}"
                raise SolverError(f"Rule.{option}", "is both set and scaled", got=got, do="give one of the two")
            for name, number in ((option, value), (f"{option}_scale", factor)):
                if isinstance(number, float) and number < 0:
                    raise self._error(name, "must not be negative", got=number, do="give a value >= 0")
            for mapping in ("set", "scale"):
                if option in getattr(self, mapping):
                    do = f"write {option if mapping == 'set' else option + '_scale'} of the rule instead"
                    raise self._error(f"{mapping}.{option}", "has a field of its own", do=do)
        for option in self.set.keys() & self.scale.keys():
            raise self._error(f"set.{option}", "is both set and scaled", do="give one of the two")

    def exceptions(self) -> tuple[Selector, ...]:
        """The selectors of what the rule leaves out."""
        if self.unless is None:
            return ()
        return (self.unless,) if isinstance(self.unless, Selector) else tuple(self.unless)

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

    def freezes(self) -> dict[str, Any]:
        """What the rule says of freezing: field -> value."""
        given = {name: getattr(self, name) for name in ("frozen", "frozen_until", "frozen_from", "unfreeze_every")}
        return {name: value for name, value in given.items() if value is not None}

    def short_name(self) -> str | None:
        """The rule's name, or what its one glob says apart from wildcards; ``None`` where that is nothing.

        Example:
            >>> Rule(match="backbone.*", lr_scale=0.1).short_name()
            'backbone'
        """
        return self.name or super().short_name()

    def describe(self) -> str:
        """The rule's name, or its selectors in words.

        Example:
            >>> Rule(kind=["norm", "bias"], unless={"match": "head.*"}, weight_decay=0.0).describe()
            'kind norm|bias, unless match head.*'
        """
        words = [super().describe(), *(f"unless {selector.describe()}" for selector in self.exceptions())]
        return self.name or ", ".join(words)


def refuse_empty(schedules: dict[str, Any], where: str) -> None:
    """Refuse an option without phases.

    Raises:
        SolverError: An empty list.
    """
    for option, phases in schedules.items():
        if phases == ():
            do = "give at least one, or leave it out"
            raise SolverError(f"{where}.{option}", "has no phases", got="[]", do=do)
