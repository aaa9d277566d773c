"""Sets of parameters as a script describes them: globs and dimensions, joined by and, or and not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError

_MOST_CLAUSES = 256
_DIMENSIONS = range(9)


@dataclass(frozen=True)
class Clause:
    """Parameters for which some conditions hold and others do not.

    A condition is a glob on the qualified name, or a number of dimensions that are allowed.

    Args:
        holds: Globs of which every one matches.
        fails: Globs of which none matches.
        ndim: Numbers of dimensions of which one is had; ``None`` for any.
    """

    holds: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    ndim: tuple[int, ...] | None = None

    def both(self, other: Clause) -> Clause | None:
        """The conditions of both; ``None`` where they contradict each other."""
        holds = tuple(dict.fromkeys([*self.holds, *other.holds]))
        fails = tuple(dict.fromkeys([*self.fails, *other.fails]))
        sets = [set(clause.ndim) for clause in (self, other) if clause.ndim is not None]
        ndim = tuple(sorted(set.intersection(*sets))) if sets else None
        never = any(_follows(narrow, wide) for narrow in holds for wide in fails)
        if never or "*" in fails or ndim == ():
            return None
        name = next(filter(_is_name, holds), None)
        if name is not None:  # of which it is known whether the other globs match it
            kept = all(_follows(name, glob) for glob in holds)
            return Clause((name,), (), ndim) if kept else None
        return Clause(holds, fails, ndim)

    def within(self, other: Clause) -> bool:
        """Whether all parameters of this clause are in the other one, as far as its conditions tell."""
        holds = all(glob == "*" or any(_follows(own, glob) for own in self.holds) for glob in other.holds)
        fails = all(any(_follows(glob, own) for own in self.fails) for glob in other.fails)
        return holds and fails and (other.ndim is None or (self.ndim is not None and {*self.ndim} <= {*other.ndim}))

    def opposites(self) -> Selection:
        """The parameters that are not of this clause."""
        return Selection(
            (
                *(Clause(fails=(glob,)) for glob in self.holds if glob != "*"),
                *(Clause(holds=(glob,)) for glob in self.fails),
                *([] if self.ndim is None else [Clause(ndim=tuple(n for n in _DIMENSIONS if n not in self.ndim))]),
            )
        )

    def globs(self) -> tuple[str, ...]:
        """The globs that match, without those that follow from others."""
        return tuple(
            glob
            for glob in self.holds
            if not any(_follows(other, glob) for other in self.holds if other != glob) and glob != "*"
        )

    def fields(self) -> dict[str, Any]:
        """The fields by which a rule selects these."""
        globs, unless = self.globs(), list[dict[str, Any]]()
        fields: dict[str, Any] = {"match": globs[0]} if globs else {}
        if len(globs) > 1:
            fields["regex"] = "^" + "".join(f"(?={_regex(glob)})" for glob in globs[1:])
        if self.fails:
            unless.append({"match": _one_or_all(self.fails)})
        if self.ndim is not None:
            others = [n for n in _DIMENSIONS if n not in self.ndim]
            if len(others) < len(self.ndim):
                unless.append({"ndim": _one_or_all(others)})
            else:
                fields["ndim"] = _one_or_all(self.ndim)
        fields = fields or {"match": "*"}
        return {**fields, "unless": _one_or_all(unless)} if unless else fields


@dataclass(frozen=True)
class Selection:
    """Parameters of which one of some clauses holds."""

    clauses: tuple[Clause, ...]

    def __or__(self, other: Selection) -> Selection:
        return _limited(tuple(dict.fromkeys([*self.clauses, *other.clauses])))

    def __and__(self, other: Selection) -> Selection:
        pairs = (a.both(b) for a, b in itertools.product(self.clauses, other.clauses))
        return _limited(tuple(dict.fromkeys(clause for clause in pairs if clause is not None)))

    def __invert__(self) -> Selection:
        plain = [clause for clause in self.clauses if len(clause.holds) == 1 and clause == Clause(clause.holds)]
        whole = Selection((Clause(fails=tuple(dict.fromkeys(clause.holds[0] for clause in plain))),))
        alone = {*plain}
        for clause in self.clauses:
            if clause not in alone:
                whole = whole & clause.opposites()
        return whole

    def parts(self) -> Iterator[dict[str, Any]]:
        """The fields of the rules that select these; clauses of one glob share one."""
        plain = [clause for clause in self.clauses if len(clause.globs()) == 1 and clause == Clause(clause.holds)]
        globs = [clause.globs()[0] for clause in plain]
        if globs:
            yield {"match": _one_or_all(globs)}
        alone = {*plain}
        for clause in self.clauses:
            if clause not in alone:
                yield clause.fields()


EVERYTHING = Selection((Clause(),))


def named(glob: str) -> Selection:
    """The parameters whose qualified name a glob matches."""
    return Selection((Clause(holds=(glob,)),))


def with_ndim(test: Any) -> Selection:
    """The parameters whose number of dimensions satisfies a test."""
    allowed = tuple(n for n in _DIMENSIONS if test(n))
    if len(allowed) in (0, len(_DIMENSIONS)):
        return EVERYTHING if allowed else Selection(())
    return Selection((Clause(ndim=allowed),))


def literal(text: str) -> str:
    """A glob that matches a text and nothing else.

    Example:
        >>> literal("a[0]*")
        'a[[]0][*]'
    """
    return re.sub(r"([*?\[])", r"[\1]", text)


def overlap(one: Selection, other: Selection) -> str | None:
    """A glob whose parameters are in both for sure, where there is one; lists of names are not compared."""
    if len(one.clauses) * len(other.clauses) > _MOST_CLAUSES:
        return None
    for a, b in itertools.product(one.clauses, other.clauses):
        if a.fails or b.fails or a.ndim or b.ndim or len(a.globs()) > 1 or len(b.globs()) > 1:
            continue
        first, second = (clause.globs()[0] if clause.globs() else "*" for clause in (a, b))
        if _follows(first, second) or _follows(second, first):
            return max(first, second, key=len)
    return None


def _one_or_all(items: Sequence[Any]) -> Any:
    return items[0] if len(items) == 1 else [*items]


def _limited(clauses: tuple[Clause, ...]) -> Selection:
    if len(clauses) <= 4 * _MOST_CLAUSES:
        kept: list[Clause] = []
        for clause in sorted(clauses, key=lambda one: len(one.holds) + len(one.fails)):  # the widest first
            if not any(clause.within(other) for other in kept):
                kept.append(clause)
        widest = {*kept}
        clauses = tuple(clause for clause in clauses if clause in widest)
    if len(clauses) > _MOST_CLAUSES:
        do = "hand over the optimiser itself, made over model.named_parameters()"
        raise SolverError("optimizer", "chooses its parameters in too many ways at once", do=do)
    return Selection(clauses)


def _follows(narrow: str, wide: str) -> bool:
    """Whether what the one glob matches is matched by the other: ``backbone.*bias`` by ``backbone.*``.

    It is known for sure where the one is a name without wildcards.
    """
    if _is_name(narrow):
        return re.match(_regex(wide), re.sub(r"\[(.)\]", r"\1", narrow)) is not None
    text = wide.removeprefix("*").removesuffix("*")
    if wide == narrow or "*" in text or "[" in text + narrow:
        return wide == narrow
    if wide.startswith("*"):
        return text in narrow if wide.endswith("*") else narrow.endswith(text)
    return wide.endswith("*") and narrow.startswith(text)


def _is_name(glob: str) -> bool:
    return "*" not in glob.replace("[*]", "")


def _regex(glob: str) -> str:
    """A regular expression for the rest of a name: ``*`` as ``.*``, ``[?]`` as the character itself."""
    parts = re.findall(r"\[(.)\]|(\*)|([^*\[]+)", glob)
    pattern = "".join(".*" if star else re.escape(single or text) for single, star, text in parts)
    return pattern[:-2] if pattern.endswith(".*") else f"{pattern}$"
