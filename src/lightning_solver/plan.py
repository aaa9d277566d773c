"""What will happen: a spec, a model and the length of the run, worked out before the first step."""

from __future__ import annotations

import fnmatch
import functools
import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_solver.averaging.planned import PlannedAverage, plan_averages, scope_of
from lightning_solver.checks import (
    check_frozen,
    note_accumulation,
    note_depths,
    note_idle,
    note_schedule_free,
    note_unused,
    refuse_closures,
    refuse_flattened,
    routes,
    try_groups,
)
from lightning_solver.clipping.planned import PlannedClip, plan_clips
from lightning_solver.durations import Duration, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.groups import Group, group_parameters
from lightning_solver.laying import (
    held,
    lay_checked,
    lay_curve,
    note_still,
    scheduled_options,
    slots_of,
    tells_scales_apart,
)
from lightning_solver.members import find_members, lr_factor
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.implementation import (
    Implementation,
    choose,
    keep_layout,
    refuse_sharded,
    sparse_parameters,
)
from lightning_solver.optimizers.recipe import Recipe, Slot
from lightning_solver.plain import FrozenDict
from lightning_solver.rule import Rule
from lightning_solver.rules.cascade import Cascade, Member, Settings
from lightning_solver.rules.depth import Depths, check_how, find_depths
from lightning_solver.rules.inventory import Parameter, take_inventory
from lightning_solver.rules.selection import Selection, Source
from lightning_solver.schedules.base import Curve, Floats, Integers
from lightning_solver.schedules.plateau import Feed
from lightning_solver.spec import SolverSpec, whole_steps

if TYPE_CHECKING:
    from lightning_solver.scheduler import PlanScheduler

DEFAULT_RULE = Rule(kind=("norm", "bias"), weight_decay=0.0, name="no_decay")
"""No weight decay on biases and normalisation layers, as in He et al. (2019), "Bag of Tricks", and everywhere since."""


