"""The cascade: every rule in order, option by option, the last match wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.factors import Factor, LayerDecay
from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.plain import FrozenDict
from lightning_solver.rule import Rule
from lightning_solver.rules.depth import Depths
from lightning_solver.rules.freezing import Frozen, Resolve, freeze
from lightning_solver.rules.inventory import Parameter
from lightning_solver.rules.selection import Source
from lightning_solver.schedules.join import Phases


@dataclass(frozen=True, eq=False)
class Member:
    """One of the optimisers, and where its own values come from.

    Args:
        recipe: The optimiser.
        where: Path of what the user said of it: ``optimizer``, or ``rules[1].optimizer``.
        reasons: Option -> where its own value comes from, in words.
    """

    recipe: Recipe
    where: str
    reasons: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Settings:
    """What one parameter gets.

    Args:
        member: Which of the optimisers has it.
        values: Option -> base value, every scale included.
        reasons: Option -> what set it, in words.
        sources: Option -> the rules that set or scaled it, in order; an option that no rule touched is missing.
        scales: Option -> factor by which the rules have scaled it since it was last set; 1 is left out.
        schedules: Option -> the schedule that a rule has given it.
        scheduled_by: Option -> the rule that gave the schedule.
        frozen: The stretches in which it does not move; ``True`` for left out of the optimiser.
        frozen_by: The rule that froze it.
        chosen_by: The rule that chose the optimiser, where one did.
    """

    member: Member
    values: Mapping[str, Any]
    reasons: Mapping[str, str]
    sources: Mapping[str, tuple[Source, ...]]
    scales: Mapping[str, float]
    schedules: Mapping[str, Phases]
    scheduled_by: Mapping[str, Source]
    frozen: Frozen | bool
    frozen_by: Source | None
    chosen_by: Source | None

    def acting(self) -> list[Source]:
        """Every rule that has an effect on the parameter."""
        if self.frozen is True:
            return [] if self.frozen_by is None else [self.frozen_by]
        found = [source for sources in self.sources.values() for source in sources]
        found += self.scheduled_by.values()
        return found + [source for source in (self.frozen_by, self.chosen_by) if source is not None]


@dataclass
class _State:
    """What the rules so far have made of a parameter."""

    member: Member
    set: dict[str, tuple[Any, Source]] = field(default_factory=dict)
    decayed: dict[str, tuple[float, Source]] = field(default_factory=dict)  # by layer
    scaled: dict[str, tuple[float, Source]] = field(default_factory=dict)
    schedules: dict[str, tuple[Phases, Source]] = field(default_factory=dict)
    frozen: Frozen | bool = False
    frozen_by: Source | None = None
    chosen_by: Source | None = None

    def forget_all(self) -> None:
        """As if no rule had matched."""
        for known in (self.set, self.decayed, self.scaled, self.schedules):
            known.clear()
        self.frozen, self.frozen_by, self.chosen_by = False, None, None

    def forget(self, option: str) -> None:
        """As if no rule had touched the value of an option."""
        for known in (self.set, self.decayed, self.scaled):
            known.pop(option, None)


class Cascade:
    """Applies rules to parameters; parameters that the same rules match, at one depth, are worked out once.

    Args:
        sources: The rules in order.
        members: The optimisers: the solver's own first.
        chooses: Index of a rule that names an optimiser -> that optimiser.
        decay: Layer-wise decay of the learning rate.
        depths: Gives the depths, where decay or a rule asks for them.
        resolve: Works out durations in steps.
        lr_factor: Factor of every learning rate that a rule sets, for the number of samples in a step.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        members: Sequence[Member],
        *,
        chooses: Mapping[int, Member] | None = None,
        decay: LayerDecay | None = None,
        depths: Callable[[], Depths] | None = None,
        resolve: Resolve | None = None,
        lr_factor: float = 1.0,
    ) -> None:
        self._sources, self._members = sources, members
        self._chooses = chooses or {}
        self._decay, self._lr_factor, self._depths, self._resolve = decay, lr_factor, depths, resolve
        self._by_depth: dict[int, Source] = {}
        self._known: dict[Any, Settings] = {}
        self._factors = {
            index: {option: value for option, (_, value) in source.rule.settings().items() if isinstance(value, Factor)}
            for index, source in enumerate(sources)
        }
        self._first = frozenset(i for i, source in enumerate(sources) if source.where == "default_rules")
        self._deep = decay is not None or any(source.rule.unfreeze_every is not None for source in sources)
        for index, source in enumerate(sources):
            self._check_rule(index, source)

    def settings(self, parameter: Parameter, matched: Sequence[tuple[int, ...]]) -> Settings:
        """The settings of a parameter of which each name is matched by the rules in ``matched``.

        Raises:
            SolverError: Names of a tied parameter for which the rules disagree, or a setting that does not fit.
        """
        if len(matched) == 1:
            return self._apply(parameter, matched[0])
        self._refuse_disagreement(parameter, matched)
        return self._apply(parameter, tuple(sorted({index for names in matched for index in names})))

    def _apply(self, parameter: Parameter, indices: tuple[int, ...]) -> Settings:
        depth = self._depths().of[parameter.name] if self._deep and self._depths is not None else None
        factors = tuple(
            ((index, option), self._factor(factor, index, option, parameter))
            for index in indices
            for option, factor in self._factors[index].items()
        )
        key = (indices, depth, factors)
        if key not in self._known:
            self._known[key] = self._work_out(indices, depth, dict(factors))
        return self._known[key]

    def _factor(self, factor: Factor, index: int, option: str, parameter: Parameter) -> float:
        """The factor of a parameter, which has to be one."""
        where = f"{self._sources[index].where}.{_path(option, 'scale')}"
        try:
            value = factor.of(parameter.name, parameter.places[0].shape)
        except SolverError as error:
            raise SolverError(where, f"{error.where}: {error.what}", got=error.got, do=error.do) from error
        except ArithmeticError as error:
            got, do = f"{type(error).__name__} for {parameter.name}", "narrow the rule, or correct the factor"
            raise SolverError(where, "cannot be worked out", got=got, do=do) from error
        number: Any = value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            what, do = f"{type(factor).__name__} gave no factor for {parameter.name}", "return a finite number >= 0"
            raise SolverError(where, what, got=repr(value), do=do)
        return float(value)

    def _work_out(
        self, indices: tuple[int, ...], depth: int | None, factors: Mapping[tuple[int, str], float]
    ) -> Settings:
        state = _State(self._chosen(indices))
        for index in indices:
            if index in self._first:
                self._take(state, index, depth, factors, indices)
        self._decay_by_layer(state, depth)
        for index in indices:
            if index not in self._first:
                self._take(state, index, depth, factors, indices)
        return _settled(state)

    def _chosen(self, indices: tuple[int, ...]) -> Member:
        """The optimiser that the rules choose: values are checked against the one that will have the parameter."""
        member = self._members[0]
        for index in indices:
            if self._sources[index].rule.fresh is True:
                member = self._members[0]
            member = self._chooses.get(index, member)
        return member

    def _decay_by_layer(self, state: _State, depth: int | None) -> None:
        if self._decay is None or depth is None or self._depths is None:
            return
        factor = self._decay.factor(depth, self._depths().top)
        if depth not in self._by_depth:
            rule = Rule(match="*", lr_scale=factor, name=f"depth_{depth}")
            self._by_depth[depth] = Source(rule, "layer_decay")
        source = self._by_depth[depth]
        if factor < self._decay.freeze_below:
            state.frozen, state.frozen_by = True, source
        if factor != 1:
            state.decayed["lr"] = (factor, source)

    def _take(
        self,
        state: _State,
        index: int,
        depth: int | None,
        factors: Mapping[tuple[int, str], float],
        indices: tuple[int, ...],
    ) -> None:
        """Let one rule change the state that the rules before it have left."""
        source = self._sources[index]
        rule = source.rule
        if rule.fresh is True:
            state.forget_all()
        elif rule.fresh:
            for option in rule.fresh:
                state.forget(option)
                state.schedules.pop(option, None)
        if index in self._chooses:
            state.chosen_by = source
            assert rule.optimizer is not None
            for option in rule.optimizer.args:
                if option in state.set and state.set[option][1].where != "default_rules":
                    del state.set[option]
        recipe = state.member.recipe
        for option, phases in rule.schedules.items():
            state.schedules[option] = (phases, source)
        for option, (how, value) in rule.settings().items():
            if index in self._first and option not in recipe.defaults:
                continue
            where = f"{source.where}.{_path(option, how)}"
            if option not in recipe.defaults and index not in self._chooses:
                self._refuse_option(option, where, indices)
            if how == "set":
                value = recipe.check_option(option, value, where)
                state.forget(option)
                state.set[option] = (value * self._lr_factor if option == "lr" else value, source)
            else:
                recipe.check_option(option, recipe.defaults.get(option), where)
                _numeric(option, recipe.defaults[option], where)
                state.scaled[option] = (factors.get((index, option), value), source)
        says = rule.freezes()
        if says:
            assert self._resolve is not None
            height = self._depths().top - depth if depth is not None and self._depths is not None else 0
            state.frozen, state.frozen_by = freeze(says, source.where, self._resolve, height), source

    def _refuse_option(self, option: str, where: str, indices: tuple[int, ...]) -> None:
        """Say which rule has chosen the optimiser that lacks an option."""
        chosen = [index for index in indices if index in self._chooses]
        if chosen:
            name = self._chooses[chosen[-1]].recipe.cls.__name__
            what = (
                f"{name}, which {self._sources[chosen[-1]].label} chooses for some of the parameters, has no {option}"
            )
            do = "leave these parameters out by unless, or set the option in the arguments of an optimiser"
            raise SolverError(where, what, do=do)

    def _check_rule(self, index: int, source: Source) -> None:
        """A rule is checked whether it selects something or not: one of the optimisers has what it sets."""
        recipes = [self._chooses[index].recipe] if index in self._chooses else [m.recipe for m in self._members]
        for option, (how, value) in source.rule.settings().items():
            where = f"{source.where}.{_path(option, how)}"
            recipe = next((recipe for recipe in recipes if option in recipe.defaults), recipes[0])
            recipe.check_option(option, value if how == "set" else recipe.defaults.get(option), where)
            if how == "scale":
                _numeric(option, recipe.defaults[option], where)
        for option in source.rule.fresh if isinstance(source.rule.fresh, tuple) else ():
            recipe = next((recipe for recipe in recipes if option in recipe.defaults), recipes[0])
            if option not in recipe.defaults:
                recipe.slot(option, f"{source.where}.fresh")  # momentum and beta2 of betas have schedules of their own

    def _refuse_disagreement(self, parameter: Parameter, matched: Sequence[tuple[int, ...]]) -> None:
        alone = [(place, self._apply(parameter, names)) for place, names in zip(parameter.places, matched) if names]
        for place, settings in alone[1:]:
            first, ours = alone[0]
            found = _disagreement(first.name, ours, place.name, settings)
            if found is not None:
                what, got = found
                what = f"rules disagree about {what} of one tensor that has two names"
                raise SolverError(parameter.name, what, got=got, do="let one rule match both names")


