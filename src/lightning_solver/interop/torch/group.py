"""The schedules of one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Phases, simple
from lightning_solver.interop.reading import Call, Name
from lightning_solver.interop.torch.arguments import Args
from lightning_solver.interop.torch.classes import KINDS, read_plateau
from lightning_solver.interop.torch.counters import Node, OneByOne, Single, Switch, Together, merged_of, stretches_of
from lightning_solver.interop.torch.layout import course, inexpressible, settled
from lightning_solver.interop.torch.rates import Phase, Ticks, written_of
from lightning_solver.interop.torch.reading import Entry, Given, inside, whole_of
from lightning_solver.interop.torch.signatures import COMPOSITES
from lightning_solver.schedules import Plateau, Product, Shift, Staircase


def one_group(given: Given, group: int) -> tuple[dict[str, Phases], dict[str, int]]:
    """The schedules of one group, and the lengths of the lists that have one entry for each group, by their paths."""
    sizes: dict[str, int] = {}
    optimizers: dict[str, str] = {}
    shared: dict[str, Any] = {}

    def leaf(call: Call, where: str) -> Args:
        args = Args(call, where, group, given, sizes, shared)
        if isinstance(args.optimizer, Name):
            optimizers[args.optimizer.text] = where
        elif isinstance(args.optimizer, (int, float, list)):
            raise SolverError(where, "has no optimizer", got=repr(args.optimizer), do="write it as torch has it")
        return args

    def node(call: Call, where: str) -> Node:
        if call.name in COMPOSITES:
            return _composite(call, where, leaf(call, where), node, given)
        if call.name not in KINDS:
            do = suggestion(call.name, [*KINDS, *COMPOSITES], "schedulers")
            raise SolverError(where, "is not a scheduler of torch", got=call.name, do=do)
        args = leaf(call, where)
        kind = KINDS[call.name]
        assert kind is not None
        made = Single(kind(args))
        args.settings.rest()
        return made

    plateaus = [
        _plateau_of(entry, leaf(entry.call, entry.where), given)
        for entry in given.entries
        if entry.call.name == "ReduceLROnPlateau"
    ]
    entries = [entry for entry in given.entries if entry.call.name != "ReduceLROnPlateau"]
    by_ticks: dict[tuple[str, int], list[tuple[Entry, Node]]] = {}
    for entry in entries:
        made = node(entry.call, entry.where)
        by_ticks.setdefault(_ticks_of(entry, given), []).append((entry, made))
    if len(optimizers) > 1:
        got = " and ".join(optimizers)
        raise SolverError("config", "has schedulers of several optimisers", got=got, do="import those of one at a time")
    return _joined(by_ticks, plateaus, given), sizes


def _composite(call: Call, where: str, args: Args, node: Callable[[Call, str], Node], given: Given) -> Node:
    schedulers = args.needed("schedulers")
    path = args.path("schedulers")
    if isinstance(schedulers, (str, Mapping)):
        schedulers = [schedulers]
    if not isinstance(schedulers, (list, tuple)) or not schedulers:
        raise SolverError(path, "must be a list of schedulers", got=repr(schedulers)[:80], do="give at least one")
    nodes = []
    for i, item in enumerate(schedulers):
        inner = item if isinstance(item, Call) else given._call(item, f"{path}[{i}]")
        if inner.name == "ReduceLROnPlateau":
            do = "step it beside the others"
            raise SolverError(f"{path}[{i}]", f"torch's {call.name} takes no ReduceLROnPlateau", got=inner.name, do=do)
        nodes.append(node(inner, f"{path}[{i}]"))
    if call.name == "ChainedScheduler":
        args.settings.rest()
        return Together(nodes, where)
    path = args.path("milestones")
    milestones = args.needed("milestones")
    if not isinstance(milestones, (list, tuple)) or len(milestones) != len(nodes) - 1:
        got = f"{milestones!r} for {len(nodes)} schedulers"
        raise SolverError(path, "must have one entry less than there are schedulers", got=got, do="correct it")
    points = [whole_of(point, f"{path}[{i}]") for i, point in enumerate(milestones)]
    if points != sorted(points):
        raise SolverError(path, "must grow", got=repr(milestones), do="sort them")
    args.settings.rest()
    return OneByOne(nodes, points, where)


def _plateau_of(entry: Entry, args: Args, given: Given) -> Plateau:
    if entry.frequency != 1:
        do = "follow the metric every time that it is logged"
        raise SolverError(f"{entry.where}.frequency", "has no counterpart here", got=str(entry.frequency), do=do)
    monitor = entry.monitor or args._raw.get("monitor")
    args.settings.ignore("monitor")
    if monitor is None:
        metrics = given.facts.get("metrics")
        named = list(metrics) if isinstance(metrics, Mapping) else []
        monitor = named[0] if len(named) == 1 else "val_loss"
        given.notes.say(entry.where, f"the metric is taken to be logged as {monitor}: torch knows no names")
    plateau = read_plateau(args, str(monitor))
    args.settings.rest()
    return plateau


def _ticks_of(entry: Entry, given: Given) -> tuple[str, int]:
    """When ``step()`` is called: the unit, and how many of it lie between two calls."""
    if entry.interval is not None:
        return ("ep" if entry.interval == "epoch" else "st"), entry.frequency
    said = given.step_on or given.facts.get("step_on")
    if said is None and given.step_call is not None and given.step_call[0] == "fraction":
        said = "step"
    names = {entry.call.name, *(call.name for call in inside(entry.call))}
    if said is None and names & {"OneCycleLR", "CyclicLR"}:
        said = "step"
    if said is None and given.swa_start is not None:
        given.notes.say("swa_start", "the schedulers are taken to be stepped once per epoch")
        said = "epoch"
    if said is None:
        given.facts.need("step_on", entry.where, "depends on whether step() is called per step or per epoch")
    if said not in ("step", "epoch"):
        raise SolverError("facts.step_on", "unknown value", got=repr(said), do="give step or epoch")
    return ("ep" if said == "epoch" else "st"), 1


def _joined(
    by_ticks: Mapping[tuple[str, int], list[tuple[Entry, Node]]], plateaus: Sequence[Plateau], given: Given
) -> dict[str, Phases]:
    """The schedules of schedulers that are stepped together, also at different intervals and by a metric."""
    steps, epochs = given.length_of_run()
    rates: list[Phases] = []
    schedules: dict[str, Phases] = {}
    for (unit, every), members in by_ticks.items():
        total = steps if unit == "st" else epochs
        ticks = Ticks(every, unit, None if total is None else total / every)
        node = _loop(members, given)
        if given.step_call is not None:
            rate, momentum = _called_with(given.step_call, members, ticks, given)
        else:
            ticks = _with_horizon(node, ticks, given)
            rate, momentum = (_native(phases, ticks) for phases in course(_loop(members, given), ticks))
        if len(by_ticks) > 1 or plateaus:
            _check_factor(_loop(members, given), ticks, plateaus)
        rates.append(rate)
        if momentum:
            schedules["momentum"] = momentum
    parts = [*plateaus, *rates]
    return {"lr": parts[0] if len(parts) == 1 else Product(parts), **schedules}


def _loop(members: Sequence[tuple[Entry, Node]], given: Given) -> Together | Switch:
    """What a training loop steps, with fresh counters."""
    nodes = [(_fresh(node), entry.call.name == "SWALR") for entry, node in members]
    if given.swa_start is None:
        return Together([node for node, _ in nodes])
    if not any(swa for _, swa in nodes):
        raise SolverError("swa_start", "needs a SWALR", got=str(given.swa_start), do="add it, or leave swa_start out")
    return Switch(nodes, given.swa_start)


def _fresh(node: Node) -> Node:
    if isinstance(node, Single):
        return Single(node.leaf)
    if isinstance(node, Together):
        return Together([_fresh(inner) for inner in node.of], node.where)
    return OneByOne([_fresh(inner) for inner in node.of], node.milestones, node.where)


def _native(phases: Sequence[Phase], ticks: Ticks) -> Phases:
    written = written_of(phases, 0, ticks)
    if ticks.stairs and not all(phase.stairs for phase in phases[: len(written)]):
        return Staircase(simple(written), every=ticks.text(1))
    return simple(written) if written else ()


def _with_horizon(node: Together | Switch, ticks: Ticks, given: Given) -> Ticks:
    """Where nothing says how long the run is, it is as long as its last schedulers are made for."""
    last = stretches_of(node, ticks)[0][-1]
    ends = [(last.begin - k + one.leaf.horizon, one.leaf) for one, k in last.who if one.leaf.horizon is not None]
    if not ends:
        return ticks
    end, leaf = max(ends, key=lambda pair: pair[0])
    if ticks.total is None:
        ticks = dataclasses.replace(ticks, total=end)
    if ticks.total == end:
        steps = end * ticks.every
        name = "max_epochs" if ticks.unit == "ep" else "max_steps"
        unit = "epochs" if ticks.unit == "ep" else "steps"
        what = f"is made for {float(steps):g} {unit}: Trainer({name}={float(steps):g})"
        given.notes.say(f"{leaf.where}.{leaf.horizon_name}", what)
    return ticks


def _check_factor(node: Together | Switch, ticks: Ticks, plateaus: Sequence[Plateau]) -> None:
    """Refuse what does not act as a factor onto other schedules."""
    stretches = merged_of(stretches_of(node, ticks)[0])
    for stretch in stretches:
        for one, k in stretch.who:
            leaf = one.leaf
            if stretch.closed or leaf.floor or (stretch.begin and stretch.calls.get(id(one)) == "reset"):
                raise inexpressible(leaf, "beside schedulers that are stepped at other times or by a metric")
            turn = None if leaf.turns is None or leaf.turns.denominator != 1 else stretch.begin + leaf.turns - k
            if turn is not None and ticks.total is not None and ticks.total > turn + 1:
                raise inexpressible(leaf, "past its T_max, beside schedulers that are stepped at other times")
            held = leaf.factor is not None and settled(leaf, 10**9) and leaf.factor(10**9) == 1
            if any(plateau.min for plateau in plateaus) and not held:
                do = "set min_lr=0"
                what = f"min_lr beside {leaf.name}: torch compares it with the rate that both have made"
                raise SolverError(leaf.where, what, got=leaf.name, do=do)


def _called_with(
    argument: tuple[str, int], members: Sequence[tuple[Entry, Node]], ticks: Ticks, given: Given
) -> tuple[Phases, Phases]:
    """A scheduler that is told the epoch: ``scheduler.step(epoch + i / iters)``, ``scheduler.step(epoch)``."""
    kind, plus = argument
    entry, node = members[0]
    if len(members) > 1 or not isinstance(node, Single) or node.leaf.counts or node.leaf.multiplier is not None:
        do = "step them by scheduler.step()"
        raise SolverError("step_call", "only a single scheduler with a closed form is read", got=entry.call.name, do=do)
    epochs = given.length_of_run()[1]
    by_step = ticks.unit == "st"
    if kind == "fraction" and not by_step:
        do = "call it after every step, or write scheduler.step()"
        raise SolverError("step_call", "gives a share of an epoch once per epoch", got=str(argument), do=do)
    if kind == "epoch" and plus and by_step:
        do = "call it once per epoch"
        raise SolverError("step_call", "gives epoch + 1 after every step", got="step_on: step", do=do)
    inner = Ticks(1, "ep", epochs, told=True, smooth=kind == "fraction")
    inner = _with_horizon(_loop(members, given), inner, given)
    courses = course(_loop(members, given), inner)
    if plus:
        rate, momentum = (_native(phases, inner) for phases in courses)
        return rate, momentum
    later = 1 if by_step else "1ep"
    given.notes.say(
        "step_call", f"tells the epoch that is over: the first two {'steps' if by_step else 'epochs'} are alike"
    )
    rate, momentum = (Shift(_native(phases, inner), later=later) if phases else () for phases in courses)
    return rate, momentum
