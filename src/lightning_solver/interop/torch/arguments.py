"""What a scheduler class does, and its arguments for one group."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.reading import Call, Name, Unread
from lightning_solver.interop.torch.rates import At, Phase, Rate, Ticks
from lightning_solver.interop.torch.reading import Given, whole_of
from lightning_solver.interop.torch.signatures import SIGNATURES
from lightning_solver.plain import import_dotted


def found_of(entry: str, rate: Rate, base: Rate) -> Rate:
    """The rate with which a scheduler begins that goes on from what it finds."""
    return base if entry == "reset" else rate


@dataclass(frozen=True)
class Leaf:
    """What one scheduler does, for one group. Its calls are counted from 0, the one its constructor makes.

    Args:
        name: Its class.
        where: Its path.
        phases: Its course from a call on.
        factor: A recursive scheduler's rate after ``k`` calls, as a factor; the course above is relative to it.
        opened: The rate after call 0, by how it is made (``made`` by the constructor, ``initial`` by SequentialLR,
            ``reset`` at a milestone, ``stepped``), from the rate that it finds and the base.
        floor: The rate that it decays to.
        closed_from: The call from which on it writes its rate whatever it finds.
        first: The rate that it then writes at call 0, where it is known.
        from_base: Whether that is the base.
        initial: The rate that it makes the base of itself and of those made later.
        claims: Whether it does so only where there is no base yet.
        momentum: The course of the momentum from a call on.
        first_momentum: The momentum at call 0.
        turns: The call at which it leaves its floor again.
        dead: Whether it multiplies by 0 more than once.
        horizon: The call at which the run is expected to end.
        limit: The call after which torch raises.
        counts: Whether it counts its calls, and not the number of the epoch.
        multiplier: The function of a MultiplicativeLR.
        moves: Its factors from one call to the next, for :func:`_moves`.
    """

    name: str
    where: str
    phases: Callable[[At], list[Phase]]
    factor: Callable[[int], float] | None = None
    opened: Callable[[str, Rate, Rate], Rate] = found_of
    floor: float = 0.0
    closed_from: int | None = None
    first: Rate | None = None
    from_base: bool = False
    initial: Rate | None = None
    claims: bool = False
    momentum: Callable[[Ticks, Fraction], list[Phase]] | None = None
    first_momentum: float = 0.0
    turns: Fraction | None = None
    dead: bool = False
    horizon: Fraction | None = None
    horizon_name: str = ""
    limit: int | None = None
    counts: bool = False
    multiplier: Any = None
    moves: Callable[[Ticks], list[Phase]] | None = None


class Args:
    """The arguments of a constructor, for one group."""

    def __init__(
        self, call: Call, where: str, group: int, given: Given, sizes: dict[str, int], shared: dict[str, Any]
    ) -> None:
        names = SIGNATURES[call.name].split()
        bound = call.bound(names, where)
        for key in [key for key in bound if key not in names and key not in ("verbose", "monitor")]:
            given.notes.unknown(f"{where}.{key}", key, call.name, names)
            del bound[key]
        bound = {key: Unread(v.text) if isinstance(v, Name) and key != "optimizer" else v for key, v in bound.items()}
        self.optimizer = bound.pop("optimizer", None)
        if "verbose" in bound:
            given.notes.say(f"{where}.verbose", "is not read: torch has dropped it")
            del bound["verbose"]
        self.name, self.where, self.group = call.name, where, group
        self.given, self.sizes, self.shared = given, sizes, shared
        self._raw = bound
        self.settings = Settings(bound, where, given.notes)
        if self.settings.number("last_epoch", -1) != -1:
            do = "import the schedule from its start, and resume by this package's own checkpoints"
            raise SolverError(f"{where}.last_epoch", "must be -1", got=repr(bound["last_epoch"]), do=do)

    def path(self, key: str) -> str:
        """The path of an argument, for messages."""
        return self.settings.path(key)

    def share(self, key: str, value: Any) -> None:
        """Refuse values that torch keeps in the groups themselves, where two schedulers overwrite each other's."""
        if self.shared.setdefault(key, value) != value:
            what = f"{self.name} overwrites in the groups what another one has put there: no schedule says that"
            raise SolverError(self.where, what, got=f"{self.shared[key]} and {value}", do="give both the same values")

    def take(self, key: str, default: Any = None) -> Any:
        """An argument as it is."""
        return self.settings.take(key, default)

    def needed(self, key: str) -> Any:
        """An argument that has no default."""
        return self.settings.needed(key)

    def number(self, key: str, default: float | None = None, low: float | None = None) -> float:
        """A number, at least ``low``."""
        if default is None:
            self.needed(key)
        return float(self.settings.number(key, default, low=low))

    def whole(self, key: str, default: int | None = None, low: int = 0) -> int:
        """A whole number, at least ``low``."""
        if default is None:
            self.needed(key)
        return whole_of(self.settings.number(key, default), self.path(key), low)

    def integer(self, key: str, default: int | None = None, low: int = 0) -> int:
        """A whole number that torch wants as an ``int``."""
        value = self.needed(key) if default is None else self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise SolverError(self.path(key), f"must be a whole number >= {low}", got=repr(value), do="correct it")
        return value

    def each(self, key: str, default: Any = None) -> Any:
        """A value that may be a list with one for every group: that of this group."""
        value = self.needed(key) if default is None else self.take(key, default)
        if not isinstance(value, (list, tuple)):
            return value
        self.sizes[self.path(key)] = len(value)
        if self.group >= len(value):
            return value[-1] if value else self._empty(key)
        return value[self.group]

    def _empty(self, key: str) -> Any:
        raise SolverError(self.path(key), "is empty", got="[]", do="give one for each group")

    def rate(self, key: str, default: float | None = None) -> float:
        """A number, perhaps one for every group."""
        value = self.each(key, default)
        return float(Settings({key: value}, self.where, self.given.notes).number(key, low=0))

    def function(self, key: str) -> Any:
        """A function or its dotted path, perhaps one for every group; text of a function is looked up in the facts."""
        value = self._raw.get(key)
        if isinstance(value, (list, tuple)):
            self.sizes[self.path(key)] = len(value)
            value = value[min(self.group, len(value) - 1)] if value else self._empty(key)
        self.settings.ignore(key)
        if callable(value):
            return value
        if isinstance(value, Unread | Name):
            value = value.text
        elif isinstance(value, str) and all(part.isidentifier() for part in value.split(".")) and "." in value:
            return value
        if value is None:
            return self.needed(key)
        functions = self.given.facts.get("functions") or {}
        for text, function in functions.items():
            if _normal(text) == _normal(str(value)):
                return function
        do = "hand over the function itself or its dotted path, or give facts={'functions': {TEXT: function}}"
        what = "is the text of a function, which is never evaluated"
        raise SolverError(self.path(key), what, got=repr(value), do=do)


def _normal(text: str) -> str:
    try:
        return ast.unparse(ast.parse(text.strip(), mode="eval"))
    except SyntaxError:
        return text


def callable_of(function: Any, where: str) -> Callable[..., Any]:
    """A function that is handed over, or named by its dotted path."""
    found = import_dotted(function, where) if isinstance(function, str) else function
    if not callable(found):
        raise SolverError(where, "is not a function", got=repr(function), do="name a function of one number")
    called: Callable[..., Any] = found
    return called
