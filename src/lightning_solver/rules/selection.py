"""Which rules match which parameters."""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_solver.errors import SolverError, nearest
from lightning_solver.rule import SELECTORS, Rule, Selector, depth_holds
from lightning_solver.rules.depth import Depths
from lightning_solver.rules.heads import find_heads, is_hidden
from lightning_solver.rules.inventory import Holder, Parameter, Place

_WILD = re.compile(r"[*?\[]")
_ALLOW = "; or set unmatched: allow"

Matched = tuple[tuple[int, ...], ...]
"""Which rules match each name of a parameter: indices of the rules, in order."""


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


class Selection:
    """Finds the parameters that selectors select.

    Args:
        parameters: The parameters.
        first_names: Whether only the first name of a tied parameter is looked at.
        depths: Gives the depths, when a selector asks for them.
        notes: Takes what is odd.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        first_names: bool,
        depths: Callable[[], Depths],
        notes: list[str],
    ) -> None:
        self._parameters = parameters
        self._depths = depths
        self._notes = notes
        self.places: list[Place] = []
        self.belongs: list[int] = []
        for index, parameter in enumerate(parameters):
            for place in parameter.places[:1] if first_names else parameter.places:
                self.places.append(place)
                self.belongs.append(index)

    def matched(self, sources: Sequence[Source]) -> list[Matched]:
        """Which rules match each name of each parameter: indices of ``sources``, in order.

        Raises:
            SolverError: A name or class pattern that matches nothing, or selectors that never hold together.
        """
        found: list[tuple[int, ...]] = [()] * len(self.places)
        longer: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}  # most parameters share what matches them
        for index, source in enumerate(sources):
            for at in self._hits(source):
                key = (found[at], index)
                if key not in longer:
                    longer[key] = (*found[at], index)
                found[at] = longer[key]
        alone: dict[tuple[int, ...], Matched] = {}
        answer: list[Matched] = [()] * len(self._parameters)
        for at, rules in enumerate(found):
            before = answer[self.belongs[at]]
            answer[self.belongs[at]] = (*before, rules) if before else alone.setdefault(rules, (rules,))
        return answer

    def found(self, selector: Selector, where: str) -> set[int]:
        """The parameters, by index, that one selector outside of a rule selects.

        Args:
            selector: The selector.
            where: Its path, for error messages.

        Raises:
            SolverError: A name or class pattern that matches nothing, or selectors that never hold together.
        """
        rule = Rule(**{name: getattr(selector, name) for name in SELECTORS}, frozen=False)
        try:
            return {self.belongs[at] for at in self._together(Source(rule, where), selector, "")}
        except SolverError as error:  # whose advice is for rules
            do = (error.do or "").removesuffix(_ALLOW)
            raise SolverError(error.where, error.what, got=error.got, do=do) from None

    def nature(self, parameter: Parameter) -> str:
        """What a parameter is, in a word or two: its kinds, or its number of dimensions."""
        kinds = {kind for place in parameter.places for kind in place.kinds}
        if id(parameter.tensor) in self._heads:
            kinds.add("head")
        return " and ".join(sorted(kinds)) or f"{len(parameter.places[0].shape)}-D"

    def _hits(self, source: Source) -> set[int]:
        hits = self._together(source, source.rule, "")
        for i, selector in enumerate(source.rule.exceptions()):
            many = isinstance(source.rule.unless, tuple)
            spared = {
                self.belongs[at] for at in self._together(source, selector, f".unless[{i}]" if many else ".unless")
            }
            hits = {at for at in hits if self.belongs[at] not in spared}  # a tied tensor under all of its names
        if self.places and not hits and source.rule.exceptions():
            self._left_nothing(source)
        return hits

    def _together(self, source: Source, selector: Selector, path: str) -> set[int]:
        """The places at which every selector that is given holds."""
        chosen: set[int] | None = None
        for name, choices in selector.selectors().items():
            held: set[int] = set()
            idle = []
            for choice in choices:
                found = self._find(name, choice, f"{source.where}{path}.{name}", source.rule)
                if not found:
                    idle.append(choice)
                held.update(found)
            listed = name in ("module_class", "inside") and len(choices) > 1
            if source.rule.unmatched == "error" or not (listed and held):  # of allowed classes, one is enough
                for choice in idle:
                    self._selects_nothing(source, f"{path}.{name}", name, choice)
            chosen = held if chosen is None else chosen & held
        chosen = chosen or set()
        if self.places and not chosen:
            self._never_together(source, selector, path)
        return chosen

    def _find(self, selector: str, choice: Any, where: str, rule: Rule) -> Iterable[int]:
        """The places at which one choice of one selector holds."""
        if selector == "match":
            return self._by_glob(choice)
        if selector == "regex":
            search = re.compile(choice).search
            return [i for i, place in enumerate(self.places) if search(place.name)]
        if selector == "kind":
            return self._heads_and_hidden[choice] if choice in ("head", "hidden") else self._by_kind.get(choice, ())
        if selector == "module_class":
            return self._by_holder(lambda holder: choice in holder.classes)
        if selector == "inside":
            return self._by_holder(lambda holder: choice in holder.classes_around)
        if selector == "ndim":
            return [i for i, place in enumerate(self.places) if len(place.shape) == choice]
        if selector == "depth":
            depths = self._depths()
            of, belongs = depths.of, self.belongs
            names = [parameter.name for parameter in self._parameters]
            return [i for i in range(len(self.places)) if depth_holds(choice, of[names[belongs[i]]], depths.top)]
        return self._by_method(choice, where, rule)

    def _by_glob(self, glob: str) -> list[int]:
        names, order = self._sorted
        wild = _WILD.search(glob)
        literal = glob if wild is None else glob[: wild.start()]
        start = bisect_left(names, literal)
        test = None if wild is None or glob == f"{literal}*" else re.compile(fnmatch.translate(glob)).match
        found = []
        for at in range(start, len(names)):
            if not names[at].startswith(literal):
                break
            if wild is None and names[at] != glob:
                continue
            if test is None or test(names[at]):
                found.append(order[at])
        return found

    def _by_holder(self, test: Callable[[Holder], bool]) -> list[int]:
        known: dict[int, bool] = {}
        found = []
        for i, place in enumerate(self.places):
            key = id(place.holder)
            if key not in known:
                known[key] = test(place.holder)
            if known[key]:
                found.append(i)
        return found

    def _by_method(self, method: str, where: str, rule: Rule) -> list[int]:
        """The places that the outermost modules with the method list, by name or glob relative to that module."""
        lists: dict[int, tuple[set[str], list[re.Pattern[str]]] | None] = {}
        found, anyone = [], False
        for i, place in enumerate(self.places):
            for holder in reversed(list(place.holder.outward())):
                key = id(holder.module)
                if key not in lists:
                    lists[key] = _listed(holder, method, where)
                listed = lists[key]
                if listed is None:
                    continue
                anyone = True
                relative = place.name[len(holder.path) + 1 :] if holder.path else place.name
                if relative in listed[0] or any(glob.match(relative) for glob in listed[1]):
                    found.append(i)
                break
        if self.places and not anyone and rule.unmatched == "error":
            outermost = type(next(iter(reversed(list(self.places[0].holder.outward())))).module).__name__
            do = "correct the name of the method, or set unmatched: allow"
            raise SolverError(where, f"no module of {outermost} has a method {method}", got=repr(method), do=do)
        return found

    @cached_property
    def _sorted(self) -> tuple[list[str], list[int]]:
        order = sorted(range(len(self.places)), key=lambda i: self.places[i].name)
        return [self.places[i].name for i in order], order

    @cached_property
    def _by_kind(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, place in enumerate(self.places):
            for kind in place.kinds:
                found.setdefault(kind, []).append(i)
        return found

    @cached_property
    def _heads(self) -> frozenset[int]:
        return find_heads(self._parameters)

    @cached_property
    def _heads_and_hidden(self) -> Mapping[str, list[int]]:
        heads = self._heads
        hidden = [is_hidden(parameter, heads) for parameter in self._parameters]
        return {
            "head": [i for i, place in enumerate(self.places) if id(place.tensor) in heads],
            "hidden": [i for i, at in enumerate(self.belongs) if hidden[at]],
        }

    # ------------------------------------------------------------------ what is wrong

    def _selects_nothing(self, source: Source, path: str, selector: str, choice: Any) -> None:
        where = f"{source.where}{path}"
        if selector in ("kind", "ndim", "listed_by"):
            if source.where != "default_rules":
                self._notes.append(f"{where} ({choice}): the model has no such parameter")
            return
        if source.rule.unmatched == "allow" or not self.places:
            self._notes.append(f"{where} ({choice}): matches no parameter")
            return
        if selector == "depth":
            depths = self._depths()
            do = f"depths go from 0 to {depths.top} by {depths.source}: correct it"
            raise SolverError(where, "no parameter lies at this depth", got=repr(choice), do=do)
        if selector in ("module_class", "inside"):
            around = selector == "inside"
            holders = {
                id(h): h for place in self.places for h in (place.holder.outward() if around else [place.holder])
            }
            known = sorted({type(holder.module).__name__ for holder in holders.values()})
            what = f"no parameter is {'inside' if around else 'held by'} a module of this class"
            raise SolverError(where, what, got=repr(choice), do=_near(choice, known))
        inside = any(place.name.startswith(f"{choice}.") for place in self.places)
        do = f"{choice} is a module: write {choice}.*" if inside else _near(choice, _heads_of(self.places, choice))
        raise SolverError(where, "matches no parameter", got=repr(choice), do=do)

    def _never_together(self, source: Source, selector: Selector, path: str) -> None:
        where, selectors = f"{source.where}{path}", selector.selectors()
        counts = {
            name: len({i for choice in choices for i in self._find(name, choice, where, source.rule)})
            for name, choices in selectors.items()
        }
        if not all(counts.values()):
            return  # one of them selects nothing by itself, which was allowed and is noted
        if source.rule.unmatched == "allow":
            self._notes.append(f"{where} ({selector.describe()}): no parameter satisfies all of its selectors")
            return
        got = ", ".join(f"{s} {'|'.join(map(str, selectors[s]))} holds for {n}" for s, n in counts.items())
        do = "all selectors of a rule must hold: drop one, or write two rules"
        raise SolverError(where, "its selectors contradict each other, as no parameter satisfies all", got=got, do=do)

    def _left_nothing(self, source: Source) -> None:
        if not self._together(source, source.rule, ""):
            return  # noted already
        if source.rule.unmatched == "allow":
            self._notes.append(f"{source.label}: selects nothing, as unless leaves out all")
            return
        do = "narrow unless, or drop the rule"
        raise SolverError(f"{source.where}.unless", "leaves out all that the rule selects", do=do)


def _listed(holder: Holder, method: str, where: str) -> tuple[set[str], list[re.Pattern[str]]] | None:
    """The names and globs that a module's method lists; ``None`` where it has none, or is a part of a numbered block.

    A model is asked, and what is wrapped around it or beside it; not the parts of its layers, which timm never asks.
    """
    asked = getattr(holder.module, method, None)
    inside_a_block = any(segment.isdigit() for segment in holder.path.split(".")[1:])
    if not callable(asked) or isinstance(asked, type) or inside_a_block:
        return None
    owner = type(holder.module).__name__
    try:
        answer = list(asked())
    except Exception as error:  # whatever a user's method may raise
        what = f"{owner}.{method}() failed: {type(error).__name__}: {error}"
        raise SolverError(where, what, got=repr(method), do="let it return names of parameters") from error
    if not all(isinstance(name, str) for name in answer):
        what, do = f"{owner}.{method}() lists something else than names", "let it return names of parameters"
        raise SolverError(where, what, got=repr(answer)[:120], do=do)
    return (
        {name for name in answer if not _WILD.search(name)},
        [re.compile(fnmatch.translate(name)) for name in answer if _WILD.search(name)],
    )


def _heads_of(places: Sequence[Place], pattern: str) -> list[str]:
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
    return f"names start like: {shown}{_ALLOW}"