@dataclass(frozen=True)
class Plan:
    """What will happen when a module is trained by a spec. Made by :meth:`SolverSpec.plan`.

    Args:
        spec: The spec.
        run: The length of the run.
        members: The optimisers, the solver's own first; more than one where rules name others.
        groups: The parameter groups, in the order in which the optimiser gets them.
        parameters: Qualified name -> mapping of ``group``, ``lr``, ``weight_decay`` and every other option to its base
            value, before any schedule and with every scale included; in the order of ``module.named_parameters()``.
        reasons: Qualified name -> option -> what set it.
        left_out: Qualified name -> why the optimiser does not get it.
        depths: How deep each parameter lies, where layer-wise decay or a rule asks for it.
        curves: Scheduled option -> its curve over all groups, with every metric-driven factor as it is at the start.
        monitors: Names of the metrics that schedules follow.
        routes: In words, which matrices an optimiser does not get that a rule has chosen for ``kind: hidden``.
        sparse: The parameters that get sparse gradients.
        clips: What is clipped, in the order in which it acts.
        averages: Name -> what is averaged, when, and at what cost in memory.
        never: The parameters that rules leave out of the optimiser for good.
        notes: What is odd but clear.
    """

    spec: SolverSpec
    run: RunLength
    members: tuple[Member, ...]
    groups: tuple[Group, ...]
    parameters: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]
    depths: Depths | None
    curves: Mapping[str, Curve]
    monitors: frozenset[str]
    routes: tuple[str, ...]
    sparse: tuple[Tensor, ...]
    clips: tuple[PlannedClip, ...]
    averages: Mapping[str, PlannedAverage]
    never: tuple[Tensor, ...]
    notes: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """Class and arguments of the solver's own optimiser."""
        return self.members[0].recipe

    @functools.cached_property
    def implementations(self) -> Mapping[Member, Implementation]:
        """How each optimiser that has parameters does its arithmetic: the fastest right way, found by trying."""
        found = {}
        for member in dict.fromkeys(group.member for group in self.groups):
            inner = [group for group in self.groups if group.member is member]
            tensors = [tensor for group in inner for tensor in group.tensors]
            found[member] = choose(member.recipe, tensors, [group.options for group in inner], sparse=self.sparse)
        return found

    def held_by(self, group: Group) -> dict[str, Any]:
        """The options that the optimiser's group holds, those that choose its implementation included."""
        return {**group.options, **self.implementations[group.member].args}

    def curve(self, option: str) -> Floats:
        """The values of an option over the whole run.

        Args:
            option: ``lr``, ``weight_decay``, ``momentum`` (which stands for ``betas[0]`` where there is no momentum),
                ``beta2`` or any other numeric option of the optimiser; or ``clip``, for the limits of the clippings,
                one column for each.

        Returns:
            float64 array of shape (total_steps, number of groups); row ``i`` is what the optimiser holds when step
            ``i`` (0-based) is taken; ``nan`` where the optimiser of a group has no such option.

        Raises:
            SolverError: The optimiser has no such option, or the length of the run is not known.
        """
        steps = np.arange(whole_steps(self.run))
        return self.limits(steps) if option == "clip" else self.curve_of(option).over(steps)

    def limits(self, steps: Integers) -> Floats:
        """The limits of the clippings in some steps (0-based); ``nan`` for a kind that finds its own.

        Args:
            steps: The numbers of the steps.

        Returns:
            float64 array of shape (number of steps, number of clippings).

        Raises:
            SolverError: Nothing is clipped.
        """
        if not self.clips:
            raise SolverError("clip", "nothing is clipped by this plan", do="give clip: in the spec")
        return np.stack([planned.clip.limits_at(steps, planned.curve) for planned in self.clips], axis=1)

    def curve_of(self, option: str) -> Curve:
        """The curve of an option, scheduled or not, to be asked for single steps."""
        if option in self.curves:
            return self.curves[option]
        return held(option, self.groups)

    def slots(self, option: str) -> tuple[Slot | None, ...]:
        """Where each group keeps an option; ``None`` where its optimiser has no such option."""
        return slots_of(option, self.groups, option)

    def build(self) -> tuple[Optimizer, PlanScheduler]:
        """The optimiser, its groups named and at their values of step 0, and the scheduler that moves them.

        Both are plain torch objects for any loop: call ``scheduler.step()`` after each ``optimizer.step()``, never per
        epoch. Optimiser state that is loaded is assigned by parameter name.
        """
        from lightning_solver.scheduler import PlanScheduler

        by_member: dict[Member, list[dict[str, Any]]] = {}
        groups = []
        for group in self.groups:
            made = {"params": list(group.tensors)} | group.member.recipe.changed(group.options)
            by_member.setdefault(group.member, []).append(made)
            groups.append(made)
        optimizers: dict[str, Optimizer] = {}
        for member, own in by_member.items():
            name = member.recipe.cls.__name__.lower()
            name = name if name not in optimizers else f"{name}_{len(optimizers) + 1}"
            how = self.implementations[member]
            self._refuse_sparse(member, how)
            tensors = [tensor for made in own for tensor in made["params"]]
            refuse_sharded(member.recipe, tensors, member.where, extra=how.args)
            optimizers[name] = member.recipe.build(own, how.args)
            if how.name == "fused":
                keep_layout(optimizers[name])
        (optimizer, *others) = optimizers.values()
        if others:
            optimizer = CompositeOptimizer(optimizers, groups)
        for made, group in zip(optimizer.param_groups, self.groups):
            made["name"] = group.name
            made["param_names"] = list(group.names)
        return optimizer, PlanScheduler(optimizer, self)

    def _refuse_sparse(self, member: Member, how: Implementation) -> None:
        """Refuse sparse gradients that an optimiser cannot take, before the first step fails."""
        own = {id(tensor): n for g in self.groups if g.member is member for n, tensor in zip(g.names, g.tensors)}
        names = [own[id(tensor)] for tensor in self.sparse if id(tensor) in own]
        if names and not how.tried:
            what = f"{member.recipe.cls.__name__} takes no sparse gradients, which these embeddings have"
            do = "let SparseAdam have them by a rule, or make the embeddings with sparse=False"
            raise SolverError(member.where, what, got=", ".join(names), do=do)

    def follow_metrics(self) -> tuple[Feed, Mapping[str, Curve]]:
        """The curves with trackers of their own, which a scheduler feeds with metrics while it runs."""
        if not self.monitors:
            return Feed(), self.curves
        feed = Feed()
        curves = {option: lay_curve(self.spec, self.run, option, self.groups, feed) for option in self.curves}
        return feed, curves

    def table(self, *, parameters: bool = False) -> str:
        """The plan as text: groups, counts, options, what set them, schedules and notes.

        Args:
            parameters: Whether to list every parameter too.
        """
        from lightning_solver.table import render

        return render(self, parameters=parameters)

    def __str__(self) -> str:
        return self.table()

    def chart(self, *, width: int = 72, height: int = 11) -> str:
        """Draw the curve of every scheduled option of every group, and every limit that moves, as text.

        Args:
            width: Columns of a drawing.
            height: Lines of a drawing.

        Raises:
            SolverError: The length of the run is not known.
        """
        from lightning_solver.drawing import chart_plan

        return chart_plan(self, width=width, height=height)

    def draw(self, path: str | Path, *, log: str | Path | None = None) -> Path:
        """Draw the curve of every scheduled option of every group, and every limit that moves, into a picture file.

        Args:
            path: File to write; its ending says the format (``plan.png``).
            log: The ``metrics.csv`` of a run by this plan, under automatic optimisation with ``SolverMonitor``: what
                really happened is drawn beside it.

        Raises:
            SolverError: matplotlib is not installed, the length of the run is not known, or nothing in the log belongs
                to the plan.
        """
        from lightning_solver.drawing import draw
        from lightning_solver.happened import happened, read_log

        return draw(self, Path(path), None if log is None else happened(read_log(log), self))


