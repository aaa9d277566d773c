"""What will happen: a spec, a model and the length of the run, worked out before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.groups import Group, group_parameters
from lightning_solver.optimizers.recipe import Recipe, Slot, resolve_optimizer
from lightning_solver.plain import FrozenDict, thaw
from lightning_solver.rules.cascade import Cascade, Settings, Source, select
from lightning_solver.rules.inventory import Parameter, flat_parameters, is_flattened, take_inventory
from lightning_solver.schedules.base import Curve, Floats, Window, run_window
from lightning_solver.schedules.chain import Chain
from lightning_solver.schedules.combine import Sum, lay_by_group
from lightning_solver.schedules.curves import Fixed
from lightning_solver.schedules.functions import Function
from lightning_solver.schedules.join import contains
from lightning_solver.schedules.plateau import Feed
from lightning_solver.rule import Rule
from lightning_solver.spec import SolverSpec, refuse_negative, whole_steps

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
        recipe: The optimiser's class and arguments.
        groups: The parameter groups, in the order in which the optimiser gets them.
        parameters: Qualified name -> mapping of ``group``, ``lr``, ``weight_decay`` and every other option to its base
            value, before any schedule and with every scale included; in the order of ``module.named_parameters()``.
        reasons: Qualified name -> option -> what set it.
        left_out: Qualified name -> why the optimiser does not get it.
        curves: Scheduled option -> its curve over all groups, with every metric-driven factor as it is at the start.
        monitors: Names of the metrics that schedules follow.
        notes: What is odd but clear.
    """

    spec: SolverSpec
    run: RunLength
    recipe: Recipe
    groups: tuple[Group, ...]
    parameters: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]
    curves: Mapping[str, Curve]
    monitors: frozenset[str]
    notes: tuple[str, ...]

    def curve(self, option: str) -> Floats:
        """The values of an option over the whole run.

        Args:
            option: ``lr``, ``weight_decay``, ``momentum`` (which stands for ``betas[0]`` where there is no momentum),
                ``beta2`` or any other numeric option of the optimiser.

        Returns:
            float64 array of shape (total_steps, number of groups); row ``i`` is what the optimiser holds when step
            ``i`` (0-based) is taken.

        Raises:
            SolverError: The optimiser has no such option, or the length of the run is not known.
        """
        return self.curve_of(option).over(np.arange(whole_steps(self.run)))

    def curve_of(self, option: str) -> Curve:
        """The curve of an option, scheduled or not, to be asked for single steps."""
        if option in self.curves:
            return self.curves[option]
        slot = self.recipe.slot(option, option)
        return Fixed(tuple(slot.read(group.options) for group in self.groups))

    def slot(self, option: str) -> Slot:
        """Where the optimiser's groups keep an option."""
        return self.recipe.slot(option, option)

    def build(self) -> tuple[Optimizer, PlanScheduler]:
        """The optimiser, its groups named and at their values of step 0, and the scheduler that moves them.

        Both are plain torch objects for any loop: call ``scheduler.step()`` after each ``optimizer.step()``, never per
        epoch. Optimiser state that is loaded is assigned by parameter name.
        """
        from lightning_solver.scheduler import PlanScheduler

        groups = [{"params": list(group.tensors)} | self.recipe.changed(group.options) for group in self.groups]
        optimizer = self.recipe.build(groups)
        for made, group in zip(optimizer.param_groups, self.groups):
            made["name"] = group.name
            made["param_names"] = list(group.names)
        return optimizer, PlanScheduler(optimizer, self)

    def follow_metrics(self) -> tuple[Feed, Mapping[str, Curve]]:
        """The curves with trackers of their own, which a scheduler feeds with metrics while it runs."""
        if not self.monitors:
            return Feed(), self.curves
        feed, of = Feed(), (self.spec, self.recipe, self.run)
        return feed, {option: _curve(*of, option, self.groups, feed)[0] for option in self.curves}

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
        """Draw the curve of every scheduled option of every group as text.

        Args:
            width: Columns of a drawing.
            height: Lines of a drawing.

        Raises:
            SolverError: The length of the run is not known.
        """
        from lightning_solver.chart import chart

        names = [group.name for group in self.groups]
        curves = {option: self.curve(option) for option in self.curves}
        drawings = [
            chart(dict(zip(names, values.T)), title=option, width=width, height=height)
            for option, values in curves.items()
        ]
        return "\n\n".join(drawings)

    def draw(self, path: str | Path) -> Path:
        """Draw the curve of every scheduled option of every group into a picture file.

        Args:
            path: File to write; its ending says the format (``plan.png``).

        Raises:
            SolverError: matplotlib is not installed, or the length of the run is not known.
        """
        from lightning_solver.drawing import draw

        return draw(self, Path(path))