def _disagreement(first: str, ours: Settings, second: str, theirs: Settings) -> tuple[str, str] | None:
    """About what two settings disagree, where rules have set it in both, and the two values."""
    for option in theirs.schedules.keys() & ours.schedules.keys():
        if theirs.schedules[option] != ours.schedules[option]:
            got = f"{ours.scheduled_by[option].label} and {theirs.scheduled_by[option].label}"
            return f"the schedule of {option}", got
    if ours.chosen_by and theirs.chosen_by and ours.member is not theirs.member:
        return "the optimiser", f"{ours.chosen_by.label} and {theirs.chosen_by.label}"
    if ours.frozen_by and theirs.frozen_by and ours.frozen != theirs.frozen:
        return "when to freeze it", f"{ours.frozen_by.label} and {theirs.frozen_by.label}"
    for option in theirs.sources.keys() & ours.sources.keys():
        both = all(any(s.where != "layer_decay" for s in side.sources[option]) for side in (ours, theirs))
        if both and theirs.values[option] != ours.values[option]:
            got = (
                f"{ours.values[option]!r} for {first} by {ours.reasons[option]}, "
                f"{theirs.values[option]!r} for {second} by {theirs.reasons[option]}"
            )
            return option, got
    return None


def _settled(state: _State) -> Settings:
    """The values, and what set them."""
    recipe = state.member.recipe
    values = dict(recipe.defaults)
    scales: dict[str, float] = {}
    sources: dict[str, tuple[Source, ...]] = {}
    for option in values:
        chain: list[Source] = []
        if option in state.set:
            values[option], source = state.set[option]
            chain.append(source)
        for factors in (state.decayed, state.scaled):
            if option in factors:
                factor, source = factors[option]
                chain.append(source)
                scales[option] = scales.get(option, 1.0) * factor
        if option in scales:
            values[option] = values[option] * scales[option]
        if chain:
            sources[option] = tuple(chain)
    reasons = {
        option: " then ".join(source.label for source in sources[option])
        if option in sources
        else state.member.reasons[option]
        for option in values
    }
    reasons.update({f"schedules.{option}": source.label for option, (_, source) in state.schedules.items()})
    if state.chosen_by is not None:
        reasons["optimizer"] = state.chosen_by.label
    if state.frozen_by is not None and state.frozen is not False:
        reasons["frozen"] = state.frozen_by.label
    return Settings(
        member=state.member,
        values=FrozenDict(values),
        reasons=FrozenDict(reasons),
        sources=FrozenDict(sources),
        scales=FrozenDict({option: factor for option, factor in scales.items() if factor != 1}),
        schedules=FrozenDict({option: phases for option, (phases, _) in state.schedules.items()}),
        scheduled_by=FrozenDict({option: source for option, (_, source) in state.schedules.items()}),
        frozen=state.frozen,
        frozen_by=state.frozen_by if state.frozen is not False else None,
        chosen_by=state.chosen_by,
    )


def _path(option: str, how: str) -> str:
    if option in ("lr", "weight_decay"):
        return option if how == "set" else f"{option}_scale"
    return f"{how}.{option}"


def _numeric(option: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SolverError(where, f"{option} is not a number and cannot be scaled", got=repr(value), do="set it instead")