def make_plan(spec: SolverSpec, module: nn.Module, run: RunLength) -> Plan:
    """Work out the plan; see :meth:`SolverSpec.plan`."""
    with _uncollected():
        return _make_plan(spec, module, run)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the garbage collector wait: looking for garbage among the small objects of a plan takes a fifth of it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _make_plan(spec: SolverSpec, module: nn.Module, run: RunLength) -> Plan:
    if spec.optimizer is None:
        do = "give optimizer: {name: AdamW, args: {lr: 0.001}}"
        raise SolverError("optimizer", "a spec without an optimiser has no plan", got="None", do=do)
    if not isinstance(module, nn.Module):
        raise SolverError("module", "must be a torch.nn.Module", got=repr(module), do="pass the module itself")
    notes: list[str] = []
    sources = [Source(rule, f"rules[{i}]") for i, rule in enumerate(spec.rules)]
    factor = lr_factor(spec, run)
    members, chooses = find_members(spec, sources, factor)
    if spec.default_rules and any(member.recipe.defaults.get("weight_decay") for member in members):
        sources.insert(0, Source(DEFAULT_RULE, "default_rules"))
        chooses = {index + 1: member for index, member in chooses.items()}
    check_how(spec.depth)
    inventory = take_inventory(module)
    ours, left_out = _share(spec, inventory)
    trainable = [parameter for parameter in ours if parameter.tensor.requires_grad]
    if not trainable:
        got = f"{len(ours)} parameters, all frozen" if ours else "a module without parameters"
        do = "unfreeze some, or pass the right module"
        raise SolverError("module", "has no trainable parameters", got=got, do=do)
    refuse_flattened(module, trainable, sources)

    @functools.cache
    def depths() -> Depths:
        return find_depths(module, inventory, spec.depth)

    selection = Selection(ours, first_names=spec.tied == "first", depths=depths, notes=notes)
    matched = selection.matched(sources)
    resolve = functools.partial(_in_steps, run)
    cascade = Cascade(
        sources,
        members,
        chooses=chooses,
        decay=spec.decay(),
        depths=depths,
        resolve=resolve,
        lr_factor=factor,
    )
    settings = {
        id(parameter.tensor): cascade.settings(parameter, names)
        for parameter, names in zip(ours, matched)
        if parameter.tensor.requires_grad
    }
    trained = [parameter for parameter in trainable if settings[id(parameter.tensor)].frozen is not True]
    if not trained:
        do = "let some of the parameters be trained"
        raise SolverError("rules", "leave every parameter out of the optimiser", do=do)
    used = list(dict.fromkeys(settings[id(parameter.tensor)].member for parameter in trained))
    groups = group_parameters(trained, settings, by_scale=tells_scales_apart(spec), several=len(used) > 1)
    try_groups(groups, settings)
    note_idle(sources, ours, matched, settings, notes)
    refuse_closures(used)
    note_unused(members, used, notes)
    check_frozen(spec, run, groups, notes)
    note_accumulation(spec, run, notes)
    for index, source in enumerate(sources):
        for option in source.rule.schedules:
            _slot_of_some(option, [chooses[index]] if index in chooses else members, source)
    feed = Feed()
    curves = {option: lay_checked(spec, run, option, groups, feed, notes) for option in scheduled_options(spec, groups)}
    note_still(curves.get("lr"), groups, run, notes)
    clips = plan_clips(
        spec.clip,
        module,
        [group.tensors for group in groups],
        run,
        names={id(tensor): name for group in groups for name, tensor in zip(group.names, group.tensors)},
        beyond=spec.beyond_run,
        depths=depths,
        notes=notes,
    )
    asked = depths() if depths.cache_info().currsize else None  # nothing is worked out that nothing has asked for
    note_depths(spec, asked, notes)
    note_schedule_free(curves, groups, run, notes)
    averages = plan_averages(
        spec.averages,
        module,
        run,
        scope=scope_of([parameter.tensor for parameter in trained], spec.only),
        optimizers=[member.recipe.cls for member in used],
        notes=notes,
    )
    return Plan(
        spec=spec,
        run=run,
        members=(members[0], *(member for member in used if member is not members[0])),
        groups=groups,
        parameters=_by_name(trained, groups),
        reasons=FrozenDict({p.name: settings[id(p.tensor)].reasons for p in trained}),
        left_out=FrozenDict(left_out | _left_out(ours, settings)),
        depths=asked,
        curves=FrozenDict(curves),
        monitors=frozenset(feed.monitors),
        routes=routes(selection, trained, settings) if len(used) > 1 else (),
        sparse=tuple(sparse_parameters(module)),
        clips=clips,
        averages=FrozenDict(averages),
        never=tuple(p.tensor for p in trainable if settings[id(p.tensor)].frozen is True),
        notes=tuple(dict.fromkeys(notes)),
    )