def make_plan(spec: SolverSpec, module: nn.Module, run: RunLength) -> Plan:
    """Work out the plan; see :meth:`SolverSpec.plan`."""
    if spec.optimizer is None:
        do = "give optimizer: {name: AdamW, args: {lr: 0.001}}"
        raise SolverError("optimizer", "a spec without an optimiser has no plan", got="None", do=do)
    if not isinstance(module, nn.Module):
        raise SolverError("module", "must be a torch.nn.Module", got=repr(module), do="pass the module itself")
    spec.to_dict()  # which a checkpoint will hold: a function that has no name is found now
    recipe = resolve_optimizer(spec.optimizer, spec.lr)
    inventory = take_inventory(module)
    trainable = [parameter for parameter in inventory if parameter.tensor.requires_grad]
    if not trainable:
        got = f"{len(inventory)} parameters, all frozen" if inventory else "a module without parameters"
        raise SolverError(
            "module", "has no trainable parameters", got=got, do="unfreeze some, or pass the right module"
        )
    sources = _sources(spec, recipe)
    notes: list[str] = []
    _refuse_flattened(module, trainable, sources)
    matched = select(sources, inventory, notes)
    cascade = Cascade(sources, recipe.defaults, _base_reasons(spec, recipe), recipe.check_option)
    settings = {
        id(parameter.tensor): cascade.settings(parameter, names)
        for parameter, names in zip(inventory, matched)
        if parameter.tensor.requires_grad
    }
    groups = group_parameters(trainable, settings, recipe, by_scale=_by_scale(spec))
    for group in groups:
        recipe.try_options(group.options, f"group {group.name} ({_why(group, settings)})")
    recipe.try_groups([(group.options, group.tensors) for group in groups])
    _note_idle(sources, inventory, matched, settings, notes)
    for source in sources:
        for option in source.rule.schedules:
            recipe.slot(option, f"{source.where}.schedules.{option}")
    scheduled = dict.fromkeys([*spec.schedules, *(option for group in groups for option in group.schedules)])
    feed = Feed()
    curves = {option: _checked_curve(spec, recipe, run, option, groups, notes, feed) for option in scheduled}
    _note_still(curves, groups, _last_step(run), notes)
    member = {name: group.name for group in groups for name in group.names}
    return Plan(
        spec=spec,
        run=run,
        recipe=recipe,
        groups=groups,
        parameters=FrozenDict(
            {p.name: FrozenDict({"group": member[p.name], **settings[id(p.tensor)].values}) for p in trainable}
        ),
        reasons=FrozenDict({p.name: settings[id(p.tensor)].reasons for p in trainable}),
        left_out=FrozenDict(_left_out(inventory)),
        curves=FrozenDict(curves),
        monitors=frozenset(feed.monitors),
        notes=tuple(dict.fromkeys(notes)),
    )


def _sources(spec: SolverSpec, recipe: Recipe) -> list[Source]:
    sources = [Source(rule, f"rules[{i}]") for i, rule in enumerate(spec.rules)]
    if spec.default_rules and recipe.defaults.get("weight_decay"):
        sources.insert(0, Source(DEFAULT_RULE, "default_rules"))
    return sources


def _base_reasons(spec: SolverSpec, recipe: Recipe) -> dict[str, str]:
    reasons = dict.fromkeys(recipe.defaults, f"default of {recipe.cls.__name__}")
    reasons.update({option: "optimizer.args" for option in recipe.args if option in reasons})
    if spec.lr is not None:
        reasons["lr"] = "solver lr"
        if spec.optimizer is not None and "lr" in spec.optimizer.args:
            reasons["lr"] = f"solver lr, in place of optimizer.args.lr {spec.optimizer.args['lr']:g}"
    return reasons


def _refuse_flattened(module: nn.Module, trainable: Sequence[Parameter], sources: Sequence[Source]) -> None:
    flat = flat_parameters(list(trainable))
    if flat and sources:
        do = "use FSDPStrategy(use_orig_params=True) or FSDP2, or set default_rules: false and drop the rules"
        what = "FSDP1 has merged the parameters into flat ones, so that rules cannot tell them apart"
        raise SolverError(sources[0].where, what, got=flat[0], do=do)
    if not is_flattened(module):
        return
    for source in sources:
        if "ndim" in source.rule.selectors():
            do = "select by name, kind or class, or use FSDP2 (ModelParallelStrategy)"
            what = "FSDP1 has flattened the parameters, so that their dimensions are lost"
            raise SolverError(f"{source.where}.ndim", what, do=do)


