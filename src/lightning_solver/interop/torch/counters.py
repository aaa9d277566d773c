"""Counters: which scheduler steps when."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from lightning_solver.errors import SolverError
from lightning_solver.interop.torch.arguments import Leaf
from lightning_solver.interop.torch.rates import OWN, Rate, Ticks


@dataclass
class _State:
    """What schedulers change while they are made and stepped, for one group."""

    rate: Rate | None = OWN
    initial: Rate | None = None
    momentum: float | None = None
    made: bool = False
    calls: list[tuple[Single, str]] = field(default_factory=list)


class Single:
    """A scheduler with its counters."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf, self.epoch, self.count, self.base = leaf, -1, 0, OWN

    @property
    def k(self) -> int:
        """By how many calls it has moved on."""
        return self.count - 1 if self.leaf.counts else self.epoch

    @property
    def closed(self) -> bool:
        """Whether it writes its rate whatever it finds."""
        return self.leaf.closed_from is not None and self.k >= self.leaf.closed_from

    def make(self, state: _State) -> None:
        """Its constructor."""
        leaf = self.leaf
        if leaf.initial is not None and not leaf.claims:
            state.initial = leaf.initial
        if state.initial is None:
            state.initial = leaf.initial or state.rate
        self.base = state.initial or OWN
        self._moved(state, "made")

    def open(self, state: _State) -> None:
        """The step that its constructor makes."""
        self.count = 0
        self._moved(state, "initial")

    def step(self, state: _State) -> None:
        """``step()``."""
        self._moved(state, "stepped")

    def reset(self, state: _State) -> None:
        """What ``SequentialLR`` calls at a milestone."""
        self.epoch = 0
        self._note(state, "reset")

    def undo(self) -> None:
        """What ``SequentialLR`` does to the schedulers that it is given."""
        self.epoch -= 1

    def skip(self, calls: int) -> None:
        """So many calls of ``step()`` at once."""
        self.epoch += calls
        self.count += calls

    def event(self) -> int | None:
        """Calls of ``step()`` until something switches."""
        closes = self.leaf.closed_from
        return closes - self.k if closes is not None and self.k < closes else None

    def active(self) -> list[Single]:
        """Who is stepped."""
        return [self]

    def _moved(self, state: _State, entry: str) -> None:
        self.epoch = max(self.epoch + 1, 0) if self.leaf.from_base else self.epoch + 1
        self.count += 1
        self._note(state, entry)

    def _note(self, state: _State, entry: str) -> None:
        state.calls.append((self, entry))
        if state.made:
            return
        if self.leaf.momentum is not None:
            state.momentum = self.leaf.first_momentum
        if self.closed:
            by_base = self.leaf.from_base or (self.leaf.claims and entry == "made")
            state.rate = self.base if by_base else self.leaf.first
        elif state.rate is not None:
            state.rate = self.leaf.opened(entry, state.rate, self.base)


@dataclass
class Together:
    """Schedulers that are all stepped, in order: ``ChainedScheduler``, or several in a training loop."""

    of: Sequence[Node]
    where: str = "config"

    def make(self, state: _State) -> None:
        """The constructors are called."""
        for node in self.of:
            node.make(state)

    def open(self, state: _State) -> None:
        """Call 0, as SequentialLR or the loop makes it."""
        self.step(state)

    def step(self, state: _State) -> None:
        """``step()`` is called."""
        for node in self.of:
            node.step(state)

    def reset(self, state: _State) -> None:
        """SequentialLR begins it anew at its milestone."""
        raise _no_start(self.where, "ChainedScheduler")

    def undo(self) -> None:
        """SequentialLR takes back what the constructor did."""
        for node in self.of:
            node.undo()

    def skip(self, calls: int) -> None:
        """So many calls in which nothing switches."""
        for node in self.of:
            node.skip(calls)

    def event(self) -> int | None:
        """How many calls there are until something switches; ``None`` if nothing does."""
        return min((event for node in self.of if (event := node.event()) is not None), default=None)

    def active(self) -> list[Single]:
        """The schedulers that are at work."""
        return [one for node in self.of for one in node.active()]