def _share(spec: SolverSpec, inventory: Sequence[Parameter]) -> tuple[list[Parameter], dict[str, str]]:
    """The parameters that the spec is about, and why the others are not."""
    if spec.only is None:
        return list(inventory), {}
    patterns = spec.only if isinstance(spec.only, tuple) else (spec.only,)
    ours: list[Parameter] = []
    left_out: dict[str, str] = {}
    unseen = dict.fromkeys(patterns)
    tests = {pattern: re.compile(fnmatch.translate(str(pattern))) for pattern in patterns}
    for parameter in inventory:
        hits = [p for p, test in tests.items() if any(test.match(place.name) for place in parameter.places)]
        for pattern in hits:
            unseen.pop(pattern, None)
        if hits:
            ours.append(parameter)
        else:
            trainable = parameter.tensor.requires_grad
            left_out[parameter.name] = "trained by another optimiser" if trainable else "frozen"
    for pattern in unseen:
        names = ", ".join(dict.fromkeys(parameter.name.partition(".")[0] for parameter in inventory))
        raise SolverError("only", "matches no parameter", got=repr(pattern), do=f"names start with: {names}")
    return ours, left_out


def _in_steps(run: RunLength, duration: int | str, where: str, times: int) -> Fraction:
    once = Duration.parse(duration, where)
    return Duration(tuple((value * times, unit) for value, unit in once.terms)).resolve(run, where)


def _slot_of_some(option: str, members: Sequence[Member], source: Source) -> None:
    """A rule may schedule what one of the optimisers has."""
    where = f"{source.where}.schedules.{option}"
    for member in members[:-1]:
        try:
            member.recipe.slot(option, where)
        except SolverError:
            continue
        return
    members[-1].recipe.slot(option, where)


def _by_name(trained: Sequence[Parameter], groups: Sequence[Group]) -> Mapping[str, Mapping[str, Any]]:
    """Name -> group and values; the parameters of a group share one mapping."""
    shared = {
        name: values
        for group in groups
        for values in [FrozenDict({"group": group.name, **group.options})]
        for name in group.names
    }
    return FrozenDict({parameter.name: shared[parameter.name] for parameter in trained})


def _left_out(inventory: Sequence[Parameter], settings: Mapping[int, Settings]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for parameter in inventory:
        own = settings.get(id(parameter.tensor))
        if own is None:
            reasons[parameter.name] = "frozen"
        elif own.frozen is True and own.frozen_by is not None:
            reasons[parameter.name] = f"frozen by {own.frozen_by.label}"
        for place in parameter.places[1:]:
            reasons[place.name] = f"same tensor as {parameter.name}"
    return reasons
