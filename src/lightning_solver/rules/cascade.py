"""The cascade: every rule in order, option by option, the last match wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError, nearest
from lightning_solver.plain import FrozenDict
from lightning_solver.rules.inventory import Parameter, Place
from lightning_solver.rules.kinds import shape_of
from lightning_solver.schedules.join import Phases
from lightning_solver.rule import Rule

Test = Callable[[Place], bool]


@dataclass(frozen=True)
class Source:
    """A rule and where it stands.

    Args:
        rule: The rule.
        where: Its path, ``rules[0]``, or ``default_rules`` for the built-in one.
    """

    rule: Rule
    where: str

    @property
    def label(self) -> str:
        """How tables call the rule."""
        return f"{self.where} ({self.rule.describe()})"


@dataclass(frozen=True)
class Settings:
    """What one parameter gets.

    Args:
        values: Option -> base value, every scale included.
        reasons: Option -> what set it, in words.
        sources: Option -> the rules that set or scaled it, in order; an option that no rule touched is missing.
        scales: Option -> factor by which the rules have scaled it since it was last set; 1 is left out.
        schedules: Option -> the schedule that a rule has given it.
        scheduled_by: Option -> the rule that gave the schedule.
    """

    values: Mapping[str, Any]
    reasons: Mapping[str, str]
    sources: Mapping[str, tuple[Source, ...]]
    scales: Mapping[str, float]
    schedules: Mapping[str, Phases]
    scheduled_by: Mapping[str, Source]


def select(sources: Sequence[Source], parameters: Sequence[Parameter], notes: list[str]) -> list[list[tuple[int, ...]]]:
    """Which rules match each place of each parameter: indices of ``sources``, in order.

    Raises:
        SolverError: A name or class pattern that matches nothing, or selectors that never hold together.
    """
    places = [place for parameter in parameters for place in parameter.places]
    matched: list[list[int]] = [[] for _ in places]
    for index, source in enumerate(sources):
        hits = [True] * len(places)
        for selector, choices in source.rule.selectors().items():
            each = [[test(place) for place in places] for test in (_test(selector, choice) for choice in choices)]
            for choice, found in zip(choices, each):
                if not any(found):
                    _selects_nothing(source, selector, choice, places, notes)
            hits = [hit and any(found) for hit, found in zip(hits, zip(*each))]
        if places and not any(hits):
            _never_together(source, places, notes)
        for i, hit in enumerate(hits):
            if hit:
                matched[i].append(index)
    answer, at = [], 0
    for parameter in parameters:
        answer.append([tuple(matched[at + i]) for i in range(len(parameter.places))])
        at += len(parameter.places)
    return answer


class Cascade:
    """Applies rules to parameters; parameters that the same rules match are worked out once.

    Args:
        sources: The rules in order.
        base: Option -> the optimiser's own value.
        base_reasons: Option -> where that value comes from, in words.
        check: Checks a value that a rule sets: (option, value, path) -> value.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        base: Mapping[str, Any],
        base_reasons: Mapping[str, str],
        check: Callable[[str, Any, str], Any],
    ) -> None:
        self._sources = sources
        self._base = base
        self._base_reasons = base_reasons
        self._check = check
        self._known: dict[tuple[int, ...], Settings] = {}
        for index in range(len(sources)):
            self._apply((index,))  # a rule is checked whether it selects something or not

    def settings(self, parameter: Parameter, matched: Sequence[tuple[int, ...]]) -> Settings:
        """The settings of a parameter of which each name is matched by the rules in ``matched``.

        Raises:
            SolverError: Names of a tied parameter for which the rules disagree, or a setting that does not fit.
        """
        every = matched[0] if len(matched) == 1 else tuple(sorted({index for names in matched for index in names}))
        if len(matched) > 1:
            self._refuse_disagreement(parameter, matched)
        return self._apply(every)

    def _apply(self, indices: tuple[int, ...]) -> Settings:
        if indices not in self._known:
            values, factors = dict(self._base), dict[str, float]()
            sources: dict[str, tuple[Source, ...]] = {}
            schedules, scheduled_by = dict[str, Phases](), dict[str, Source]()
            for index in indices:
                source = self._sources[index]
                schedules.update(source.rule.schedules)
                scheduled_by.update(dict.fromkeys(source.rule.schedules, source))
                for option, (how, value) in source.rule.settings().items():
                    where = f"{source.where}.{_path(option, how)}"
                    if how == "set":
                        values[option] = self._check(option, value, where)
                        factors.pop(option, None)
                        sources[option] = (source,)
                    else:
                        self._check(option, self._base.get(option), where)
                        _numeric(option, values[option], where)
                        if option in factors:
                            sources[option] = sources[option][:-1]
                        factors[option] = value
                        sources[option] = (*sources.get(option, ()), source)
            for option, factor in factors.items():
                values[option] = values[option] * factor
            reasons = {
                option: " then ".join(source.label for source in sources[option])
                if option in sources
                else self._base_reasons[option]
                for option in values
            }
            reasons.update({f"schedules.{option}": source.label for option, source in scheduled_by.items()})
            self._known[indices] = Settings(
                FrozenDict(values),
                FrozenDict(reasons),
                FrozenDict(sources),
                FrozenDict({option: factor for option, factor in factors.items() if factor != 1}),
                FrozenDict(schedules),
                FrozenDict(scheduled_by),
            )
        return self._known[indices]

    def _refuse_disagreement(self, parameter: Parameter, matched: Sequence[tuple[int, ...]]) -> None:
        alone = [(place, self._apply(indices)) for place, indices in zip(parameter.places, matched) if indices]
        for place, settings in alone[1:]:
            first, ours = alone[0]
            for option in settings.schedules.keys() & ours.schedules.keys():
                if settings.schedules[option] != ours.schedules[option]:
                    what = f"rules disagree about the schedule of {option} of one tensor that has two names"
                    got = f"{ours.scheduled_by[option].label} and {settings.scheduled_by[option].label}"
                    raise SolverError(parameter.name, what, got=got, do="let one rule match both names")
            for option in settings.sources.keys() & ours.sources.keys():
                if settings.values[option] != ours.values[option]:
                    what = f"rules disagree about {option} of one tensor that has two names"
                    got = (
                        f"{ours.values[option]!r} for {first.name} by {ours.reasons[option]}, "
                        f"{settings.values[option]!r} for {place.name} by {settings.reasons[option]}"
                    )
                    raise SolverError(parameter.name, what, got=got, do="let one rule match both names")