@dataclass
class OneByOne:
    """Schedulers one after another: ``SequentialLR``."""

    of: Sequence[Node]
    milestones: Sequence[int]
    where: str
    epoch: int = 0

    @property
    def _index(self) -> int:
        return bisect_right(self.milestones, self.epoch)

    def make(self, state: _State) -> None:
        """The constructors are called."""
        for node in self.of:
            node.make(state)
        state.rate = state.initial
        self.undo()
        self.of[self._index].open(state)

    def open(self, state: _State) -> None:
        """Call 0, as SequentialLR or the loop makes it."""
        self.step(state)  # torch counts this one: a SequentialLR that is the first of another runs one call early

    def step(self, state: _State) -> None:
        """``step()`` is called."""
        self.epoch += 1
        node = self.of[self._index]
        if self._index and self.milestones[self._index - 1] == self.epoch:
            node.reset(state)
        else:
            node.step(state)

    def reset(self, state: _State) -> None:
        """SequentialLR begins it anew at its milestone."""
        raise _no_start(self.where, "SequentialLR")

    def undo(self) -> None:
        """SequentialLR takes back what the constructor did."""
        for node in self.of:
            node.undo()

    def skip(self, calls: int) -> None:
        """So many calls in which nothing switches."""
        self.epoch += calls
        self.of[self._index].skip(calls)

    def event(self) -> int | None:
        """How many calls there are until something switches; ``None`` if nothing does."""
        events = [point - self.epoch for point in self.milestones if point > self.epoch][:1]
        inner = self.of[self._index].event()
        return min([*events, *([] if inner is None else [inner])], default=None)

    def active(self) -> list[Single]:
        """The schedulers that are at work."""
        return self.of[self._index].active()


@dataclass
class Switch:
    """``swa_scheduler.step() if epoch > swa_start else scheduler.step()``, with the schedulers in order."""

    of: Sequence[tuple[Node, bool]]
    start: int
    epoch: int = 0

    @property
    def _now(self) -> list[Node]:
        return [node for node, swa in self.of if swa == (self.epoch > self.start + 1)]

    def make(self, state: _State) -> None:
        """The constructors are called."""
        for node, _ in self.of:
            node.make(state)

    def step(self, state: _State) -> None:
        """``step()`` is called."""
        self.epoch += 1
        for node in self._now:
            node.step(state)

    def skip(self, calls: int) -> None:
        """So many calls in which nothing switches."""
        self.epoch += calls
        for node in self._now:
            node.skip(calls)

    def event(self) -> int | None:
        """How many calls there are until something switches; ``None`` if nothing does."""
        events = [event for node in self._now if (event := node.event()) is not None]
        if self.epoch <= self.start + 1:
            events.append(self.start + 2 - self.epoch)
        return min(events, default=None)

    def active(self) -> list[Single]:
        """The schedulers that are at work."""
        return [one for node in self._now for one in node.active()]


Node = Single | Together | OneByOne


def _no_start(where: str, name: str) -> SolverError:
    what = f"torch raises NotImplementedError when a {name} takes over inside a SequentialLR"
    return SolverError(where, what, got=name, do="put its schedulers into the SequentialLR themselves")


@dataclass
class Stretch:
    """The calls of ``step()`` from ``begin`` on during which the same schedulers are stepped.

    Args:
        begin: The first call.
        end: The call that belongs to the next stretch; ``None`` if there is none.
        who: The schedulers in order, each with its own count at ``begin``.
        calls: How each of them made the first call.
        closed: Whether the first of ``who`` writes its rate whatever it finds.
        rate: The rate after the first call, where it is known.
    """

    begin: Fraction
    end: Fraction | None
    who: list[tuple[Single, int]]
    calls: dict[int, str]
    closed: bool
    rate: Rate | None


def stretches_of(node: Together | Switch, ticks: Ticks) -> tuple[list[Stretch], float | None]:
    """Who is stepped when; and the momentum that the constructors leave."""
    state = _State()
    node.make(state)
    state.made = True
    found: list[Stretch] = []
    begin, rate = 0, state.rate
    while True:
        count = node.event()
        who = node.active()
        calls = {id(one): entry for one, entry in state.calls}
        end = None if count is None else Fraction(begin + count)
        counts = [(one, one.k) for one in who]
        closed = [i for i, one in enumerate(who) if one.closed]
        found.append(Stretch(Fraction(begin), end, counts, calls, bool(closed), rate))
        if count is None or (ticks.total is not None and begin + count >= ticks.total):
            return found, state.momentum
        node.skip(count - 1)
        state.calls.clear()
        node.step(state)
        begin, rate = begin + count, None


def merged_of(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches without schedulers whose rate another one overwrites, and without switches among those."""
    merged: list[Stretch] = []
    for stretch in stretches:
        last = max((i for i, (one, k) in enumerate(stretch.who) if _writes(one, k)), default=0)
        who = stretch.who[last:]
        goes_on = (
            merged
            and [one for one, _ in merged[-1].who] == [one for one, _ in who]
            and all(stretch.calls.get(id(one)) != "reset" for one, _ in who)
            and merged[-1].closed == stretch.closed
        )
        if goes_on:
            merged[-1].end = stretch.end
        else:
            merged.append(dataclasses.replace(stretch, who=who))
    return merged


def _writes(one: Single, k: int) -> bool:
    return one.leaf.closed_from is not None and k >= one.leaf.closed_from