def _left_out(inventory: Sequence[Parameter]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for parameter in inventory:
        if not parameter.tensor.requires_grad:
            reasons[parameter.name] = "frozen"
        for place in parameter.places[1:]:
            reasons[place.name] = f"same tensor as {parameter.name}"
    return reasons


def _why(group: Group, settings: Mapping[int, Settings]) -> str:
    reasons = settings[id(group.tensors[0])].reasons
    sources = settings[id(group.tensors[0])].sources
    return ", ".join(f"{option}: {reasons[option]}" for option in sources) or "no rule"


def _by_scale(spec: SolverSpec) -> bool:
    """Whether a schedule names a value that is ``scaled``."""
    written = [thaw(spec.schedules), *(thaw(rule.schedules) for rule in spec.rules)]
    return any("'scaled'" in repr(schedules) for schedules in written)


def _curve(
    spec: SolverSpec, recipe: Recipe, run: RunLength, option: str, groups: Sequence[Group], feed: Feed
) -> tuple[Curve, Window]:
    where = f"schedules.{option}"
    slot = recipe.slot(option, where)
    bases = [slot.read(group.options) for group in groups]
    scales = [group.scales.get(option, 1.0) for group in groups]
    own = slot.read(recipe.defaults)
    window = run_window(bases, run, where, own=own, beyond=spec.beyond_run, scales=scales, feed=feed)
    chosen = [group.schedules.get(option, (spec.schedules.get(option), where)) for group in groups]
    return lay_by_group([phases for phases, _ in chosen], window, [path for _, path in chosen]), window


def _checked_curve(
    spec: SolverSpec,
    recipe: Recipe,
    run: RunLength,
    option: str,
    groups: Sequence[Group],
    notes: list[str],
    feed: Feed,
) -> Curve:
    where, slot = f"schedules.{option}", recipe.slot(option, f"schedules.{option}")
    curve, window = _curve(spec, recipe, run, option, groups, feed)
    notes.extend(window.notes)
    last = _last_step(run)
    decays = slot.key in ("betas", "momentum")
    written = (spec.schedules.get(option), *(group.schedules.get(option, (None,))[0] for group in groups))
    anything = contains(written, (Function, Sum, Chain))  # which may fail, or go below 0, at any step
    seen = curve.over(np.arange(last + 1) if decays or anything else np.array([0, last // 2, last]))
    refuse_negative(seen, where)
    if decays and seen.max() >= 1:
        what, got = "reaches 1, with which nothing is ever forgotten", f"{seen.max():g}"
        if slot.key == "betas":
            do = "its values are factors of the base value: keep them below 1 / base"
            raise SolverError(where, what, got=got, do=do)
        notes.append(f"{where}: {what} ({got})")
    given = [group.name for group, base, column in zip(groups, window.bases, seen.T) if base == 0 and column.any()]
    notes.extend(f"{where}: is not 0 in group {name}, whose base value is 0" for name in given)
    return curve


def _note_idle(
    sources: Sequence[Source],
    inventory: Sequence[Parameter],
    matched: Sequence[Sequence[tuple[int, ...]]],
    settings: Mapping[int, Settings],
    notes: list[str],
) -> None:
    """Rules that had no effect: they select only frozen parameters, or others override all that they say."""
    reached: set[int] = set()
    trained: set[int] = set()
    for parameter, names in zip(inventory, matched):
        found = {index for indices in names for index in indices}
        reached |= found
        if parameter.tensor.requires_grad:
            trained |= found
    acting = {id(s) for known in settings.values() for chain in known.sources.values() for s in chain}
    acting |= {id(s) for known in settings.values() for s in known.scheduled_by.values()}
    for index in sorted(reached):
        source = sources[index]
        if index not in trained:
            notes.append(f"{source.label}: selects only frozen parameters")
        elif id(source) not in acting and source.where != "default_rules":
            notes.append(f"{source.label}: later rules override all that it says")


def _last_step(run: RunLength) -> int:
    """The number of the last step; of the first, where the length is not known."""
    return 0 if run.total_steps is None else int(run.total_steps) - 1


def _note_still(curves: Mapping[str, Curve], groups: Sequence[Group], last: int, notes: list[str]) -> None:
    if "lr" in curves and not any(curves["lr"].at(0)):
        notes.append("schedules.lr: the learning rate of the first step is 0, so that nothing is learnt in it")
    seen = curves["lr"].over(np.array([0, last // 2, last])) if "lr" in curves else np.zeros((1, len(groups)))
    for group, column in zip(groups, seen.T):
        if group.options.get("lr") == 0 and not column.any():
            notes.append(f"group {group.name}: its learning rate is 0, so that it is never trained")