def _path(option: str, how: str) -> str:
    if option in ("lr", "weight_decay"):
        return option if how == "set" else f"{option}_scale"
    return f"{how}.{option}"


def _numeric(option: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SolverError(where, f"{option} is not a number and cannot be scaled", got=repr(value), do="set it instead")


def _test(selector: str, choice: Any) -> Test:
    if selector == "match":
        glob = re.compile(fnmatch.translate(choice))
        return lambda place: glob.match(place.name) is not None
    if selector == "regex":
        regex = re.compile(choice)
        return lambda place: regex.search(place.name) is not None
    if selector == "kind":
        return lambda place: choice in place.kinds
    if selector == "module_class":
        return lambda place: choice in place.classes
    return lambda place: len(shape_of(place.tensor)) == choice


def _selects_nothing(source: Source, selector: str, choice: Any, places: Sequence[Place], notes: list[str]) -> None:
    where = f"{source.where}.{selector}"
    if selector in ("kind", "ndim"):
        if source.where != "default_rules":
            notes.append(f"{where} ({choice}): the model has no such parameter")
        return
    if source.rule.unmatched == "allow":
        notes.append(f"{where} ({choice}): matches no parameter")
        return
    if selector == "module_class":
        known = sorted({type(place.owner).__name__ for place in places})
        raise SolverError(
            where, "no parameter is held by a module of this class", got=repr(choice), do=_near(choice, known)
        )
    inside = any(place.name.startswith(f"{choice}.") for place in places)
    do = f"{choice} is a module: write {choice}.*" if inside else _near(choice, _heads(places, choice))
    raise SolverError(where, "matches no parameter", got=repr(choice), do=do)


def _never_together(source: Source, places: Sequence[Place], notes: list[str]) -> None:
    selectors = source.rule.selectors()
    counts = {
        selector: sum(any(_test(selector, choice)(place) for choice in choices) for place in places)
        for selector, choices in selectors.items()
    }
    if not all(counts.values()):
        return  # one of them selects nothing by itself, which was allowed and is noted
    if source.rule.unmatched == "allow":
        notes.append(f"{source.where} ({source.rule.describe()}): no parameter satisfies all of its selectors")
        return
    got = ", ".join(f"{s} {'|'.join(map(str, selectors[s]))} holds for {n}" for s, n in counts.items())
    do = "all selectors of a rule must hold: drop one, or write two rules"
    raise SolverError(
        source.where, "its selectors contradict each other, as no parameter satisfies all", got=got, do=do
    )


def _heads(places: Sequence[Place], pattern: str) -> list[str]:
    """Names, and heads of names as long as the pattern, for a near miss to be found among."""
    depth = pattern.count(".") + 1
    found: dict[str, None] = {}
    for place in places:
        parts = place.name.split(".")
        found[".".join(parts[:depth])] = None
        if depth > 1:
            found[".".join(parts[: depth - 1])] = None
        found[parts[-1]] = None
        if len(found) > 2000:
            break
    return list(found)


def _near(pattern: str, known: Sequence[str]) -> str:
    bare = re.sub(r"[\\*?^$\[\]()|+]", "", pattern).strip(".")
    close = nearest(bare, known)
    if close:
        return f"nearest names: {', '.join(close)}"
    shown = ", ".join(list(dict.fromkeys(known))[:8])
    return f"names start like: {shown}; or set unmatched: allow"
